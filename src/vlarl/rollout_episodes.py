"""Rollouts of whole episodes in groups: the episodes of a group share task, init state and seed.

All slots begin together and run until each has done its share of episodes; a slot that is done earlier waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Protocol

import numpy as np

from vlarl.policies.protocol import Critic, Policy
from vlarl.recipe.specs.learning import RolloutSpec
from vlarl.rollout import _bootstrap_values, _Buffer, _decide, _rollout, _store_step, collect
from vlarl.suites.protocol import SlotPool
from vlarl.types import EpisodeSpec, Rollout, Task

Choose = Callable[[int, int], EpisodeSpec]


class RestartablePool(SlotPool, Protocol):
    """A pool whose idle slots can begin again."""

    def restart(self) -> None: ...


class Collect(Protocol):
    """Collects the rollout of one iteration."""

    def __call__(
        self,
        policy: Policy,
        critic: Critic,
        pool: RestartablePool,
        *,
        instructions: Sequence[str],
        seed: int,
        temperature: float,
        ledger: dict[str, float],
    ) -> Rollout: ...


class Assignment:
    """Which episode a slot runs next; in groups, slot by slot in order, all run what their first slot would run.

    With groups a slot is idle from ``until`` finished episodes on.
    """

    def __init__(self, spec: RolloutSpec, choose: Choose) -> None:
        self._choose = choose
        self._group_size = spec.group_size if spec.kind == "episodes" else None
        self.until = 0

    def __call__(self, slot: int, episode_index: int) -> EpisodeSpec | None:
        if self._group_size is None:
            return self._choose(slot, episode_index)
        if episode_index >= self.until:
            return None
        return self._choose(slot - slot % self._group_size, episode_index)


def collector(spec: RolloutSpec, assignment: Assignment, num_envs: int, tasks: Sequence[Task]) -> Collect:
    """The way of collecting that a recipe asks for."""
    if spec.kind == "steps":
        return partial(collect, num_steps=spec.num_steps)
    episodes = spec.num_groups * spec.group_size // num_envs
    max_steps = episodes * max(task.horizon for task in tasks)
    return partial(collect_episodes, assignment=assignment, num_episodes=episodes, max_steps=max_steps)


def collect_episodes(
    policy: Policy,
    critic: Critic,
    pool: RestartablePool,
    *,
    assignment: Assignment,
    num_episodes: int,
    max_steps: int,
    instructions: Sequence[str],
    seed: int,
    temperature: float,
    ledger: dict[str, float],
) -> Rollout:
    """``num_episodes`` whole episodes of every slot; T is what the slowest slot took, ``active`` says who ran when.

    Everything is zero where a slot waited. ``pool`` was built with ``assignment`` and all of its slots are idle.
    """
    assignment.until = int(pool.episode_index(0)[0]) + num_episodes
    pool.restart()
    buffer = _Buffer(pool, max_steps, policy.num_action_tokens)
    active = np.zeros(buffer.values.shape, bool)
    busy = [True] * len(pool.groups)
    t = 0
    while any(busy):
        for group, slots in enumerate(pool.groups):
            if not busy[group]:
                continue
            if t > 0:
                _store_step(buffer, pool, group, slots, t - 1)
            busy[group] = bool(pool.active(group).any())
            if busy[group]:
                active[slots, t] = pool.active(group)
                started = perf_counter()
                actions = _decide(policy, critic, pool, buffer, group, slots, t, seed, temperature)
                ledger["infer_seconds"] += perf_counter() - started
                pool.send(group, actions)
        t += 1
    started = perf_counter()
    _bootstrap_values(policy, critic, pool, buffer, instructions)
    ledger["infer_seconds"] += perf_counter() - started
    active = active[:, : t - 1]
    _cut(buffer, active)
    return replace(_rollout(buffer, pool, tuple(instructions), temperature), active=active)


def _cut(buffer: _Buffer, active: np.ndarray) -> None:
    """Keep the steps that were taken, and clear what was written of slots that waited."""
    whole = buffer.values.shape
    for name, value in list(vars(buffer).items()):
        if isinstance(value, np.ndarray) and value.shape[:2] == whole:
            kept = value[:, : active.shape[1]]
            kept[~active] = 0
            setattr(buffer, name, kept)
    buffer.states = {place: digest for place, digest in buffer.states.items() if active[place]}
    buffer.last_values[:] = 0
    buffer.last_images[:] = 0
