"""The data that crosses stage boundaries, with shapes beside each field.

Legend: N env slots, T steps of a rollout, B = N x T flattened steps (slot-major), A action tokens of a step (7),
H x W x 3 image, E episodes. A step is one decision of the policy: one control step, or K of them for a policy that
decides on chunks, whose A is 7 K. Nothing here is ever mutated: each stage wraps what the stage before it made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

Split = Literal["train", "eval", "sampled"]  # to train on; held out; a second held-out set, sampled as for training
ACTION_SIZE = 7  # numbers, and tokens, of a control step


@dataclass(frozen=True)
class Task:
    """One task of a suite: what to do, in words, and for how long it may be tried."""

    suite: str
    index: int
    name: str  # stable identifier, safe in file names
    instruction: str
    horizon: int  # control steps until truncation


@dataclass(frozen=True)
class SuiteFacts:
    """What a policy must know of the suite it acts in."""

    name: str
    image_size: int  # pixels, height and width of its frames


@dataclass(frozen=True, order=True)
class EpisodeSpec:
    """All that an episode depends on, besides the actions."""

    task: int
    split: Split
    init: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A finished episode."""

    spec: EpisodeSpec
    slot: int
    index: int  # how many episodes this slot had finished before it
    length: int  # control steps
    success: bool  # terminated
    truncated: bool
    errored: bool
    end_step: int  # step of the rollout in which it ended (0-based)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One evaluated episode."""

    spec: EpisodeSpec
    success: bool
    errored: bool
    length: int  # control steps
    actions: np.ndarray  # (length, 7) float32, enough to replay it


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a policy sees: one image and one instruction a slot."""

    images: np.ndarray  # (N, H, W, 3) uint8, upright
    instructions: tuple[str, ...]  # N


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step of one slot group gave (arrays over the group's n slots).

    A step is one control step, or as many as the actions sent were for; all is as it is after the last of them.
    """

    observation: Observation  # after the step; of the next episode where one ended
    terminated: np.ndarray  # (n,) bool, success
    truncated: np.ndarray  # (n,) bool, horizon reached
    errored: np.ndarray  # (n,) bool, the simulator failed twice at this step
    final_images: np.ndarray  # (n, H, W, 3) uint8; valid where an episode ended
    gripper_opening: np.ndarray  # (n,) float32, 0 closed .. 1 open, after the step
    eef_speed: np.ndarray  # (n,) float32, metres per second, after the step
    goal_distance: np.ndarray  # (n,) float32, metres still to go after the step; NaN where the suite cannot tell
    state_digests: tuple[bytes, ...]  # n, simulator state after the step
    num_taken: np.ndarray | None = None  # (n,) int32, control steps carried out, until the episode's end; None: one


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One demonstrated or recorded episode of T control steps."""

    instruction: str
    images: np.ndarray  # (T, H, W, 3) uint8, upright, before each action
    actions: np.ndarray  # (T, 7) float32, what to imitate
    executed: np.ndarray  # (T, 7) float32, what moved the robot: the same, unless noise was injected
    signals: Mapping[str, np.ndarray]  # LIBERO's names -> (T, k): ee_pos, ee_ori, ee_states, gripper_states, ...
    spec: EpisodeSpec | None  # None for files that do not say
    success: bool


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """M demonstrated control steps, as behaviour cloning reads them."""

    images: np.ndarray  # (M, H, W, 3) uint8, upright
    tasks: np.ndarray  # (M,) int32, indexes ``instructions``
    instructions: tuple[str, ...]
    actions: np.ndarray  # (M, 7) float32 in [-1, 1]
    last_rows: np.ndarray | None = None  # (M,) int64, row of the last step of each step's episode; None: not known
    num_noops: int = 0  # steps left out
    resized_from: tuple[int, ...] = ()  # sides of images that were made smaller, in pixels

    def __len__(self) -> int:
        return int(self.actions.shape[0])

    def observation(self, rows: np.ndarray) -> Observation:
        instructions = tuple(self.instructions[task] for task in self.tasks[rows])
        return Observation(images=self.images[rows], instructions=instructions)


@dataclass(frozen=True, kw_only=True)
class StageDigests:
    """Digests of one iteration's stages, in the order of the hash chain."""

    tasks: str
    inits: str
    actions: str
    states: str
    pixels: str


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """T steps of N slots, as collected by the policy that is about to be updated."""

    images: np.ndarray  # (N, T, H, W, 3) uint8, what the policy saw before each step
    tasks: np.ndarray  # (N, T) int32, task index of each step
    inits: np.ndarray  # (N, T) int32
    episode_steps: np.ndarray  # (N, T) int32, control step within the episode, from 0
    tokens: np.ndarray  # (N, T, A) int64 in [0, 256)
    actions: np.ndarray  # (N, T, A) float32 in [-1, 1], as executed
    log_probs: np.ndarray  # (N, T) float32, summed over the A tokens
    values: np.ndarray  # (N, T) float32, critic before each step
    features: np.ndarray | None  # (N, T, D) critic features, where the critic keeps them
    terminated: np.ndarray  # (N, T) bool
    truncated: np.ndarray  # (N, T) bool
    errored: np.ndarray  # (N, T) bool
    final_values: np.ndarray  # (N, T) float32, value of final_obs where truncated, else 0
    final_images: Mapping[tuple[int, int], np.ndarray]  # (slot, step) -> (H, W, 3), where truncated
    last_values: np.ndarray  # (N,) float32, value of the observation after step T - 1
    last_images: np.ndarray | None = None  # (N, H, W, 3) uint8, that observation
    gripper_opening: np.ndarray  # (N, T) float32
    eef_speed: np.ndarray  # (N, T) float32
    goal_distance: np.ndarray | None = None  # (N, T) float32, before each step; NaN where the suite cannot tell
    next_goal_distance: np.ndarray | None = None  # (N, T) float32, after each step
    instructions: tuple[str, ...]  # by task index
    episodes: tuple[Episode, ...]  # finished ones, in (slot, index) order
    temperature: float
    digests: StageDigests
    shard_digests: tuple[StageDigests, ...] = ()  # of each shard of slots; one shard's are ``digests``
    active: np.ndarray | None = None  # (N, T) bool, where a slot was in an episode; None: everywhere
    num_taken: np.ndarray | None = None  # (N, T) int32, control steps that each step lasted; None: one each
    first_slot: int = 0  # slot of images[0] and features[0], when other processes have those of the slots before it

    @property
    def num_steps(self) -> int:
        """Control steps taken."""
        if self.num_taken is not None:
            taken: np.ndarray = self.num_taken if self.active is None else self.num_taken[self.active]
            return int(taken.sum())
        if self.active is not None:
            return int(self.active.sum())
        return int(self.tokens.shape[0] * self.tokens.shape[1])

    @property
    def chunk(self) -> int:
        """Control steps that a step lasts unless the episode ends before."""
        return max(1, int(self.actions.shape[2]) // ACTION_SIZE)

    def steps_of(self, episode: Episode) -> slice:
        """The steps of this rollout in which ``episode`` ran; what it did before is not in them."""
        stop = episode.end_step + 1
        return slice(max(0, stop - -(-episode.length // self.chunk)), stop)

    def discounts(self, gamma: float) -> float | np.ndarray:
        """``gamma`` to the control steps that each step lasted: one number, or (N, T) float64."""
        if self.num_taken is None:
            return gamma
        factors: np.ndarray = np.float64(gamma) ** self.num_taken
        return factors


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A rollout with its rewards; the breakdown sums to ``rewards``."""

    rollout: Rollout
    rewards: np.ndarray  # (N, T) float32
    breakdown: Mapping[str, np.ndarray]  # name -> (N, T) float32, weighted


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the update sees: B = N x T steps, slot-major."""

    images: np.ndarray  # (B, H, W, 3) uint8
    tasks: np.ndarray  # (B,) int32, indexes ``instructions``
    instructions: tuple[str, ...]
    tokens: np.ndarray  # (B, A) int64
    old_log_probs: np.ndarray  # (B,) float32
    old_values: np.ndarray  # (B,) float32
    advantages: np.ndarray  # (B,) float32
    returns: np.ndarray  # (B,) float32
    features: np.ndarray | None  # (B, D) where the critic keeps them
    temperature: float
    first_row: int = 0  # row of images[0] and features[0], when other processes have those of the rows before it

    def __len__(self) -> int:
        return int(self.tokens.shape[0])


@dataclass(frozen=True, kw_only=True)
class UpdateStats:
    """What one PPO update did; means over the minibatches taken."""

    policy_loss: float
    value_loss: float
    entropy: float
    approx_kl: float
    clip_fraction: float
    explained_variance: float
    policy_grad_norm: float
    critic_grad_norm: float
    first_ratio_error: float  # max |ratio - 1| of the first minibatch
    ratio_spread: float  # max |ratio - 1| of the last minibatch
    num_minibatches: int
    epochs_done: int  # below ppo.epochs when target_kl stopped the update
    policy_updated: bool  # False during critic warm-up
    seconds: float

    @classmethod
    def of_nothing(cls) -> UpdateStats:
        """Of an update that had no step to learn from."""
        numbers: dict[str, Any] = dict.fromkeys((field.name for field in fields(cls)), 0)
        return cls(**{**numbers, "policy_updated": False})
