"""LIBERO behind the suite protocol: its five suites of tasks, official init states and sampled placements."""

from __future__ import annotations

import gc
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np

from vlarl.digest import file_digest
from vlarl.memory import give_back_freed_memory
from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.libero.install import (
    HORIZONS,
    NUM_OFFICIAL,
    LiberoTask,
    check_installation,
    check_mujoco,
    import_robosuite,
    models_digest,
    tasks_of,
)
from vlarl.suites.protocol import Conventions, Expert, Simulation
from vlarl.suites.renderer import choose_renderer
from vlarl.suites.selection import select
from vlarl.types import Split, Task

if TYPE_CHECKING:  # imports MuJoCo, which must come after the choice of renderer
    from vlarl.suites.libero.simulation import LiberoSimulation
    from vlarl.suites.libero.stage import Stage

NUM_SAMPLED = 10_000  # placements to train on
NUM_HELD_OUT = 1_000  # placements sampled like those, and others


class LiberoSuite:
    """Tasks of ``spec.name``, or the ones the spec selects, in the spec's order.

    Compiles each task once, when an episode of it first begins, and shares it among the simulations it makes.
    """

    def __init__(self, spec: LiberoSpec) -> None:
        check_installation()
        check_mujoco()
        self.renderer = choose_renderer(spec.renderer)
        self.name: str = spec.name
        self.conventions = Conventions(
            action="delta_xyz, delta_axis_angle, gripper(-1 open, +1 close)",
            action_dim=7,
            control_hz=20.0,
            image="agentview rgb, turned by 180 degrees",
            image_size=spec.image_size,
            settle_steps=10,
            more={
                "fixtures": spec.fixtures,
                "render_quality": spec.render_quality,
                # Trained on the very states that evaluation uses.
                "leaky": spec.init_states == "official",
            },
        )
        self._spec = spec
        self._rows = select(tasks_of(spec.name), spec.tasks)
        self._stages = Stages(spec.models_per_worker)

    def tasks(self) -> tuple[Task, ...]:
        horizon = HORIZONS[self.name]
        return tuple(
            Task(suite=self.name, index=index, name=row.name, instruction=row.language, horizon=horizon)
            for index, row in enumerate(self._rows)
        )

    def num_inits(self, task: int, split: Split) -> int:
        assert 0 <= task < len(self._rows), task
        if split == "sampled":
            return NUM_HELD_OUT
        return NUM_OFFICIAL if split == "eval" or self._spec.init_states == "official" else NUM_SAMPLED

    def simulation(self, task: int) -> LiberoSimulation:
        import_robosuite()
        from vlarl.suites.libero.simulation import LiberoSimulation, Starts

        starts = Starts(
            self.name,
            train_on_official=self._spec.init_states == "official",
            fixtures_vary=self._spec.fixtures == "official_sequence",
        )
        return LiberoSimulation(
            self.tasks()[task],
            partial(self._stages.get, self._rows[task]),
            starts,
            image_size=self._spec.image_size,
            quality=self._spec.render_quality,
        )

    def expert(self, simulation: Simulation) -> Expert:
        from vlarl.suites.libero.experts import LiberoExpert

        own = _own(simulation)
        return LiberoExpert(own.sight(), self.name, own.task.name)

    def has_expert(self, task: int) -> bool:
        from vlarl.suites.libero.experts import has_expert

        return has_expert(self.name, self._rows[task].name)

    def demonstration_arrays(self, simulation: Simulation) -> dict[str, np.ndarray]:
        """LIBERO's names; ``states`` is the flattened simulator state."""
        return _own(simulation).low_dimensional()

    def assets(self) -> dict[str, str]:
        """Task and init files of the tasks, and LIBERO's models as one."""
        files = {path.name: file_digest(path) for row in self._rows for path in row.files() if path.is_file()}
        return {**files, "assets": models_digest()}


class Stages:
    """Compiled tasks of one process. Keeps the ``limit`` used last; others live as long as an episode runs on them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._recent: OrderedDict[str, Stage] = OrderedDict()
        self._alive: WeakValueDictionary[str, Stage] = WeakValueDictionary()

    def get(self, row: LiberoTask) -> Stage:
        from vlarl.suites.libero.fingerprint import check
        from vlarl.suites.libero.stage import Stage

        stage = self._alive.get(row.name)
        if stage is None:
            self._keep(self._limit - 1)
            stage = Stage(row)
            give_back_freed_memory()  # what compiling needed: meshes and textures a second time
            check(stage)
            self._alive[row.name] = stage
        self._recent[row.name] = stage
        self._recent.move_to_end(row.name)
        self._keep(self._limit)
        return stage

    def _keep(self, number: int) -> None:
        """Forget the others. A stage is half a gigabyte, in reference cycles of robosuite's."""
        while len(self._recent) > number:
            self._recent.popitem(last=False)
            gc.collect()


def _own(simulation: Simulation) -> LiberoSimulation:
    from vlarl.suites.libero.simulation import LiberoSimulation

    assert isinstance(simulation, LiberoSimulation), simulation
    return simulation
