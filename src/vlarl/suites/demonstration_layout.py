"""What a demonstration file in LIBERO's HDF5 layout says about itself, and what its rows mean.

Three kinds of files are read; they differ in ways that nothing in the layout names:

* LIBERO's own (``scripts/create_dataset.py`` of Lifelong-Robot-Learning/LIBERO, ``tag: libero-v1``): 128 x 128 images,
  bottom row first, which is robosuite's ``opengl`` convention. Row t of ``states`` precedes action t, but row t of
  ``obs`` was read after action t: the script appends what ``env.step`` returned. So ``obs[t]`` goes with
  ``actions[t + 1]``. The first five steps of every episode were cut off.
* Those that OpenVLA replayed (``experiments/robot/libero/regenerate_libero_dataset.py`` of openvla/openvla): 256 x 256,
  ``obs`` before the action of its row, no attributes, so that only the file's name tells the task.
* Those of ``vlarl collect``: ``obs`` before the action of its row.

OpenVLA's data and evaluation turn robosuite's image by 180 degrees, which makes it upright and mirrored; policies here
see the same. Actions are in all three robosuite's OSC_POSE deltas in [-1, 1] with the gripper last, -1 open, +1 close.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np

from vlarl.errors import AssetError
from vlarl.recipe.specs.suites import libero_tasks
from vlarl.suites.hdf5_probe import vet
from vlarl.types import EpisodeSpec, Split

# What h5py, numpy and json raise over a file that is damaged or of another layout.
_UNREADABLE = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError)

ACTION_DIM = 7
MAX_SIGNAL_BYTES, MAX_IMAGE_BYTES = 256 << 20, 4 << 30  # of one episode
_ROBOT, _CONTROLLER = "Panda", "OSC_POSE"
_JOINTS = slice(1, 8)  # of a flattened state: the time, then the arm's seven joints, which robosuite puts first
_NO_SIGNALS = ("_rgb", "_depth", "_seg")  # endings of other cameras' arrays


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a file says of its recording."""

    suite: Mapping[str, Any]  # fields of a suite's spec, ``kind`` among them; ``name`` where it is known
    task: str | None  # its name, where it is known
    instruction: str
    bottom_up: bool  # whether images are stored bottom row first
    ours: bool  # written by `vlarl collect`


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """The file at ``path``; whatever is off inside the block is AssetError R311, or R316 for another robot's."""
    with _unreadable(path), h5py.File(path, "r") as file:
        yield file


def vet_demonstrations(files: Sequence[Path]) -> None:
    """AssetError R311 unless files that somebody else may have made can be read without harm."""
    for path in files:
        with _unreadable(path):
            vet(path)


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise AssetError(
            f"{path} is not a readable LIBERO demonstration file: {error}",
            code="R311",
            place=str(path),
            hint="download it again, or record anew with `vlarl collect`; one in the cache is recorded again once its "
            "folder is deleted",
        ) from error


def demo_names(file: h5py.File) -> list[str]:
    """Groups of the episodes, ``demo_10`` after ``demo_9``."""
    return sorted(file["data"], key=lambda name: int(name.removeprefix("demo_")))


def read_source(file: h5py.File, path: Path) -> Source:
    """AssetError R316 where robot or controller are not LIBERO's; ValueError and the like over damage."""
    attributes = {name: _text(value) for name, value in file["data"].attrs.items()}
    arguments = json.loads(attributes.get("env_args", "{}"))
    environment = arguments.get("env_kwargs", {})
    _check_robot(environment, path)
    problem = json.loads(attributes["problem_info"]) if "problem_info" in attributes else {}
    convention = attributes.get("macros_image_convention", "opengl")
    if convention not in ("opengl", "opencv"):
        raise ValueError(f"macros_image_convention is {convention!r}, neither opengl nor opencv")
    if "kind" in environment:
        suite = {key: value for key, value in environment.items() if key not in _NOT_OF_THE_SUITE}
        task: str | None = str(problem["problem_name"])
    else:
        names = (attributes.get("bddl_file_name", ""), arguments.get("bddl_file", ""), path.name)
        suite, task = _libero_task([Path(name).stem.removesuffix("_demo") for name in names])
    if "language_instruction" in problem:
        instruction = str(problem["language_instruction"])
    elif task is not None and "problem_info" not in attributes:
        instruction = libero_tasks()[suite["name"]][task]
    else:
        raise ValueError("no problem_info tells the instruction, and the file's name is not that of a LIBERO task")
    return Source(
        suite=suite,
        task=task,
        instruction=instruction,
        bottom_up=convention == "opengl",
        ours="kind" in environment,
    )


