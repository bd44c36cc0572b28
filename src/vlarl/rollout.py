"""Collecting a rollout: T steps of every slot, one group simulating while another decides."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch

from vlarl.digest import array_digest, bytes_digest
from vlarl.distributed_rollout import combined
from vlarl.policies.protocol import Critic, Policy
from vlarl.seeding import uniforms
from vlarl.suites.protocol import SlotPool
from vlarl.types import ACTION_SIZE, Episode, Observation, Rollout, StageDigests


class _Buffer:
    """Arrays of one rollout while it grows."""

    def __init__(self, pool: SlotPool, num_steps: int, num_tokens: int) -> None:
        first = pool.observation(0).images
        slots = pool.groups[-1].stop
        shape = (slots, num_steps)
        self.images = np.empty((*shape, *first.shape[1:]), np.uint8)
        self.tasks = np.empty(shape, np.int32)
        self.inits = np.empty(shape, np.int32)
        self.seeds = np.empty(shape, np.int64)
        self.episode_steps = np.empty(shape, np.int32)
        self.tokens = np.empty((*shape, num_tokens), np.int64)
        self.num_taken = np.ones(shape, np.int32)
        self.actions = np.empty((*shape, num_tokens), np.float32)
        self.log_probs = np.empty(shape, np.float32)
        self.values = np.empty(shape, np.float32)
        self.features: np.ndarray | None = None
        self.terminated = np.zeros(shape, bool)
        self.truncated = np.zeros(shape, bool)
        self.errored = np.zeros(shape, bool)
        self.gripper_opening = np.empty(shape, np.float32)
        self.eef_speed = np.empty(shape, np.float32)
        self.goal_distance = np.empty(shape, np.float32)
        self.next_goal_distance = np.empty(shape, np.float32)
        self.states: dict[tuple[int, int], bytes] = {}
        self.final_images: dict[tuple[int, int], np.ndarray] = {}
        self.final_values = np.zeros(shape, np.float32)
        self.last_values = np.empty(slots, np.float32)
        self.last_images = np.empty((slots, *first.shape[1:]), np.uint8)
        self.episodes: list[Episode] = []


def collect(
    policy: Policy,
    critic: Critic,
    pool: SlotPool,
    *,
    instructions: Sequence[str],
    seed: int,
    num_steps: int,
    temperature: float,
    ledger: dict[str, float],
) -> Rollout:
    """T steps of every slot of ``pool`` under the present weights, values and bootstrap values included.

    Slots are counted as in the pool; ``distributed_rollout.share`` puts those of several processes together.
    ``ledger["infer_seconds"]`` is increased by the time spent in the policy and critic.
    """
    pool.refresh()
    buffer = _Buffer(pool, num_steps, policy.num_action_tokens)
    for t in range(num_steps):
        for group, slots in enumerate(pool.groups):
            if t > 0:
                _store_step(buffer, pool, group, slots, t - 1)
            started = perf_counter()
            actions = _decide(policy, critic, pool, buffer, group, slots, t, seed, temperature)
            ledger["infer_seconds"] += perf_counter() - started
            pool.send(group, actions)
    for group, slots in enumerate(pool.groups):
        _store_step(buffer, pool, group, slots, num_steps - 1)
    started = perf_counter()
    _bootstrap_values(policy, critic, pool, buffer, instructions)
    ledger["infer_seconds"] += perf_counter() - started
    return _rollout(buffer, pool, tuple(instructions), temperature)


def _decide(
    policy: Policy,
    critic: Critic,
    pool: SlotPool,
    buffer: _Buffer,
    group: int,
    slots: slice,
    t: int,
    seed: int,
    temperature: float,
) -> np.ndarray:
    """Actions (n, A) of one group at step t; everything known before the step is written to the buffer."""
    observation = pool.observation(group)
    specs, indices, steps = pool.specs(group), pool.episode_index(group), pool.episode_step(group)
    draws = np.stack(
        [
            uniforms(policy.num_action_tokens, seed, "action", pool.first_slot + slot, int(index), int(step))
            for slot, index, step in zip(range(slots.start, slots.stop), indices, steps, strict=True)
        ]
    )
    inputs = policy.prepare(observation)
    sampled = policy.sample(inputs, temperature=temperature, uniforms=draws)
    feature = sampled.feature
    if critic.adapter != "policy":
        with torch.no_grad():
            feature = policy.features(inputs, adapter=critic.adapter)
    tokens = sampled.tokens.numpy()
    actions = policy.decode(tokens)
    buffer.images[slots, t] = observation.images
    buffer.tasks[slots, t] = [spec.task for spec in specs]
    buffer.inits[slots, t] = [spec.init for spec in specs]
    buffer.seeds[slots, t] = [spec.seed for spec in specs]
    buffer.episode_steps[slots, t] = steps
    buffer.goal_distance[slots, t] = pool.goal_distance(group)
    buffer.tokens[slots, t] = tokens
    buffer.actions[slots, t] = actions
    buffer.log_probs[slots, t] = sampled.log_prob.numpy()
    with torch.no_grad():
        buffer.values[slots, t] = critic.value(feature).numpy()
    if critic.caches_features:
        if buffer.features is None:
            buffer.features = np.empty((*buffer.values.shape, feature.shape[1]), np.float32)
        buffer.features[slots, t] = feature.numpy()
    return actions


def _store_step(buffer: _Buffer, pool: SlotPool, group: int, slots: slice, t: int) -> None:
    indices = pool.episode_index(group)
    specs = pool.specs(group)
    step = pool.receive(group)
    buffer.terminated[slots, t] = step.terminated
    buffer.truncated[slots, t] = step.truncated
    buffer.errored[slots, t] = step.errored
    buffer.gripper_opening[slots, t] = step.gripper_opening
    buffer.eef_speed[slots, t] = step.eef_speed
    if step.num_taken is not None:
        buffer.num_taken[slots, t] = step.num_taken
    buffer.next_goal_distance[slots, t] = step.goal_distance
    ended = step.terminated | step.truncated | step.errored
    for i, slot in enumerate(range(slots.start, slots.stop)):
        buffer.states[slot, t] = step.state_digests[i]
        if not ended[i]:
            continue
        if step.truncated[i]:
            buffer.final_images[slot, t] = step.final_images[i]
        buffer.episodes.append(
            Episode(
                spec=specs[i],
                slot=slot,
                index=int(indices[i]),
                length=int(buffer.episode_steps[slot, t] + buffer.num_taken[slot, t]),
                success=bool(step.terminated[i]),
                truncated=bool(step.truncated[i]),
                errored=bool(step.errored[i]),
                end_step=t,
            )
        )


def _bootstrap_values(
    policy: Policy, critic: Critic, pool: SlotPool, buffer: _Buffer, instructions: Sequence[str]
) -> None:
    """Values of the observations after the last step, and of final observations at the horizon."""
    for group, slots in enumerate(pool.groups):
        observation = pool.observation(group)
        buffer.last_images[slots] = observation.images
        buffer.last_values[slots] = _values(policy, critic, observation)
    for shard in pool.shards:
        places = [place for place in sorted(buffer.final_images) if shard.start <= place[0] < shard.stop]
        if not places:
            continue
        observation = Observation(
            images=np.stack([buffer.final_images[place] for place in places]),
            instructions=tuple(instructions[buffer.tasks[place]] for place in places),
        )
        for place, value in zip(places, _values(policy, critic, observation), strict=True):
            buffer.final_values[place] = value


def _values(policy: Policy, critic: Critic, observation: Observation) -> np.ndarray:
    with torch.no_grad():
        feature = policy.features(policy.prepare(observation), adapter=critic.adapter)
        return critic.value(feature).numpy()


def _digests(buffer: _Buffer, shard: slice) -> StageDigests:
    states = [buffer.states[place] for place in sorted(buffer.states) if shard.start <= place[0] < shard.stop]
    finals = [
        buffer.final_images[place] for place in sorted(buffer.final_images) if shard.start <= place[0] < shard.stop
    ]
    return StageDigests(
        tasks=array_digest(buffer.tasks[shard]),
        inits=array_digest(buffer.inits[shard], buffer.seeds[shard]),
        actions=array_digest(buffer.tokens[shard]),
        states=bytes_digest(b"".join(states)),
        pixels=array_digest(buffer.images[shard], *finals),
    )


def _rollout(buffer: _Buffer, pool: SlotPool, instructions: tuple[str, ...], temperature: float) -> Rollout:
    shard_digests = tuple(_digests(buffer, shard) for shard in pool.shards)
    return Rollout(
        images=buffer.images,
        tasks=buffer.tasks,
        inits=buffer.inits,
        episode_steps=buffer.episode_steps,
        tokens=buffer.tokens,
        actions=buffer.actions,
        log_probs=buffer.log_probs,
        values=buffer.values,
        features=buffer.features,
        terminated=buffer.terminated,
        truncated=buffer.truncated,
        errored=buffer.errored,
        final_values=buffer.final_values,
        final_images=buffer.final_images,
        last_values=buffer.last_values,
        last_images=buffer.last_images,
        gripper_opening=buffer.gripper_opening,
        eef_speed=buffer.eef_speed,
        goal_distance=buffer.goal_distance,
        next_goal_distance=buffer.next_goal_distance,
        instructions=instructions,
        episodes=tuple(sorted(buffer.episodes, key=lambda episode: (episode.slot, episode.index))),
        temperature=temperature,
        digests=combined(shard_digests),
        shard_digests=shard_digests,
        num_taken=buffer.num_taken if buffer.actions.shape[2] > ACTION_SIZE else None,
        first_slot=pool.first_slot,
    )
