"""LIBERO behind the suite protocol: its five suites of tasks, official init states and sampled placements."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from vlarl.errors import RecipeError
from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.libero.install import HORIZONS, NUM_OFFICIAL, LiberoTask, tasks_of
from vlarl.suites.protocol import Conventions, Expert, Simulation
from vlarl.suites.renderer import choose_renderer
from vlarl.types import Split, Task

if TYPE_CHECKING:  # imports MuJoCo, which must come after the choice of renderer
    from vlarl.suites.libero.simulation import LiberoSimulation
    from vlarl.suites.libero.stage import Stage

NUM_SAMPLED = 10_000  # placements to train on


class LiberoSuite:
    """Tasks of ``spec.name``, or the ones the spec selects, in the spec's order.

    Compiles each task once, when an episode of it first begins, and shares it among the simulations it makes.
    """

    def __init__(self, spec: LiberoSpec) -> None:
        self.renderer = choose_renderer(spec.renderer)
        self.name: str = spec.name
        self.conventions = Conventions(
            action="delta_xyz, delta_axis_angle, gripper(-1 open, +1 close)",
            action_dim=7,
            control_hz=20.0,
            image="agentview rgb, turned by 180 degrees",
            image_size=spec.image_size,
            settle_steps=10,
        )
        self._spec = spec
        self._rows = select(tasks_of(spec.name), spec.tasks)
        self._stages: OrderedDict[str, Stage] = OrderedDict()

    def tasks(self) -> tuple[Task, ...]:
        horizon = HORIZONS[self.name]
        return tuple(
            Task(suite=self.name, index=index, name=row.name, instruction=row.language, horizon=horizon)
            for index, row in enumerate(self._rows)
        )

    def num_inits(self, task: int, split: Split) -> int:
        assert 0 <= task < len(self._rows), task
        return NUM_OFFICIAL if split == "eval" or self._spec.init_states == "official" else NUM_SAMPLED

    def simulation(self, task: int) -> LiberoSimulation:
        from vlarl.suites.libero.simulation import LiberoSimulation, Starts

        starts = Starts(
            self.name,
            train_on_official=self._spec.init_states == "official",
            fixtures_vary=self._spec.fixtures == "official_sequence",
        )
        return LiberoSimulation(
            self.tasks()[task],
            self._stage(self._rows[task]),
            starts,
            image_size=self._spec.image_size,
            quality=self._spec.render_quality,
        )

    def expert(self, simulation: Simulation) -> Expert:
        from vlarl.suites.libero.experts import LiberoExpert

        own = _own(simulation)
        return LiberoExpert(own.sight(), self.name, own.task.name)

    def demonstration_arrays(self, simulation: Simulation) -> dict[str, np.ndarray]:
        """LIBERO's names; ``states`` is the flattened simulator state."""
        return _own(simulation).low_dimensional()

    def _stage(self, row: LiberoTask) -> Stage:
        from vlarl.suites.libero.stage import Stage

        if row.name not in self._stages:
            self._stages[row.name] = Stage(row)
        return self._stages[row.name]


def select(rows: tuple[LiberoTask, ...], wanted: list[int | str] | None) -> tuple[LiberoTask, ...]:
    """The tasks of a suite that a recipe names, by name or by their number in the suite."""
    if wanted is None:
        return rows
    known = {row.name: row for row in rows}
    chosen = []
    for name in wanted:
        if isinstance(name, int) and 0 <= name < len(rows):
            chosen.append(rows[name])
        elif name in known:
            chosen.append(known[str(name)])
        else:
            close = difflib.get_close_matches(str(name), known, n=1)
            raise RecipeError(
                f"no task is called `{name}`",
                code="R206",
                place="suite.tasks",
                hint=f"did you mean `{close[0]}`?"
                if close
                else f"a number from 0 to {len(rows) - 1}, or one of " + ", ".join(known),
            )
    return tuple(chosen)


def _own(simulation: Simulation) -> LiberoSimulation:
    from vlarl.suites.libero.simulation import LiberoSimulation

    assert isinstance(simulation, LiberoSimulation), simulation
    return simulation
