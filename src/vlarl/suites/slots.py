"""Where a slot is, as a checkpoint stores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlarl.suites.shared import ACTION_SIZE, DIGEST_SIZE, decode_spec, encode_spec
from vlarl.types import EpisodeSpec


@dataclass(frozen=True, kw_only=True)
class SlotState:
    """All it takes to bring a slot back to where it is."""

    spec: EpisodeSpec | None  # None: idle
    index: int  # episodes this slot has finished
    actions: np.ndarray  # (k, 7) float32, of the present episode
    digest: bytes  # 16, simulator state after them; zeros where the episode could not begin


def pack_slots(slots: Sequence[SlotState]) -> dict[str, np.ndarray]:
    """The states of N slots as arrays.

    ``specs`` (N, 4) int64, ``running`` (N,) bool, ``index`` (N,) int64, ``lengths`` (N,) int64,
    ``actions`` (sum of lengths, 7) float32, ``digests`` (N, 16) uint8.
    """
    return {
        "specs": np.array([encode_spec(s.spec) if s.spec else (0, 0, 0, 0) for s in slots], dtype=np.int64).reshape(
            -1, 4
        ),
        "running": np.array([s.spec is not None for s in slots], dtype=bool),
        "index": np.array([s.index for s in slots], dtype=np.int64),
        "lengths": np.array([len(s.actions) for s in slots], dtype=np.int64),
        "actions": np.concatenate([np.zeros((0, ACTION_SIZE), np.float32), *(s.actions for s in slots)]),
        "digests": np.frombuffer(b"".join(s.digest for s in slots), dtype=np.uint8).reshape(-1, DIGEST_SIZE),
    }


def unpack_slots(arrays: Mapping[str, np.ndarray]) -> list[SlotState]:
    """Inverse of ``pack_slots``."""
    ends = np.cumsum(arrays["lengths"])
    starts = ends - arrays["lengths"]
    return [
        SlotState(
            spec=decode_spec(arrays["specs"][slot]) if arrays["running"][slot] else None,
            index=int(arrays["index"][slot]),
            actions=arrays["actions"][starts[slot] : ends[slot]].copy(),
            digest=arrays["digests"][slot].tobytes(),
        )
        for slot in range(len(starts))
    ]
