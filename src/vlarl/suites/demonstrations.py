"""Demonstrations on disk, in LIBERO's own HDF5 layout: one file per task.

``data/demo_i/{actions, executed_actions, states, rewards, dones, obs/{agentview_rgb, ee_pos, ...}}``.
LIBERO stores agentview turned by 180 degrees from what policies see; so does this, and the reader turns it
back. ``actions`` is what to imitate; where noise was injected ``executed_actions`` is what moved the robot.
What files of others mean is in ``demonstration_layout``.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vlarl.errors import AssetError
from vlarl.run.files import sync_folder
from vlarl.suites.demonstration_layout import (
    ACTION_DIM,
    MAX_IMAGE_BYTES,
    Source,
    check_actions,
    demo_names,
    observed_after,
    read_source,
    reading,
    recorded_spec,
    seen_by_policies,
    signals_of,
)
from vlarl.types import Task, Trajectory

_SPARE = 16 << 20  # bytes: what HDF5 may still hold back in its caches


def _need_space(folder: Path, size: int) -> None:
    """OSError unless ``size`` bytes fit. Asked beforehand, because on a full disk HDF5 crashes the process."""
    room, (largest, _) = os.statvfs(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    if room.f_bavail * room.f_frsize < size + _SPARE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if largest != resource.RLIM_INFINITY and largest < size + _SPARE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


@contextmanager
def _system_errors() -> Iterator[None]:
    """HDF5 tells what the system refused, a full disk for example, inside its message only."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


class DemonstrationWriter:
    """Writes one task's file, an episode at a time; nothing appears under the final name before ``commit``."""

    def __init__(self, path: Path, task: Task, *, suite: dict[str, Any], control_hz: float, image_size: int) -> None:
        self._path, self._partial = path, path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        _need_space(path.parent, 0)
        self._file = h5py.File(self._partial, "w")
        self._data = self._file.create_group("data")
        environment = {
            "env_name": task.suite,
            "type": 1,
            "env_kwargs": {
                "camera_heights": image_size,
                "camera_widths": image_size,
                "control_freq": control_hz,
                **suite,
            },
        }
        self._data.attrs["env_args"] = json.dumps(environment, sort_keys=True)
        self._data.attrs["env_name"] = task.suite
        self._data.attrs["problem_info"] = json.dumps(
            {"problem_name": task.name, "domain_name": "robosuite", "language_instruction": task.instruction}
        )
        self._data.attrs["macros_image_convention"] = "opengl"
        self._num_demos, self._total = 0, 0

    @_system_errors()
    def add(self, trajectory: Trajectory) -> None:
        _need_space(self._path.parent, trajectory.images.nbytes)
        group = self._data.create_group(f"demo_{self._num_demos}")
        length = len(trajectory.actions)
        group.attrs["num_samples"] = length
        if trajectory.spec is not None:
            group.attrs["episode"] = json.dumps(asdict(trajectory.spec))
        group["actions"] = trajectory.actions.astype(np.float64)
        group["executed_actions"] = trajectory.executed.astype(np.float64)
        ended = np.zeros(length, np.uint8)
        ended[-1] = trajectory.success
        group["rewards"], group["dones"] = ended, ended
        signals = dict(trajectory.signals)
        if "states" in signals:
            states = signals.pop("states")
            group["states"] = states
            group.attrs["init_state"] = states[0]
        observations = group.create_group("obs")
        turned = trajectory.images[:, ::-1, ::-1]
        observations.create_dataset("agentview_rgb", data=turned, compression="gzip", compression_opts=1, chunks=True)
        for name, values in signals.items():
            observations[name] = values
        self._num_demos += 1
        self._total += length

    @_system_errors()
    def commit(self) -> None:
        self._data.attrs["num_demos"], self._data.attrs["total"] = self._num_demos, self._total
        self._file.close()
        with self._partial.open("rb") as stream:
            os.fsync(stream.fileno())
        self._partial.replace(self._path)
        sync_folder(self._path.parent)

    def abandon(self) -> None:
        with suppress(OSError, RuntimeError):  # what cannot be flushed is not wanted anyway
            self._file.close()
        self._partial.unlink(missing_ok=True)


