"""One task as a ``gymnasium.Env``: the same simulation the pool runs, behind gymnasium's interface."""

from __future__ import annotations

from typing import Any, get_args

import gymnasium
import numpy as np

from vlarl.errors import UsageError
from vlarl.suites.protocol import Suite, Wristed
from vlarl.types import EpisodeSpec, Split

_SPLITS: tuple[Split, ...] = get_args(Split)
_OPTIONS = ("split", "init")
_SEED_RANGE = 2**31
_PROPRIOCEPTION = ("ee_states", "gripper_states")  # 6 + 2 numbers


class TaskEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """Task ``task`` (position in ``suite.tasks()``).

    Observation: ``{"image": (H, W, 3) uint8, upright}``; with ``wrist_camera`` also ``"wrist_image"``, the same from
    the camera on the hand, and with ``proprioception`` ``"proprioception"``, (8,) float32: position of the end effector
    in metres, its rotation as axis-angle, positions of both fingers. UsageError where the suite has no such camera.
    Action: (7,) float32 in [-1, 1]. Reward 1.0 on
    success, else 0.0. ``reset(seed=s, options={"split": "train" | "eval" | "sampled", "init": k})`` begins the episode
    (task, split, init, s); what is left out is drawn from the env's own generator, the split being ``train``.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012  gymnasium's own spelling

    def __init__(
        self,
        suite: Suite,
        task: int,
        *,
        render_mode: str | None = None,
        wrist_camera: bool = False,
        proprioception: bool = False,
    ) -> None:
        self.render_mode = render_mode
        self.task = suite.tasks()[task]
        self.conventions = suite.conventions
        self.metadata = {**self.metadata, "render_fps": round(self.conventions.control_hz)}
        side = self.conventions.image_size
        view = gymnasium.spaces.Box(0, 255, (side, side, 3), dtype=np.uint8)
        spaces: dict[str, gymnasium.Space[Any]] = {"image": view}
        if wrist_camera:
            spaces["wrist_image"] = view
        if proprioception:
            spaces["proprioception"] = gymnasium.spaces.Box(-np.inf, np.inf, (8,), dtype=np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.conventions.action_dim,), dtype=np.float32)
        self._suite = suite
        self._simulation = suite.simulation(task)
        if wrist_camera and not isinstance(self._simulation, Wristed):
            raise UsageError(
                f"{suite.name} has no camera on the hand", place="wrist_camera", hint="the libero suites have one"
            )
        self._image = np.zeros((side, side, 3), dtype=np.uint8)
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        spec = self._spec(seed, options or {})
        self._simulation.begin(spec)
        self._running = True
        info = {"success": False, "split": spec.split, "init": spec.init, "seed": spec.seed}
        return self._observe(), {"instruction": self.task.instruction, **info}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        assert self._running, "the episode has ended: call reset first"
        outcome = self._simulation.advance(np.asarray(action, dtype=np.float32))
        self._running = not (outcome.terminated or outcome.truncated)
        info = {
            "instruction": self.task.instruction,
            "success": outcome.terminated,
            "gripper_opening": outcome.gripper_opening,
            "eef_speed": outcome.eef_speed,
        }
        return self._observe(), float(outcome.terminated), outcome.terminated, outcome.truncated, info

    def render(self) -> np.ndarray | None:
        """The view of the last observation, or None without a render mode."""
        return self._image.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self._simulation.close()

    def _observe(self) -> dict[str, np.ndarray]:
        self._simulation.render_into(self._image)
        seen = {"image": self._image.copy()}
        if "wrist_image" in self.observation_space.spaces:
            assert isinstance(self._simulation, Wristed)
            seen["wrist_image"] = np.empty_like(self._image)
            self._simulation.render_wrist_into(seen["wrist_image"])
        if "proprioception" in self.observation_space.spaces:
            arrays = self._suite.demonstration_arrays(self._simulation)
            seen["proprioception"] = np.concatenate([arrays[name] for name in _PROPRIOCEPTION]).astype(np.float32)
        return seen

    def _spec(self, seed: int | None, options: dict[str, Any]) -> EpisodeSpec:
        for name in options:
            if name not in _OPTIONS:
                raise UsageError(f"reset knows no option `{name}`", place="options", hint="options: split, init")
        split = options.get("split", "train")
        if split not in _SPLITS:
            hint = f"splits: {', '.join(_SPLITS)}"
            raise UsageError(f"no split is called {split!r}", place="options.split", hint=hint)
        count = self._suite.num_inits(self.task.index, split)
        init = options.get("init")
        if init is None:
            init = self.np_random.integers(count)
        if not 0 <= int(init) < count:
            raise UsageError(f"no init {init} in split {split}", place="options.init", hint=f"0 to {count - 1}")
        drawn = self.np_random.integers(_SEED_RANGE) if seed is None else seed
        return EpisodeSpec(task=self.task.index, split=split, init=int(init), seed=int(drawn))
