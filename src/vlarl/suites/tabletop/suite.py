"""The embedded suite behind the suite protocol: tasks, init states, simulations, experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vlarl.digest import bytes_digest
from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.suites.protocol import Conventions, Expert, Simulation
from vlarl.suites.renderer import choose_renderer
from vlarl.suites.selection import select
from vlarl.suites.tabletop.placement import NUM_INITS
from vlarl.suites.tabletop.scenes import CONTROL_HZ, scene_xml
from vlarl.suites.tabletop.tasks import SUITES, TaskRow
from vlarl.types import Split, Task

if TYPE_CHECKING:  # imports MuJoCo, which must come after the choice of renderer
    from vlarl.suites.tabletop.simulation import Stage, TabletopSimulation

_HAND_DOWN = np.array((np.pi, 0.0, 0.0))  # axis-angle of a gripper that points down


class TabletopSuite:
    """Tasks of ``spec.name``, or the ones the spec selects, in the spec's order.

    Compiles each scene once and shares it, with its renderer, among the simulations it makes.
    """

    def __init__(self, spec: TabletopSpec) -> None:
        self.renderer = choose_renderer(spec.renderer)
        self.name: str = spec.name
        self.conventions = Conventions(
            action="delta_xyz, delta_axis_angle, gripper(-1 open, +1 close)",
            action_dim=7,
            control_hz=CONTROL_HZ,
            image="agentview rgb, upright",
            image_size=spec.image_size,
        )
        self._rows = select(SUITES[spec.name], spec.tasks)
        self._stages: dict[str, Stage] = {}

    def tasks(self) -> tuple[Task, ...]:
        return tuple(
            Task(suite=self.name, index=index, name=row.name, instruction=row.instruction, horizon=row.horizon)
            for index, row in enumerate(self._rows)
        )

    def num_inits(self, task: int, split: Split) -> int:
        assert 0 <= task < len(self._rows), task
        return NUM_INITS[split]

    def simulation(self, task: int) -> TabletopSimulation:
        from vlarl.suites.tabletop.simulation import TabletopSimulation

        row = self._rows[task]
        return TabletopSimulation(self.name, task, row, self._stage(row))

    def expert(self, simulation: Simulation) -> Expert:
        from vlarl.suites.tabletop.experts import TabletopExpert

        return TabletopExpert(_own(simulation))

    def has_expert(self, task: int) -> bool:
        return True

    def demonstration_arrays(self, simulation: Simulation) -> dict[str, np.ndarray]:
        """LIBERO's names; ``states`` is the flattened simulator state."""
        own = _own(simulation)
        place = own.tool()
        return {
            "ee_pos": place,
            "ee_ori": _HAND_DOWN.copy(),
            "ee_states": np.concatenate((place, _HAND_DOWN)),
            "gripper_states": own.finger_places(),
            "joint_states": place.copy(),
            "states": own.flat_state(),
        }

    def assets(self) -> dict[str, str]:
        """The scenes' MJCF."""
        scenes = {row.scene.name: row.scene for row in self._rows}
        size = self.conventions.image_size
        return {f"{name}.xml": bytes_digest(scene_xml(scene, size).encode()) for name, scene in sorted(scenes.items())}

    def _stage(self, row: TaskRow) -> Stage:
        from vlarl.suites.tabletop.simulation import Stage

        if row.scene.name not in self._stages:
            self._stages[row.scene.name] = Stage(row.scene, self.conventions.image_size)
        return self._stages[row.scene.name]


def _own(simulation: Simulation) -> TabletopSimulation:
    from vlarl.suites.tabletop.simulation import TabletopSimulation

    assert isinstance(simulation, TabletopSimulation), simulation
    return simulation
