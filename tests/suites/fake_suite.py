"""A suite of pure arithmetic: deterministic, fast, and able to fail on request."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from vlarl.errors import EnvironmentUnusable, RunError
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.suites.protocol import Conventions, Expert, Outcome, Simulation
from vlarl.types import EpisodeSpec, Split, Task

IMAGE_SIZE = 8
HORIZONS = (5, 7, 9)
FAULTS = ("raise", "kill", "hang", "raise_begin", "kill_begin", "drift")


class FakeSpec(SuiteSpec):
    """``fault`` happens in episodes of init ``fault_init`` at step ``fault_step``, ``fault_times`` times."""

    target: ClassVar[str] = "fake_suite:FakeSuite"

    kind: Literal["fake"] = "fake"
    name: str = "fake"
    fault: str | None = None
    fault_init: int = 3
    fault_step: int = 2
    fault_times: int = 1
    folder: str | None = None  # counts the faults across processes
    unusable: bool = False


class FakeSimulation:
    def __init__(self, task: Task, spec: FakeSpec) -> None:
        self.task = task
        self._spec = spec
        self._state = np.zeros(4)
        self._episode = EpisodeSpec(task=0, split="train", init=0, seed=0)
        self._steps = 0

    def begin(self, spec: EpisodeSpec) -> None:
        self._fail("begin", spec)
        self._episode = spec
        self._steps = 0
        key = f"{spec.task}/{spec.split}/{spec.init}/{spec.seed}".encode()
        self._state = np.frombuffer(hashlib.sha256(key).digest(), dtype=np.uint32)[:4] / 2.0**32

    def advance(self, action: np.ndarray) -> Outcome:
        if self._steps == self._spec.fault_step:
            self._fail("", self._episode)
        self._state = np.tanh(self._state * 1.3 + np.resize(action.astype(np.float64), 4) * 0.5 + 0.1 * self.task.index)
        self._steps += 1
        terminated = bool(self._state[0] > 0.93)
        return Outcome(
            terminated=terminated,
            truncated=self._steps >= self.task.horizon and not terminated,
            gripper_opening=float(abs(self._state[1])),
            eef_speed=float("torch" in sys.modules or "transformers" in sys.modules),
        )

    def render_into(self, image: np.ndarray) -> None:
        assert image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert image.dtype == np.uint8
        image[:] = np.resize((np.abs(self._state) * 255).astype(np.uint8), image.shape)

    def state_digest(self) -> bytes:
        return hashlib.blake2b(self._state.tobytes() + bytes([self._steps]), digest_size=16).digest()

    def goal_distance(self) -> float:
        return 2.0 - float(self._state[0]) - 0.01 * self._steps

    def close(self) -> None:
        pass

    def _fail(self, moment: str, episode: EpisodeSpec) -> None:
        spec = self._spec
        if spec.fault is None or spec.folder is None or episode.init != spec.fault_init:
            return
        kind, _, where = spec.fault.partition("_")
        seen = len(list(Path(spec.folder).iterdir()))
        if where != moment or seen >= spec.fault_times:
            return
        (Path(spec.folder) / f"{seen}-{os.getpid()}").touch()
        if kind == "raise":
            raise ArithmeticError("planted")
        if kind == "diverge":
            raise RunError("planted", code="X530", hint="none")
        if kind == "drift":
            self._state = self._state + 1.0
        elif kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            signal.pause()


class FakeSuite:
    name = "fake"
    conventions = Conventions(action="any", action_dim=7, control_hz=20.0, image="stripes", image_size=IMAGE_SIZE)

    def __init__(self, spec: FakeSpec) -> None:
        if spec.unusable:
            raise EnvironmentUnusable("no renderer", code="E410", hint="install one")
        self._spec = spec

    def tasks(self) -> tuple[Task, ...]:
        return tuple(
            Task(suite="fake", index=index, name=f"task_{index}", instruction=f"do {index}", horizon=horizon)
            for index, horizon in enumerate(HORIZONS)
        )

    def num_inits(self, task: int, split: Split) -> int:
        return 100

    def simulation(self, task: int) -> FakeSimulation:
        return FakeSimulation(self.tasks()[task], self._spec)

    def expert(self, simulation: Simulation) -> Expert:
        raise NotImplementedError

    def has_expert(self, task: int) -> bool:
        return False

    def demonstration_arrays(self, simulation: Simulation) -> dict[str, np.ndarray]:
        raise NotImplementedError


def tasks() -> tuple[Task, ...]:
    return FakeSuite(FakeSpec()).tasks()


def assign(slot: int, index: int) -> EpisodeSpec | None:
    """Endless episodes; slot 1 runs out after three."""
    if slot == 1 and index >= 3:
        return None
    return EpisodeSpec(task=(slot + index) % 3, split="train", init=(slot * 7 + index) % 11, seed=slot * 1000 + index)
