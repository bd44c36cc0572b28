"""What a suite is to the rest of vlarl: tasks, init states, simulations and their conventions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from vlarl.types import EpisodeSpec, Observation, Split, Step, Task


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """What an action and an image mean. Compared with the policy's before the first step."""

    action: str  # e.g. "delta_xyz, delta_axis_angle, gripper(-1 open, +1 close)"
    action_dim: int
    control_hz: float
    image: str  # e.g. "agentview rgb, upright"
    image_size: int
    settle_steps: int = 0  # control steps between a reset and the policy's first look
    more: Mapping[str, str | bool] = field(default_factory=dict)  # the suite's own, e.g. how fixtures are placed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one control step did to one simulation."""

    terminated: bool  # success
    truncated: bool  # horizon reached without success
    gripper_opening: float  # 0 closed .. 1 open
    eef_speed: float  # |end-effector displacement| x control rate, metres per second


class Simulation(Protocol):
    """One compiled task that runs one episode at a time.

    Physics and rendering are apart so that a replay never renders. After ``begin`` everything
    depends on the spec and the actions alone, never on what ran before.
    """

    task: Task

    def begin(self, spec: EpisodeSpec) -> None: ...

    def advance(self, action: np.ndarray) -> Outcome:
        """One control step with ``action`` (7,) float32 in [-1, 1]."""
        ...

    def render_into(self, image: np.ndarray) -> None:
        """Write the policy's view, upright, into ``image`` (H, W, 3) uint8."""
        ...

    def state_digest(self) -> bytes:
        """16 bytes that differ when any part of the simulator's state differs."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Measurable(Protocol):
    """A simulation that can tell, from its privileged state, how far its task is from done."""

    def goal_distance(self) -> float:
        """Metres still to go; falls to about 0 with success."""
        ...


@runtime_checkable
class Wristed(Protocol):
    """A simulation with a second camera, on the hand."""

    def render_wrist_into(self, image: np.ndarray) -> None:
        """Write its view, turned as ``render_into`` turns the first one's, into ``image`` (H, W, 3) uint8."""
        ...


class Expert(Protocol):
    """A scripted expert that reads privileged state; one instance per episode."""

    def act(self) -> np.ndarray:
        """Next action (7,) float32 in [-1, 1] for the simulation's present state."""
        ...


class Suite(Protocol):
    """A set of tasks. Built in the trainer and again in every worker, from the same spec."""

    name: str
    conventions: Conventions

    def tasks(self) -> tuple[Task, ...]: ...

    def num_inits(self, task: int, split: Split) -> int: ...

    def simulation(self, task: int) -> Simulation:
        """A new simulation of task ``task`` (position in ``tasks()``)."""
        ...

    def expert(self, simulation: Simulation) -> Expert:
        """An expert for the episode that ``simulation`` has just begun."""
        ...

    def has_expert(self, task: int) -> bool: ...

    def demonstration_arrays(self, simulation: Simulation) -> dict[str, np.ndarray]:
        """One step's low-dimensional observations under LIBERO's names.

        ee_pos, ee_ori, ee_states, gripper_states, joint_states, and states: the flattened simulator state.
        """
        ...


@runtime_checkable
class Inspectable(Protocol):
    """A suite that can tell what its physics and pixels are made of."""

    def assets(self) -> dict[str, str]:
        """Name → digest of every model, mesh, task file and init state that its tasks use."""
        ...


class SlotPool(Protocol):
    """What the mechanics need of the vectorised pool: N slots in fixed groups, stepped in lockstep."""

    first_slot: int  # slots are counted from 0 here, over all processes from this one
    shards: tuple[slice, ...]
    groups: tuple[slice, ...]  # each within one shard

    def refresh(self) -> None:
        """Ask again which episode each slot runs next; present episodes go on."""
        ...

    def observation(self, group: int) -> Observation: ...

    def specs(self, group: int) -> tuple[EpisodeSpec, ...]: ...

    def episode_index(self, group: int) -> np.ndarray:
        """(n,) int64: episodes each slot has finished."""
        ...

    def episode_step(self, group: int) -> np.ndarray:
        """(n,) int32: steps taken in the present episode."""
        ...

    def active(self, group: int) -> np.ndarray:
        """(n,) bool: False where the slot has nothing more to run."""
        ...

    def goal_distance(self, group: int) -> np.ndarray:
        """(n,) float32: metres still to go; NaN where the suite cannot tell."""
        ...

    def send(self, group: int, actions: np.ndarray) -> None: ...

    def receive(self, group: int) -> Step: ...