_NOT_OF_THE_SUITE = {"camera_heights", "camera_widths", "control_freq"}


def _libero_task(candidates: list[str]) -> tuple[dict[str, str], str | None]:
    """The first of the names that LIBERO knows. Early files name a task's BDDL file as it was called before release."""
    for candidate in candidates:
        for suite, tasks in libero_tasks().items():
            if candidate in tasks:
                return {"kind": "libero", "name": suite}, candidate
    return {"kind": "libero"}, None


def _check_robot(environment: Mapping[str, Any], path: Path) -> None:
    robots, controller = environment.get("robots", [_ROBOT]), environment.get("controller_configs", {})
    robots = [robots] if isinstance(robots, str) else list(robots)
    if robots != [_ROBOT]:
        raise another_robot(path, f"the robot {', '.join(map(str, robots)) or 'of no name'}, not one {_ROBOT}")
    kind = controller.get("type", _CONTROLLER)
    if kind != _CONTROLLER or not controller.get("control_delta", True):
        how = kind if kind != _CONTROLLER else "absolute poses"
        raise another_robot(path, f"a {_ROBOT} under {how}, not under {_CONTROLLER} with deltas")


def another_robot(path: Path, what: str) -> AssetError:
    return AssetError(
        f"{path} holds demonstrations of {what}",
        code="R316",
        place=str(path),
        hint=f"use demonstrations of LIBERO's {_ROBOT} under {_CONTROLLER}, whose actions are 7 numbers, or record "
        "some with `vlarl collect`",
    )


def check_actions(actions: h5py.Dataset, path: Path) -> None:
    """AssetError R316 for actions (T, n) of another length than 7."""
    if actions.ndim == 2 and actions.shape[1] != ACTION_DIM:
        raise another_robot(path, f"actions of {actions.shape[1]} numbers, not {ACTION_DIM}")


def seen_by_policies(images: np.ndarray, *, bottom_up: bool) -> np.ndarray:
    """Stored images (T, H, W, 3) as OpenVLA's data and every policy here have them: upright, left and right swapped."""
    return np.ascontiguousarray(images[:, ::-1, ::-1] if bottom_up else images[:, :, ::-1])


def signals_of(group: h5py.Group, length: int) -> dict[str, np.ndarray]:
    """Low-dimensional arrays (T, ...) by name, ``states`` among them; ValueError where one has another length."""
    stored = {name: values for name, values in group["obs"].items() if not name.endswith(_NO_SIGNALS)}
    if "states" in group:
        stored["states"] = group["states"]
    for name, values in stored.items():
        if values.nbytes > MAX_SIGNAL_BYTES:
            raise ValueError(f"{name} of one episode takes {values.nbytes} bytes")
    signals = {name: np.asarray(values) for name, values in stored.items()}
    for name, values in signals.items():
        if len(values) != length:
            raise ValueError(f"{name} has {len(values)} rows beside {length} actions")
    return signals


def recorded_spec(group: h5py.Group) -> EpisodeSpec | None:
    """The episode's as `vlarl collect` wrote it; ValueError where it is none."""
    if "episode" not in group.attrs:
        return None
    fields = json.loads(group.attrs["episode"])
    spec = EpisodeSpec(**fields)
    numbers = (spec.task, spec.init, spec.seed)
    if spec.split not in get_args(Split) or not all(type(each) is int and each >= 0 for each in numbers):
        raise ValueError(f"its episode {fields} is none")
    return spec


def observed_after(source: Source, signals: Mapping[str, np.ndarray], *, is_libero: bool) -> bool:
    """Whether row t of the observations was read after action t, as in LIBERO's own files.

    Measured where the file has what it takes: the arm's observed joints lie near those of the state before the action
    or near those of the next one. Otherwise ``is_libero``: whether the file carries LIBERO's own attributes.
    """
    if source.ours:
        return False
    joints, states = signals.get("joint_states"), signals.get("states")
    if joints is None or states is None or len(states) < 2 or joints.shape[1:] != (7,) or states.shape[1] < 8:
        return is_libero
    before = np.abs(joints[:-1] - states[:-1, _JOINTS]).mean()
    after = np.abs(joints[:-1] - states[1:, _JOINTS]).mean()
    return is_libero if before == after else bool(after < before)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
