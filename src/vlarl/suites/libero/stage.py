"""A compiled LIBERO task: robosuite builds and resets it, every simulation of the task steps over it.

Import this only after ``choose_renderer``: MuJoCo reads its GL backend while it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from libero.libero.envs.env_wrapper import ControlEnv
from robosuite.utils.errors import RandomizationError

from vlarl.errors import RunError
from vlarl.suites.libero.arm import Arm, ArmLayout, Reading
from vlarl.suites.libero.camera import Camera, RenderQuality
from vlarl.suites.libero.install import LiberoTask, silently

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_PLACEMENT_TRIES = 100
_PRINTED = 1e-5  # a model's text has about six digits of a position
_OBSERVATION_PERIOD, _TICK = 1.0 / 20, 0.002  # seconds, of robosuite's observables and of a physics step

Pose = tuple[np.ndarray, np.ndarray]  # position (3,) and quaternion (4,)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where an episode begins, before its settle steps."""

    state: np.ndarray  # MuJoCo's integration state
    body_positions: np.ndarray  # (nbody, 3): fixtures stand where the reset put them
    body_rotations: np.ndarray  # (nbody, 4)
    site_colours: np.ndarray  # (nsite, 4): lights on or off


class Shutter:
    """When robosuite's observables look: once in 25 physics steps, at a phase that its resets leave behind.

    Every forced reading, one of ``reset`` and one of ``set_init_state``, counts as a physics step.
    """

    def __init__(self) -> None:
        self._since, self._looked = 2 * _TICK, True

    def opens(self) -> bool:
        """Whether the cameras and sensors read the state after the physics step just made."""
        self._since += _TICK
        opens = not self._looked and self._since <= _OBSERVATION_PERIOD
        self._looked |= opens
        if self._since >= _OBSERVATION_PERIOD:
            self._since %= _OBSERVATION_PERIOD
            self._looked = False
        return opens


