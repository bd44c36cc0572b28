"""Arrays in memory that the trainer and its simulator processes share.

The memory is a memfd: it has no name, so nothing stays behind when every process is killed, and
a small /dev/shm (64 MB in many containers) does not limit it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from typing import NamedTuple, get_args

import numpy as np

from vlarl.types import ACTION_SIZE, EpisodeSpec, Split

__all__ = ["ACTION_SIZE", "DIGEST_SIZE", "SharedArrays", "Sizes", "decode_spec", "encode_spec"]

DIGEST_SIZE = 16
_SPLITS: tuple[Split, ...] = get_args(Split)
_ALIGNMENT = 64  # a cache line: workers never write into each other's


class Sizes(NamedTuple):
    """What the layout depends on."""

    num_slots: int  # N
    num_workers: int  # W
    image_size: int  # H
    capacity: int  # longest horizon of any task, in control steps


class SharedArrays:
    """Views of the shared memory. Who writes what is fixed, so that no lock is needed.

    Trainer: ``history, length, num_pending, running, spec, next_spec, has_next, doomed``, always while no step of
    that slot is pending. Worker: all others, and ``doomed`` of an episode that cannot begin.
    """

    frames: np.ndarray  # (N, H, H, 3) uint8, what the policy sees next
    final_images: np.ndarray  # (N, H, H, 3) uint8, last view of an episode that ended in this step
    history: np.ndarray  # (N, capacity, 7) float32, actions of the present episode, pending ones included
    length: np.ndarray  # (N,) int32, actions whose step is complete
    num_pending: np.ndarray  # (N,) int32, actions to carry out in this step, until the episode ends
    num_taken: np.ndarray  # (N,) int32, how many of them were
    running: np.ndarray  # (N,) bool, False: idle
    spec: np.ndarray  # (N, 4) int64, present episode
    next_spec: np.ndarray  # (N, 4) int64, begins when the present one ends
    has_next: np.ndarray  # (N,) bool
    doomed: np.ndarray  # (N,) bool, the present episode cannot be run: its next step is errored
    next_doomed: np.ndarray  # (N,) bool, the same for the episode that begins in this step
    began_next: np.ndarray  # (N,) bool, this step had passed on to the next episode
    terminated: np.ndarray  # (N,) bool
    truncated: np.ndarray  # (N,) bool
    errored: np.ndarray  # (N,) bool
    gripper_opening: np.ndarray  # (N,) float32
    eef_speed: np.ndarray  # (N,) float32
    step_goal_distance: np.ndarray  # (N,) float32, after the step, before any reset; NaN where the suite has none
    goal_distance: np.ndarray  # (N,) float32, now: after the reset where there was one
    step_digest: np.ndarray  # (N, 16) uint8, state after the step, before any reset
    present_digest: np.ndarray  # (N, 16) uint8, state now: after the reset where there was one
    seconds: np.ndarray  # (W, 2) float64, simulate and render, summed
    progress: np.ndarray  # (W,) int64, slots dealt with: tells slow from stuck

    def __init__(self, sizes: Sizes, descriptor: int | None = None) -> None:
        self.sizes = sizes
        layout = _layout(sizes)
        total = sum(_padded(shape, dtype) for shape, dtype in layout.values())
        if descriptor is None:
            descriptor = os.memfd_create("vlarl-pool")
            os.ftruncate(descriptor, total)
        self.descriptor = descriptor
        buffer = mmap.mmap(descriptor, total)
        offset = 0
        for name, (shape, dtype) in layout.items():
            setattr(self, name, np.ndarray(shape, dtype, buffer=buffer, offset=offset))
            offset += _padded(shape, dtype)

    def close(self) -> None:
        """Give the memory back; every view is gone after this."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            for name in _layout(self.sizes):
                delattr(self, name)


def encode_spec(spec: EpisodeSpec) -> tuple[int, int, int, int]:
    return (spec.task, _SPLITS.index(spec.split), spec.init, spec.seed)


def decode_spec(row: np.ndarray) -> EpisodeSpec:
    return EpisodeSpec(task=int(row[0]), split=_SPLITS[int(row[1])], init=int(row[2]), seed=int(row[3]))


def _layout(sizes: Sizes) -> Mapping[str, tuple[tuple[int, ...], np.dtype]]:
    slots, workers, side, capacity = sizes
    image, flag, digest = (slots, side, side, 3), ((slots,), np.dtype(bool)), ((slots, DIGEST_SIZE), np.dtype(np.uint8))
    number, spec = ((slots,), np.dtype(np.float32)), ((slots, 4), np.dtype(np.int64))
    return {
        "frames": (image, np.dtype(np.uint8)),
        "final_images": (image, np.dtype(np.uint8)),
        "history": ((slots, capacity, ACTION_SIZE), np.dtype(np.float32)),
        "length": ((slots,), np.dtype(np.int32)),
        "num_pending": ((slots,), np.dtype(np.int32)),
        "num_taken": ((slots,), np.dtype(np.int32)),
        "running": flag,
        "spec": spec,
        "next_spec": spec,
        "has_next": flag,
        "doomed": flag,
        "next_doomed": flag,
        "began_next": flag,
        "terminated": flag,
        "truncated": flag,
        "errored": flag,
        "gripper_opening": number,
        "eef_speed": number,
        "step_goal_distance": number,
        "goal_distance": number,
        "step_digest": digest,
        "present_digest": digest,
        "seconds": ((workers, 2), np.dtype(np.float64)),
        "progress": ((workers,), np.dtype(np.int64)),
    }


def _padded(shape: tuple[int, ...], dtype: np.dtype) -> int:
    size = int(np.prod(shape)) * dtype.itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT
