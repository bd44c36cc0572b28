"""One LIBERO episode at a time: its own state over a shared, compiled task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import mujoco
import numpy as np

from vlarl.errors import RunError
from vlarl.seeding import seed
from vlarl.suites.libero.arm import PHYSICS_STEPS, ArmState
from vlarl.suites.libero.camera import Frame, RenderQuality, take_frame
from vlarl.suites.libero.sight import Sight
from vlarl.suites.libero.stage import STATE, Pose, Shutter, Stage, Start
from vlarl.suites.protocol import Outcome
from vlarl.types import EpisodeSpec, Task

CONTROL_HZ = 20.0
SETTLE_STEPS = 10  # objects of the init states hang a little above the table
_SETTLE_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


@dataclass(frozen=True)
class Sensed:
    """What robosuite's sensors read at the moment the cameras look."""

    hand: np.ndarray  # (3,) grip site, metres
    rotation: np.ndarray  # (3, 3) of the hand
    fingers: np.ndarray  # (2,) positions, metres
    joints: np.ndarray  # (7,) radians


class Episode:
    """A running episode: everything that its next step depends on."""

    def __init__(self, stage: Stage, start: Start, *, settle_steps: int = SETTLE_STEPS) -> None:
        self.stage = stage
        self.data = mujoco.MjData(stage.model)
        self._start = start
        self._arm: ArmState = stage.arm.at_rest()
        self._shutter = Shutter()
        self._site_colours = start.site_colours
        mujoco.mj_setState(stage.model, self.data, start.state, STATE)
        self._begun = self.data.time
        self.steps = 0
        self.frame: Frame | None = None
        rest, layout = stage.arm.rest, stage.arm.layout
        fingers, joints = self.data.qpos[layout.finger_positions], self.data.qpos[layout.positions]
        self.sensed = Sensed(hand=rest.position, rotation=rest.rotation, fingers=fingers, joints=joints)
        for _ in range(settle_steps):
            self.step(_SETTLE_ACTION)
        self.steps = 0

    def take_up(self, gripper: float) -> None:
        """Go on as in the middle of an episode whose gripper has been commanded ``gripper`` for the time on the clock.

        What robosuite's controller remembers is in no stored state: its rotation goal is taken to be reached.
        """
        stage, data, arm = self.stage, self.data, self._arm
        if data.time <= 0.0:
            return
        stage.place(self._start)
        mujoco.mj_forward(stage.model, data)
        arm.goal_position, arm.goal_rotation = stage.arm.read(data).position, stage.arm.read(data).rotation
        arm.has_moved = True
        arm.fingers = stage.arm.fingers_after(data.time, gripper)
        self.sensed = self._sense()

    def step(self, action: np.ndarray) -> None:
        """One control step with ``action`` (7,) float64."""
        stage, data = self.stage, self.data
        stage.place(self._start)
        for index in range(PHYSICS_STEPS):
            stage.arm.physics_step(data, self._arm, action, is_first=index == 0)
            if self._shutter.opens():
                self.frame = take_frame(data, self._site_colours)
                self.sensed = self._sense()
        self._site_colours = stage.light(data)
        self.steps += 1

    def _sense(self) -> Sensed:
        data, layout = self.data, self.stage.arm.layout
        return Sensed(
            hand=data.site_xpos[layout.site].copy(),
            rotation=data.body("robot0_right_hand").xmat.reshape(3, 3).copy(),
            fingers=data.qpos[layout.finger_positions],
            joints=data.qpos[layout.positions],
        )

    def diverged(self) -> bool:
        """MuJoCo starts over by itself when a state becomes unstable; its clock then tells."""
        return bool(self.data.time < self._begun + (self.steps - 0.5) / CONTROL_HZ)

    def digest(self) -> bytes:
        """Of 16 bytes."""
        state = np.empty(self.stage.state_size)
        mujoco.mj_getState(self.stage.model, self.data, state, STATE)
        start = self._start
        parts = (state, start.body_positions, start.body_rotations, np.array(self.steps))
        return blake2b(b"".join(p.tobytes() for p in parts) + self._arm.tobytes(), digest_size=16).digest()