class Stage:
    """One task's model with its resets, predicates and camera; holds no episode."""

    def __init__(self, task: LiberoTask) -> None:
        self.task = task
        self._env: Any = silently(
            ControlEnv,
            bddl_file_name=str(task.bddl),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            hard_reset=False,
        )
        self._official = task.official_states()
        self._wrapper = self._env.sim.data  # robosuite's view of a state; everything it computes reads this
        self._own_data = self._wrapper._data
        self.model: mujoco.MjModel = self._env.sim.model._model
        self.state_size = mujoco.mj_stateSize(self.model, STATE)
        self.start_official(0)  # robosuite's controller is made in a reset
        self.arm = Arm(self.model, self._layout(), self._rest())
        self._cameras: dict[tuple[str, int, RenderQuality], Camera] = {}

    def start_official(self, init: int, *, resets: int = 1) -> Start:
        """Official init state ``init`` after ``resets`` resets from seed 0, which place the fixtures."""
        return self._start(0, self._official[init], resets)

    @property
    def flat_size(self) -> int:
        """Length of a flattened state: time, positions and velocities."""
        return 1 + int(self.model.nq) + int(self.model.nv)

    def start_from(self, state: np.ndarray, fixtures: Mapping[str, Pose]) -> Start:
        """A flattened state (1 + nq + nv,); bodies that ``fixtures`` does not name stand where seed 0 puts them."""
        assert state.shape == (self.flat_size,), state.shape
        return self._start(0, state, 1, fixtures)

    def moved_fixtures(self, places: Mapping[str, Pose]) -> dict[str, Pose]:
        """Of bodies by name those that stand fixed in this model, and elsewhere than ``places`` has them."""
        model, found = self.model, {}
        for body in range(1, model.nbody):
            name = model.body(body).name
            if name in places and model.body_parentid[body] == 0 and model.body_jntnum[body] == 0:
                position, rotation = places[name]
                gap = np.abs(position - model.body_pos[body]).max(), np.abs(rotation - model.body_quat[body]).max()
                if max(gap) > _PRINTED:
                    found[name] = (position, rotation)
        return found

    def start_sampled(self, seed: int) -> Start:
        """Objects and fixtures sampled from the task's own regions by ``seed`` (32 bits)."""
        return self._start(seed, None, 1)

    def camera(self, name: str, size: int, quality: RenderQuality) -> Camera:
        key = (name, size, quality)
        if key not in self._cameras:
            self._cameras[key] = Camera(self.model, name, size, quality)
        return self._cameras[key]

    def place(self, start: Start) -> None:
        """Put the fixtures where ``start`` has them; they are part of the model, which episodes share."""
        self.model.body_pos[:] = start.body_positions
        self.model.body_quat[:] = start.body_rotations

    def succeeded(self, data: mujoco.MjData) -> bool:
        """The task's goal, by LIBERO's own predicates."""
        with self._seeing(data):
            return bool(self._env.check_success())

    def light(self, data: mujoco.MjData) -> np.ndarray:
        """(nsite, 4) colours of sites once LIBERO has switched its lights as the state asks."""
        with self._seeing(data):
            self._env._post_process()
        return self.model.site_rgba.copy()

    def _start(
        self, seed: int, flat: np.ndarray | None, resets: int, fixtures: Mapping[str, Pose] | None = None
    ) -> Start:
        with _global_seed(seed):
            for _ in range(resets):
                silently(self._reset)
        before = self.model.body_pos.copy(), self.model.body_quat.copy()
        for name, (position, rotation) in (fixtures or {}).items():
            self.model.body(name).pos, self.model.body(name).quat = position, rotation
        try:
            return self._at(self._env.get_sim_state() if flat is None else flat)
        finally:
            self.model.body_pos[:], self.model.body_quat[:] = before

    def _at(self, state: np.ndarray) -> Start:
        self._env.set_init_state(state)
        flat = np.empty(self.state_size)
        mujoco.mj_getState(self.model, self._own_data, flat, STATE)
        return Start(
            state=flat,
            body_positions=self.model.body_pos.copy(),
            body_rotations=self.model.body_quat.copy(),
            site_colours=self.model.site_rgba.copy(),
        )

    def _reset(self) -> None:
        for _ in range(_PLACEMENT_TRIES):
            try:
                self._env.env.reset()
            except RandomizationError:
                continue  # no free place found; LIBERO draws again as well
            return
        raise RunError(
            f"LIBERO found no placement for the objects of {self.task.name} in {_PLACEMENT_TRIES} tries",
            code="X531",
            hint="the episode's spec repeats it; another seed places them otherwise",
        )

    @contextmanager
    def _seeing(self, data: mujoco.MjData) -> Iterator[None]:
        """LIBERO's own functions read ``data`` inside the block."""
        self._wrapper._data = data
        try:
            yield
        finally:
            self._wrapper._data = self._own_data

    def _layout(self) -> ArmLayout:
        robot = self._env.robots[0]
        return ArmLayout(
            site=int(robot.eef_site_id),
            positions=np.array(robot._ref_joint_pos_indexes),
            velocities=np.array(robot._ref_joint_vel_indexes),
            motors=np.array(robot._ref_joint_actuator_indexes),
            finger_motors=np.array(robot._ref_joint_gripper_actuator_indexes),
            finger_positions=np.array(robot._ref_gripper_joint_pos_indexes),
        )

    def _rest(self) -> Reading:
        """What robosuite's controller read in the reset, which its first torques are computed from."""
        controller = self._env.robots[0].controller
        return Reading(
            position=controller.ee_pos.copy(),
            rotation=controller.ee_ori_mat.copy(),
            linear=controller.ee_pos_vel.copy(),
            angular=controller.ee_ori_vel.copy(),
            jacobian=controller.J_full.copy(),
            mass=controller.mass_matrix.copy(),
            joints=controller.joint_pos.copy(),
            joint_speeds=controller.joint_vel.copy(),
        )


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """LIBERO draws from numpy's global generator."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
