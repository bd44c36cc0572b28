"""Running a policy once on each of a list of episodes, in fixed slots, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vlarl.policies.protocol import Policy
from vlarl.seeding import uniforms
from vlarl.suites.protocol import SlotPool
from vlarl.types import ACTION_SIZE, EpisodeSpec, Split, Trial


@dataclass(frozen=True)
class Queue:
    """Hands episode k of a list to slot k mod N, so that the work does not depend on who is faster."""

    specs: tuple[EpisodeSpec, ...]
    num_slots: int

    def __call__(self, slot: int, episode_index: int) -> EpisodeSpec | None:
        position = slot + episode_index * self.num_slots
        return self.specs[position] if position < len(self.specs) else None


def held_out(num_tasks: int, episodes: int, split: Split = "eval") -> tuple[EpisodeSpec, ...]:
    """Init states 0 .. episodes - 1 of every task, task after task: few compiled tasks at once are in use."""
    return tuple(EpisodeSpec(task, split, init, 0) for task in range(num_tasks) for init in range(episodes))


def evaluate_policy(
    policy: Policy,
    pool: SlotPool,
    specs: Sequence[EpisodeSpec],
    *,
    temperature: float | None,
    seed: int,
    among: Sequence[str] = (),
    progress: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Every episode of ``specs`` once, in their order; greedy when ``temperature`` is None.

    ``pool`` was built with ``Queue(specs, N)`` and started. Uniforms depend on the episode and its step only.
    With all of the suite's instructions in ``among`` an episode is the same bits beside any other episodes.
    """
    actions: dict[int, list[np.ndarray]] = {slot: [] for slot in range(pool.groups[-1].stop)}
    trials: dict[EpisodeSpec, Trial] = {}
    busy = [bool(pool.active(group).any()) for group in range(len(pool.groups))]
    for group in np.flatnonzero(busy).tolist():
        pool.send(group, _decide(policy, pool, group, temperature, seed, among, actions))
    while any(busy):
        for group in np.flatnonzero(busy).tolist():
            for trial in _receive(pool, group, actions):
                trials[trial.spec] = trial
                progress(trial)
            busy[group] = bool(pool.active(group).any())
            if busy[group]:
                pool.send(group, _decide(policy, pool, group, temperature, seed, among, actions))
    return [trials[spec] for spec in specs]


def _decide(
    policy: Policy,
    pool: SlotPool,
    group: int,
    temperature: float | None,
    seed: int,
    among: Sequence[str],
    actions: dict[int, list[np.ndarray]],
) -> np.ndarray:
    specs, steps = pool.specs(group), pool.episode_step(group)
    draws = None
    if temperature is not None:
        draws = np.stack(
            [
                uniforms(policy.num_action_tokens, seed, "evaluation", spec.task, spec.split, spec.init, int(step))
                for spec, step in zip(specs, steps, strict=True)
            ]
        )
    inputs = policy.prepare(pool.observation(group), among=among)
    sampled = policy.sample(inputs, temperature=temperature or 1.0, uniforms=draws)
    chosen = policy.decode(sampled.tokens.numpy())
    for slot, action in zip(range(pool.groups[group].start, pool.groups[group].stop), chosen, strict=True):
        actions[slot].append(action)
    return chosen


def _receive(pool: SlotPool, group: int, actions: dict[int, list[np.ndarray]]) -> list[Trial]:
    specs, steps, active = pool.specs(group), pool.episode_step(group), pool.active(group)
    step = pool.receive(group)
    ended = (step.terminated | step.truncated | step.errored) & active
    taken = np.ones(len(ended), np.int32) if step.num_taken is None else step.num_taken
    finished = []
    for i in np.flatnonzero(ended):
        slot, length = pool.groups[group].start + int(i), int(steps[i] + taken[i])
        finished.append(
            Trial(
                spec=specs[i],
                success=bool(step.terminated[i]),
                errored=bool(step.errored[i]),
                length=length,
                actions=np.stack(actions[slot]).reshape(-1, ACTION_SIZE)[:length],  # of a chunk, what was carried out
            )
        )
        actions[slot] = []
    return finished