class Starts:
    """Which start an episode's spec means."""

    def __init__(self, suite: str, *, train_on_official: bool, fixtures_vary: bool) -> None:
        self._suite = suite
        self._train_on_official, self._fixtures_vary = train_on_official, fixtures_vary

    def __call__(self, stage: Stage, spec: EpisodeSpec) -> Start:
        if spec.split == "sampled":
            return stage.start_sampled(_placement_seed(self._suite, stage.task.name, spec.init, "sampled"))
        if spec.split == "eval" or self._train_on_official:
            # Official scripts seed once and reset before each episode, so that episode i comes after i + 1 resets.
            return stage.start_official(spec.init, resets=spec.init + 1 if self._fixtures_vary else 1)
        return stage.start_sampled(_placement_seed(self._suite, stage.task.name, spec.init))


def _placement_seed(suite: str, task: str, init: int, *held_out: str) -> int:
    """32 bits, for numpy's global generator; of the names, so that a recipe's choice of tasks changes nothing."""
    return seed(0, "libero-placement", suite, task, init, *held_out) >> 31


class LiberoSimulation:
    """Runs episodes of one task, on official init states or on placements sampled from the task's own regions."""

    def __init__(
        self, task: Task, stage: Callable[[], Stage], starts: Starts, *, image_size: int, quality: RenderQuality
    ) -> None:
        self.task = task
        self._stage, self._starts = stage, starts
        self._image_size, self._quality = image_size, quality
        self._episode: Episode | None = None

    # -- Simulation protocol

    def begin(self, spec: EpisodeSpec) -> None:
        assert spec.task == self.task.index, (spec, self.task)
        self._episode = None  # frees its stage for another task where memory is short
        stage = self._stage()
        self._episode = Episode(stage, self._starts(stage, spec))

    def stage(self) -> Stage:
        """The compiled task, shared with other simulations."""
        return self._stage()

    def begin_at(self, state: np.ndarray, *, fixtures: Mapping[str, Pose], gripper: float) -> None:
        """Begin in the middle of an episode, at a flattened ``state`` (1 + nq + nv,); see ``Stage.start_from``."""
        self._episode = None
        stage = self._stage()
        self._episode = Episode(stage, stage.start_from(state, fixtures), settle_steps=0)
        self._episode.take_up(gripper)

    def advance(self, action: np.ndarray) -> Outcome:
        assert action.shape == (7,), action.shape
        assert np.isfinite(action).all(), action
        episode, stage = self.episode, self.episode.stage
        before = episode.sensed.hand
        episode.step(action.astype(np.float64))
        if episode.diverged():
            raise RunError(
                f"the physics of {self.task.name} diverged at step {episode.steps}",
                code="X530",
                hint="the episode's spec and actions repeat it",
            )
        success = stage.succeeded(episode.data)
        return Outcome(
            terminated=success,
            truncated=not success and episode.steps >= self.task.horizon,
            gripper_opening=stage.arm.opening(episode.data),
            eef_speed=float(np.linalg.norm(episode.sensed.hand - before)) * CONTROL_HZ,
        )

    def render_into(self, image: np.ndarray) -> None:
        self._look("agentview", image)

    def render_wrist_into(self, image: np.ndarray) -> None:
        self._look("robot0_eye_in_hand", image)

    def _look(self, camera: str, image: np.ndarray) -> None:
        frame = self.episode.frame
        assert frame is not None, "the cameras look in every control step"
        self.episode.stage.camera(camera, self._image_size, self._quality).render_into(frame, image)

    def state_digest(self) -> bytes:
        return self.episode.digest()

    def close(self) -> None:
        self._episode = None

    # -- what experts and demonstrations read

    @property
    def episode(self) -> Episode:
        assert self._episode is not None, "begin() comes first"
        return self._episode

    def sight(self) -> Sight:
        return Sight(self.episode.stage.model, self.episode.data)

    def low_dimensional(self) -> dict[str, np.ndarray]:
        """One step's proprioception under the names of LIBERO's demonstration files."""
        from robosuite.utils.transform_utils import mat2quat, quat2axisangle

        data, sensed = self.episode.data, self.episode.sensed
        turn = np.asarray(quat2axisangle(mat2quat(sensed.rotation)), dtype=np.float64)
        return {
            "ee_pos": sensed.hand,
            "ee_ori": turn,
            "ee_states": np.concatenate((sensed.hand, turn)),
            "gripper_states": sensed.fingers,
            "joint_states": sensed.joints,
            "states": np.concatenate(([data.time], data.qpos, data.qvel)),
        }
