"""A point that a scripted expert drives to a goal: arithmetic only, with pictures and LIBERO's signals."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Literal

import numpy as np

from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.suites.protocol import Conventions, Expert, Outcome, Simulation
from vlarl.types import EpisodeSpec, Split, Task

IMAGE_SIZE = 8
STEP = 0.1  # metres per control step at full deflection
REACHED = 0.02
NUM_INITS = 6


class ScriptedSpec(SuiteSpec):
    """``bad_inits``: the expert stands still there. ``breaks_at``: the simulator raises at that step."""

    target: ClassVar[str] = "scripted_suite:ScriptedSuite"

    kind: Literal["scripted"] = "scripted"
    name: str = "scripted"
    bad_inits: list[int] = []  # noqa: RUF012  pydantic copies defaults
    breaks_at: int | None = None


class ScriptedSimulation:
    def __init__(self, task: Task, spec: ScriptedSpec) -> None:
        self.task = task
        self.spec = spec
        self.init = 0
        self.place = np.zeros(3)
        self.goal = np.zeros(3)
        self._steps = 0

    def begin(self, spec: EpisodeSpec) -> None:
        key = f"{spec.task}/{spec.split}/{spec.init}/{spec.seed}".encode()
        drawn = np.frombuffer(hashlib.sha256(key).digest(), np.uint32)[:6] / 2.0**32
        self.place, self.goal = drawn[:3].copy(), drawn[3:].copy()
        self.init, self._steps = spec.init, 0

    def advance(self, action: np.ndarray) -> Outcome:
        if self._steps == self.spec.breaks_at:
            raise ArithmeticError("planted")
        self.place = self.place + STEP * action[:3].astype(np.float64)
        self._steps += 1
        terminated = bool(np.abs(self.goal - self.place).max() < REACHED)
        truncated = self._steps >= self.task.horizon and not terminated
        return Outcome(terminated=terminated, truncated=truncated, gripper_opening=1.0, eef_speed=0.0)

    def render_into(self, image: np.ndarray) -> None:
        """No two pixels alike, so that a turned or shifted image shows."""
        side = image.shape[0]
        image[:] = (np.arange(side * side * 3).reshape(side, side, 3) + 31 * self._steps + 97 * self.init) % 251

    def state_digest(self) -> bytes:
        return hashlib.blake2b(self.place.tobytes(), digest_size=16).digest()

    def close(self) -> None:
        pass


class ScriptedExpert:
    def __init__(self, simulation: ScriptedSimulation) -> None:
        self._simulation = simulation

    def act(self) -> np.ndarray:
        return expert_action(self._simulation.goal - self._simulation.place, self._simulation)


def expert_action(away: np.ndarray, simulation: ScriptedSimulation) -> np.ndarray:
    """What the expert does that far from the goal."""
    action = np.zeros(7, np.float32)
    action[6] = -1.0
    if simulation.init not in simulation.spec.bad_inits:
        action[:3] = np.clip(away / STEP, -1.0, 1.0)
    return action


class ScriptedSuite:
    name = "scripted"
    conventions = Conventions(action="any", action_dim=7, control_hz=20.0, image="stripes", image_size=IMAGE_SIZE)

    def __init__(self, spec: ScriptedSpec) -> None:
        self._spec = spec

    def tasks(self) -> tuple[Task, ...]:
        return tuple(
            Task(suite="scripted", index=index, name=f"go_{index}", instruction=f"go there {index}", horizon=40)
            for index in range(2)
        )

    def num_inits(self, task: int, split: Split) -> int:
        return NUM_INITS

    def simulation(self, task: int) -> ScriptedSimulation:
        return ScriptedSimulation(self.tasks()[task], self._spec)

    def expert(self, simulation: Simulation) -> Expert:
        assert isinstance(simulation, ScriptedSimulation)
        return ScriptedExpert(simulation)

    def has_expert(self, task: int) -> bool:
        return True

    def demonstration_arrays(self, simulation: Simulation) -> dict[str, np.ndarray]:
        assert isinstance(simulation, ScriptedSimulation)
        place = simulation.place
        return {
            "ee_pos": place.copy(),
            "ee_states": np.concatenate([place, np.zeros(3)]),
            "gripper_states": np.array([0.04, -0.04]),
            "states": np.concatenate([place, simulation.goal]),
        }
