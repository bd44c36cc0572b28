"""The Panda under operational space control, as robosuite 1.4 drives it, without its objects.

One control step is 25 physics steps. Before each of them the torques are computed anew from the state, towards
a goal pose set once a control step (Khatib 1987; robosuite's ``OSC_POSE`` with its default gains). All state lies
in ``ArmState``, so that one compiled model serves any number of episodes. Results equal robosuite's bit for bit,
quirks included: the first torques after a reset are computed from the robot's rest pose, because robosuite's
controller skips its first reading of the state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import mujoco
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error
from robosuite.utils.transform_utils import axisangle2quat, quat2mat

PHYSICS_STEPS = 25  # a control step of 0.05 s
_STIFFNESS = 150.0 * np.ones(6)
_DAMPING = 2.0 * np.sqrt(_STIFFNESS)  # critical
_REACH = np.array([0.05] * 3 + [0.5] * 3)  # metres and radians that an action of 1 asks for
_GRIPPER_SPEED = 0.01 * np.array([-1.0, 1.0])  # of the fingers' range, a physics step


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the controller knows of the arm at one moment; J of the grip site, over the arm's 7 joints."""

    position: np.ndarray  # (3,) of the grip site
    rotation: np.ndarray  # (3, 3)
    linear: np.ndarray  # (3,) velocity
    angular: np.ndarray  # (3,)
    jacobian: np.ndarray  # (6, 7)
    mass: np.ndarray  # (7, 7)
    joints: np.ndarray  # (7,)
    joint_speeds: np.ndarray  # (7,)


@dataclass(kw_only=True)
class ArmState:
    """What an episode's arm remembers between physics steps beyond MuJoCo's own state."""

    goal_position: np.ndarray  # (3,)
    goal_rotation: np.ndarray  # (3, 3)
    fingers: np.ndarray = field(default_factory=lambda: np.zeros(2))  # -1 .. 1, commanded
    has_moved: bool = False

    def tobytes(self) -> bytes:
        return b"".join(
            array.tobytes()
            for array in (self.goal_position, self.goal_rotation, self.fingers, np.array(self.has_moved))
        )


@dataclass(frozen=True, kw_only=True)
class ArmLayout:
    """Where the arm lies in a compiled model."""

    site: int
    positions: np.ndarray  # (7,) in qpos
    velocities: np.ndarray  # (7,) in qvel
    motors: np.ndarray  # (7,) in ctrl
    finger_motors: np.ndarray  # (2,) in ctrl
    finger_positions: np.ndarray  # (2,) in qpos


class Arm:
    """Drives the arm of any ``MjData`` of one model. ``rest`` is what robosuite's controller read at its reset."""

    def __init__(self, model: mujoco.MjModel, layout: ArmLayout, rest: Reading) -> None:
        self.layout, self.rest = layout, rest
        self._model = model
        limits = model.actuator_ctrlrange
        self._low, self._high = limits[layout.motors, 0], limits[layout.motors, 1]
        fingers = limits[layout.finger_motors]
        self._finger_middle = 0.5 * (fingers[:, 1] + fingers[:, 0])
        self._finger_half = 0.5 * (fingers[:, 1] - fingers[:, 0])
        self._linear, self._angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self._mass = np.zeros((model.nv, model.nv))

    def at_rest(self) -> ArmState:
        return ArmState(goal_position=self.rest.position, goal_rotation=self.rest.rotation)

    def read(self, data: mujoco.MjData) -> Reading:
        """The arm as ``data`` has it; its positions and velocities have been propagated (``mj_forward``)."""
        layout = self.layout
        mujoco.mj_jacSite(self._model, data, self._linear, self._angular, layout.site)
        mujoco.mj_fullM(self._model, self._mass, data.qM)
        return Reading(
            position=data.site_xpos[layout.site].copy(),
            rotation=data.site_xmat[layout.site].reshape(3, 3).copy(),
            linear=np.dot(self._linear, data.qvel),
            angular=np.dot(self._angular, data.qvel),
            jacobian=np.vstack([self._linear[:, layout.velocities], self._angular[:, layout.velocities]]),
            mass=self._mass[layout.velocities, :][:, layout.velocities],
            joints=data.qpos[layout.positions],
            joint_speeds=data.qvel[layout.velocities],
        )

    def physics_step(self, data: mujoco.MjData, state: ArmState, action: np.ndarray, *, is_first: bool) -> None:
        """One physics step towards the goal; the first of a control step sets the goal from ``action`` (7,) float64."""
        model = self._model
        mujoco.mj_forward(model, data)
        if state.has_moved:
            reading = self.read(data)
            # robosuite propagates the state a second time here; all that changes is the solver's warm start.
            mujoco.mj_fwdConstraint(model, data)
        else:
            reading = self.rest
            state.has_moved = True
        if is_first:
            _set_goal(state, reading, action[:6])
        torques = self._torques(reading, state, data.qfrc_bias[self.layout.velocities])
        state.fingers = np.clip(state.fingers + _GRIPPER_SPEED * np.sign(action[6]), -1.0, 1.0)
        data.ctrl[self.layout.finger_motors] = self._finger_middle + self._finger_half * state.fingers
        data.ctrl[self.layout.motors] = np.clip(torques, self._low, self._high)
        mujoco.mj_step2(model, data)

    def fingers_after(self, seconds: float, gripper: float) -> np.ndarray:
        """(2,) commanded fingers once ``gripper`` has been asked for that long since a reset."""
        num_steps = round(seconds / self._model.opt.timestep)
        return np.asarray(np.clip(_GRIPPER_SPEED * np.sign(gripper) * num_steps, -1.0, 1.0))

    def opening(self, data: mujoco.MjData) -> float:
        """0 closed .. 1 open."""
        left, right = data.qpos[self.layout.finger_positions]
        return float(np.clip((left - right) / 0.08, 0.0, 1.0))

    def _torques(self, reading: Reading, state: ArmState, bias: np.ndarray) -> np.ndarray:
        """(7,) joint torques: force and torque at the grip site, decoupled, plus posture in the null space."""
        offset = state.goal_position - reading.position
        force = offset * _STIFFNESS[:3] + (-reading.linear) * _DAMPING[:3]
        turn = orientation_error(state.goal_rotation, reading.rotation)
        torque = turn * _STIFFNESS[3:] + (-reading.angular) * _DAMPING[3:]
        jacobian = reading.jacobian
        _, inertia, turning_inertia, nullspace = opspace_matrices(
            reading.mass, jacobian, jacobian[:3].copy(), jacobian[3:].copy()
        )
        wrench = np.concatenate([np.dot(inertia, force), np.dot(turning_inertia, torque)])
        return (
            np.dot(jacobian.T, wrench)
            + bias
            + nullspace_torques(reading.mass, nullspace, self.rest.joints, reading.joints, reading.joint_speeds)
        )


def _set_goal(state: ArmState, reading: Reading, action: np.ndarray) -> None:
    """Offsets from where the arm is; an action without rotation keeps the goal rotation of earlier ones."""
    wish = np.clip(action, -1.0, 1.0) * _REACH
    if not all(math.isclose(turn, 0.0) for turn in wish[3:]):
        state.goal_rotation = np.dot(quat2mat(axisangle2quat(wish[3:])), reading.rotation)
    state.goal_position = reading.position + wish[:3]
