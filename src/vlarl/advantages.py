"""Generalised advantage estimation over whole slots, one value per control step."""

from __future__ import annotations

from typing import Literal

import numpy as np

from vlarl.types import Batch, Scored

Truncation = Literal["bootstrap", "terminal"]


def advantages(
    scored: Scored, *, gamma: float, gae_lambda: float, truncation: Truncation, normalize: bool = False
) -> Batch:
    """Advantages and returns of a scored rollout, flattened slot-major for the update.

    delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lambda * A_{t+1} (Schulman et al.
    2016, eq. 16), both cut where an episode ends. At the horizon ``bootstrap`` takes V(final_obs) for
    V_{t+1}, ``terminal`` takes 0.
    """
    rollout = scored.rollout
    raw = gae(
        rewards=scored.rewards,
        values=rollout.values,
        ended=rollout.terminated | rollout.truncated | rollout.errored,
        boundary_values=_boundary_values(scored, truncation),
        last_values=rollout.last_values,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    returns = raw + rollout.values
    size = rollout.num_steps
    flat = raw.reshape(size)
    return Batch(
        images=rollout.images.reshape(size, *rollout.images.shape[2:]),
        tasks=rollout.tasks.reshape(size),
        instructions=rollout.instructions,
        tokens=rollout.tokens.reshape(size, -1),
        old_log_probs=rollout.log_probs.reshape(size),
        old_values=rollout.values.reshape(size),
        advantages=(normalized(flat) if normalize else flat).astype(np.float32),
        returns=returns.reshape(size).astype(np.float32),
        features=None if rollout.features is None else rollout.features.reshape(size, -1),
        temperature=rollout.temperature,
    )


def gae(
    *,
    rewards: np.ndarray,
    values: np.ndarray,
    ended: np.ndarray,
    boundary_values: np.ndarray,
    last_values: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """(N, T) float64 advantages.

    ``boundary_values`` (N, T) stands for V_{t+1} where an episode ``ended`` (N, T) at t;
    ``last_values`` (N,) stands for it after the last step.
    """
    num_slots, num_steps = rewards.shape
    result = np.zeros((num_slots, num_steps), dtype=np.float64)
    carried = np.zeros(num_slots, dtype=np.float64)
    next_values = last_values.astype(np.float64)
    for t in reversed(range(num_steps)):
        following = np.where(ended[:, t], boundary_values[:, t], next_values)
        delta = rewards[:, t] + gamma * following - values[:, t]
        carried = delta + gamma * gae_lambda * np.where(ended[:, t], 0.0, carried)
        result[:, t] = carried
        next_values = values[:, t].astype(np.float64)
    return result


def normalized(raw: np.ndarray) -> np.ndarray:
    """Mean 0, deviation 1; all zero where nothing varies."""
    centred: np.ndarray = raw - raw.mean()
    deviation = float(centred.std())
    return centred / deviation if deviation > 0.0 else centred


def _boundary_values(scored: Scored, truncation: Truncation) -> np.ndarray:
    rollout = scored.rollout
    if truncation == "terminal":
        return np.zeros_like(rollout.values)
    values: np.ndarray = np.where(rollout.truncated, rollout.final_values, 0.0)
    return values