def demonstration_files(source: Path) -> list[Path]:
    """HDF5 files at ``source``, a file or a folder; AssetError when there is none, or one is no file."""
    if not os.path.exists(source):  # Path.exists raises OSError for a name that is too long
        raise AssetError(
            f"no demonstrations at {source}",
            code="R310",
            hint="`vlarl collect RECIPE --out DIR` records the scripted experts",
        )
    files = sorted(source.glob("*.hdf5")) if source.is_dir() else [source]
    if not files:
        raise AssetError(f"{source} holds no .hdf5 file", code="R310", hint="name a folder written by `vlarl collect`")
    for path in files:
        if not path.is_file():  # whoever opens a pipe waits for ever
            hint = "remove it from the folder" if path != source else "name a file, or a folder of files"
            raise AssetError(f"{path} is not a readable demonstration file: it is no file", code="R311", hint=hint)
    return files


def read_trajectories(path: Path, *, images: bool = True) -> Iterator[Trajectory]:
    """The episodes of one file, in their order, one in memory at a time, images and actions aligned.

    Without ``images`` none are decoded, and the trajectories have arrays of none, (0, H, W, 3). AssetError R311 where
    the file is damaged, R316 where it is another robot's.
    """
    with reading(path) as file:
        source = read_source(file, path)
        is_libero = "bddl_file_name" in file["data"].attrs
        for name in demo_names(file):
            check_actions(file["data"][name]["actions"], path)
            yield _read_trajectory(file["data"][name], source, is_libero=is_libero, images=images)


def _read_trajectory(group: h5py.Group, source: Source, *, is_libero: bool, images: bool) -> Trajectory:
    length = _check_shapes(group)
    actions = np.asarray(group["actions"], np.float32)
    executed = np.asarray(group["executed_actions"], np.float32) if "executed_actions" in group else actions
    if not (np.isfinite(actions).all() and np.isfinite(executed).all()):
        raise ValueError("an action is not a number")
    signals = signals_of(group, length)
    seen, acted, states = slice(None), slice(None), signals.pop("states", None)
    if observed_after(source, signals if states is None else {**signals, "states": states}, is_libero=is_libero):
        if length < 2:
            raise ValueError("one step alone, whose image was taken after it")
        seen, acted = slice(None, -1), slice(1, None)  # what was seen after action t precedes action t + 1
    signals = {name: values[seen] for name, values in signals.items()}
    pictures = np.asarray(group["obs"]["agentview_rgb"][seen if images else slice(0)])
    if states is not None:
        signals["states"] = states[acted]
    return Trajectory(
        instruction=source.instruction,
        images=seen_by_policies(pictures, bottom_up=source.bottom_up),
        actions=actions[acted],
        executed=executed[acted],
        signals=signals,
        spec=recorded_spec(group),
        success=bool(group["dones"][-1]) if "dones" in group else True,
    )


def _check_shapes(group: h5py.Group) -> int:
    """T of a demonstration, from the headers alone; ValueError where they do not fit each other."""
    actions, images = group["actions"], group["obs"]["agentview_rgb"]
    length = actions.shape[0]
    if actions.shape != (length, ACTION_DIM) or length == 0:
        raise ValueError(f"actions of shape {actions.shape}, not (T, {ACTION_DIM})")
    if images.ndim != 4 or images.shape[0] != length or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"agentview_rgb of shape {images.shape} {images.dtype} beside {length} actions")
    if images.nbytes > MAX_IMAGE_BYTES:
        raise ValueError(f"agentview_rgb of one episode takes {images.nbytes} bytes")
    for name, shape in (("executed_actions", (length, ACTION_DIM)), ("dones", (length,))):
        if name in group and group[name].shape != shape:
            raise ValueError(f"{name} of shape {group[name].shape}, not {shape}")
    return int(length)
