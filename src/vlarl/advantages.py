"""Generalised advantage estimation over whole slots, one value per step, which is one decision of the policy."""

from __future__ import annotations

from typing import Literal

import numpy as np

from vlarl.recipe.specs.learning import PpoSpec
from vlarl.types import Batch, Episode, EpisodeSpec, Scored

Truncation = Literal["bootstrap", "terminal"]
GroupKind = Literal["grpo", "rloo"]
_ROUNDING = 1e-6  # a deviation of this share of the mean, or of 1, is none


def estimated(scored: Scored, spec: PpoSpec) -> Batch:
    """The batch of a scored rollout by the recipe's kind of advantage."""
    if spec.advantage != "gae":
        return group_advantages(scored, spec.advantage, drop_equal_groups=spec.drop_equal_groups)
    return advantages(
        scored,
        gamma=spec.gamma,
        gae_lambda=spec.gae_lambda,
        truncation=spec.truncation,
        normalize=spec.normalize_advantages,
    )


def group_advantages(scored: Scored, kind: GroupKind, *, drop_equal_groups: bool = False) -> Batch:
    """Every step of an episode has the episode's advantage: its return against those of its group.

    A return is the undiscounted sum of rewards; a group are the episodes of equal (task, init, seed). ``grpo`` is
    (R - mean) / deviation (Shao et al. 2024), 0 where nothing deviates; ``rloo`` is R minus the mean of the others
    (Ahmadian et al. 2024). ``drop_equal_groups`` leaves out groups whose episodes all succeeded or all failed.
    """
    rollout = scored.rollout
    shape = rollout.values.shape
    raw, returns, kept = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    groups: dict[EpisodeSpec, list[Episode]] = {}
    for episode in rollout.episodes:
        groups.setdefault(episode.spec, []).append(episode)
    for group in groups.values():
        if drop_equal_groups and len({episode.success for episode in group}) == 1:
            continue
        places = [(episode.slot, rollout.steps_of(episode)) for episode in group]
        totals = np.array([scored.rewards[place].sum(dtype=np.float64) for place in places])
        for place, total, advantage in zip(places, totals, _against_group(totals, kind), strict=True):
            raw[place], returns[place], kept[place] = advantage, total, True
    return _batch(scored, raw, returns, kept)


def _against_group(totals: np.ndarray, kind: GroupKind) -> np.ndarray:
    """(G,) advantages of episodes with returns ``totals`` (G,)."""
    if kind == "grpo":
        return normalized(totals)
    assert len(totals) > 1, "a group of one has no others"
    advantages: np.ndarray = (totals - totals.mean()) * (len(totals) / (len(totals) - 1))
    return advantages


def advantages(
    scored: Scored, *, gamma: float, gae_lambda: float, truncation: Truncation, normalize: bool = False
) -> Batch:
    """Advantages and returns of a scored rollout, flattened slot-major for the update.

    delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lambda * A_{t+1} (Schulman et al.
    2016, eq. 16), both cut where an episode ends. At the horizon ``bootstrap`` takes V(final_obs) for
    V_{t+1}, ``terminal`` takes 0.

    Where a step lasted k control steps, gamma^k stands for gamma: rewards of a chunk are summed as they are, and the
    discount counts control steps, so that it means the same for every policy. lambda counts steps, as it weighs values.
    """
    rollout = scored.rollout
    raw = gae(
        rewards=scored.rewards,
        values=rollout.values,
        ended=rollout.terminated | rollout.truncated | rollout.errored,
        boundary_values=_boundary_values(scored, truncation),
        last_values=rollout.last_values,
        gamma=rollout.discounts(gamma),
        gae_lambda=gae_lambda,
    )
    returns = raw + rollout.values
    kept = rollout.active
    if normalize:
        raw = _normalized_where(raw, np.ones(raw.shape, bool) if kept is None else kept)
    return _batch(scored, raw, returns, kept)


def _batch(scored: Scored, raw: np.ndarray, returns: np.ndarray, kept: np.ndarray | None) -> Batch:
    """The steps ``kept`` (N, T), all when None, flattened slot-major, with advantages ``raw`` (N, T)."""
    rollout = scored.rollout

    def flat(values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, *values.shape[2:]) if kept is None else values[kept]

    assert kept is None or rollout.first_slot == 0, "whole episodes are collected by one process"
    return Batch(
        images=flat(rollout.images),
        tasks=flat(rollout.tasks),
        instructions=rollout.instructions,
        tokens=flat(rollout.tokens),
        old_log_probs=flat(rollout.log_probs),
        old_values=flat(rollout.values),
        advantages=flat(raw).astype(np.float32),
        returns=flat(returns).astype(np.float32),
        features=None if rollout.features is None else flat(rollout.features),
        temperature=rollout.temperature,
        first_row=rollout.first_slot * rollout.tokens.shape[1],
    )


def gae(
    *,
    rewards: np.ndarray,
    values: np.ndarray,
    ended: np.ndarray,
    boundary_values: np.ndarray,
    last_values: np.ndarray,
    gamma: float | np.ndarray,
    gae_lambda: float,
) -> np.ndarray:
    """(N, T) float64 advantages; ``gamma`` is one discount, or (N, T) of them, each of what follows its step.

    ``boundary_values`` (N, T) stands for V_{t+1} where an episode ``ended`` (N, T) at t;
    ``last_values`` (N,) stands for it after the last step.
    """
    num_slots, num_steps = rewards.shape
    result = np.zeros((num_slots, num_steps), dtype=np.float64)
    carried = np.zeros(num_slots, dtype=np.float64)
    next_values = last_values.astype(np.float64)
    for t in reversed(range(num_steps)):
        discount = gamma[:, t] if isinstance(gamma, np.ndarray) else gamma
        following = np.where(ended[:, t], boundary_values[:, t], next_values)
        delta = rewards[:, t] + discount * following - values[:, t]
        carried = delta + discount * gae_lambda * np.where(ended[:, t], 0.0, carried)
        result[:, t] = carried
        next_values = values[:, t].astype(np.float64)
    return result


def normalized(raw: np.ndarray) -> np.ndarray:
    """Mean 0, deviation 1; all zero where nothing varies beyond rounding."""
    mean = float(raw.mean())
    centred: np.ndarray = raw - mean
    deviation = float(centred.std())
    # Equal sums of rewards that were added in another order differ in their last bits.
    if deviation <= _ROUNDING * max(1.0, abs(mean)):
        return np.zeros_like(centred)
    return centred / deviation


def _normalized_where(raw: np.ndarray, kept: np.ndarray) -> np.ndarray:
    result = np.zeros_like(raw)
    result[kept] = normalized(raw[kept])
    return result


def _boundary_values(scored: Scored, truncation: Truncation) -> np.ndarray:
    rollout = scored.rollout
    if truncation == "terminal":
        return np.zeros_like(rollout.values)
    values: np.ndarray = np.where(rollout.truncated, rollout.final_values, 0.0)
    return values
