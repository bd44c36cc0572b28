"""One episode at a time in MuJoCo, and the camera's view of it.

Import this only after ``choose_renderer``: MuJoCo reads its GL backend while it is imported.
"""

from __future__ import annotations

from hashlib import blake2b

import mujoco
import numpy as np

from vlarl.errors import RunError
from vlarl.suites.offscreen import Offscreen
from vlarl.suites.protocol import Outcome
from vlarl.suites.tabletop.placement import Placement, arm_start, place
from vlarl.suites.tabletop.scenes import (
    CONTROL_HZ,
    CUBE_HALF,
    FINGER_OPEN,
    GRIPPER_HIGH,
    GRIPPER_LOW,
    STEP_REACH,
    STEPS_PER_CONTROL,
    Scene,
    scene_xml,
)
from vlarl.suites.tabletop.tasks import TaskRow
from vlarl.types import EpisodeSpec, Task

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_USUAL_DISTANCE = 0.3  # metres of one goal, at the start of an episode
_LOW, _HIGH = np.array(GRIPPER_LOW), np.array(GRIPPER_HIGH)


class Camera:
    """Renders any state of one model from its one camera; shared by the model's simulations."""

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        self._screen = Offscreen(model, 0, size, font=mujoco.mjtFontScale.mjFONTSCALE_50, geoms=64)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "CULL_FACE"):
            self._screen.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = flag == "CULL_FACE"

    def render_into(self, data: mujoco.MjData, image: np.ndarray) -> None:
        """Write the view, upright, into ``image`` (H, W, 3) uint8."""
        self._screen.draw(data)
        image[...] = self._screen.pixels[::-1]  # GL's rows run bottom up


class Stage:
    """A compiled scene with its camera and the addresses of things in its state."""

    def __init__(self, scene: Scene, image_size: int) -> None:
        self.scene = scene
        self.model = mujoco.MjModel.from_xml_string(scene_xml(scene, image_size))
        self.camera = Camera(self.model, image_size)
        self.cube_address = {c: int(self.model.joint(c).qposadr[0]) for c in scene.cubes}
        self.slide_address = {
            name: int(self.model.joint(name).qposadr[0])
            for fixture, name in (("cabinet", "drawer"), ("button", "button"))
            if fixture in scene.fixtures
        }
        bodies = (self.model.body(i) for i in range(self.model.nbody))
        self.mocap_index = {b.name: int(b.mocapid[0]) for b in bodies if b.mocapid[0] >= 0}
        self.state_size = mujoco.mj_stateSize(self.model, _STATE)


class TabletopSimulation:
    """One task's simulation: its own state over a shared stage."""

    def __init__(self, suite: str, position: int, row: TaskRow, stage: Stage) -> None:
        self.task = Task(suite=suite, index=position, name=row.name, instruction=row.instruction, horizon=row.horizon)
        self.row = row
        self._stage = stage
        self._data = mujoco.MjData(stage.model)
        self._state = np.empty(stage.state_size)
        self._steps = 0

    # -- Simulation protocol

    def begin(self, spec: EpisodeSpec) -> None:
        assert spec.task == self.task.index, (spec, self.task)
        placement = place(self.task.suite, self.row, spec.split, spec.init)
        data = self._data
        mujoco.mj_resetData(self._stage.model, data)
        self._put(placement)
        data.qpos[:3] = arm_start(spec.seed)
        data.qpos[3:5] = FINGER_OPEN
        data.ctrl[:] = data.qpos[:5]
        mujoco.mj_forward(self._stage.model, data)
        self._steps = 0
        assert not self._succeeded(), f"{self.task.name} is solved at the start of {spec}"

    def advance(self, action: np.ndarray) -> Outcome:
        assert action.shape == (7,), action.shape
        assert np.isfinite(action).all(), action
        data = self._data
        before = data.qpos[:3].copy()
        wish = np.clip(action[:3], -1.0, 1.0).astype(np.float64)
        data.ctrl[:3] = np.clip(before + STEP_REACH * wish, _LOW, _HIGH)
        if action[6] != 0.0:
            data.ctrl[3:5] = FINGER_OPEN if action[6] < 0.0 else 0.0
        mujoco.mj_step(self._stage.model, data, nstep=STEPS_PER_CONTROL)
        mujoco.mj_kinematics(self._stage.model, data)  # mj_step leaves places one physics step behind
        self._steps += 1
        if data.time < (self._steps - 0.5) / CONTROL_HZ:  # MuJoCo starts over by itself when it diverges
            raise RunError(
                f"the physics of {self.task.name} diverged at step {self._steps}",
                code="X530",
                hint="the episode's spec and actions repeat it",
            )
        success = self._succeeded()
        return Outcome(
            terminated=success,
            truncated=not success and self._steps >= self.task.horizon,
            gripper_opening=self.gripper_opening(),
            eef_speed=float(np.linalg.norm(data.qpos[:3] - before)) * CONTROL_HZ,
        )

    def render_into(self, image: np.ndarray) -> None:
        self._stage.camera.render_into(self._data, image)

    def state_digest(self) -> bytes:
        mujoco.mj_getState(self._stage.model, self._data, self._state, _STATE)
        rest = f"{self.task.name}/{self._steps}"
        return blake2b(self._state.tobytes() + rest.encode(), digest_size=16).digest()

    def goal_distance(self) -> float:
        """Of the first goal that does not hold, and as much as a usual goal takes for each later one."""
        ahead = [goal for goal in self.row.goals if not goal.holds(self)]
        return ahead[0].distance(self) + _USUAL_DISTANCE * (len(ahead) - 1) if ahead else 0.0

    def close(self) -> None:
        """Nothing to free: the stage belongs to the suite."""

    # -- World protocol: what goals and experts read

    def tool(self) -> np.ndarray:
        return self._data.qpos[:3].copy()

    def finger(self) -> float:
        return float(self._data.qpos[3:5].mean())

    def cube(self, colour: str) -> np.ndarray:
        address = self._stage.cube_address[colour]
        return self._data.qpos[address : address + 3].copy()

    def fixture(self, name: str) -> np.ndarray:
        return self._data.mocap_pos[self._stage.mocap_index[name]].copy()

    def slide(self, name: str) -> float:
        return float(self._data.qpos[self._stage.slide_address[name]])

    # -- what demonstrations and observations hold

    def gripper_opening(self) -> float:
        """0 closed .. 1 open."""
        return float(np.clip(self.finger() / FINGER_OPEN, 0.0, 1.0))

    def finger_places(self) -> np.ndarray:
        """(2,) signed finger joints as LIBERO stores them: left positive, right negative."""
        return self._data.qpos[3:5] * (1.0, -1.0)

    def flat_state(self) -> np.ndarray:
        """Time, positions, velocities and places of the fixtures, one after another."""
        data = self._data
        return np.concatenate(([data.time], data.qpos, data.qvel, data.mocap_pos.ravel()))

    def reached(self) -> int:
        """How many goals hold, counted from the first without a gap."""
        for number, goal in enumerate(self.row.goals):
            if not goal.holds(self):
                return number
        return len(self.row.goals)

    def _succeeded(self) -> bool:
        return self.reached() == len(self.row.goals)

    def _put(self, placement: Placement) -> None:
        for colour, (x, y) in placement.cubes.items():
            address = self._stage.cube_address[colour]
            turn = placement.turns[colour] / 2
            self._data.qpos[address : address + 7] = (x, y, CUBE_HALF, np.cos(turn), 0.0, 0.0, np.sin(turn))
        for name, index in self._stage.mocap_index.items():
            self._data.mocap_pos[index, :2] = placement.fixtures[name]
