"""Privileged dense reward: the difference of a potential that falls with the distance to the goal."""

from __future__ import annotations

import numpy as np

from vlarl.recipe.specs.learning import Truncation
from vlarl.recipe.specs.rewards import DenseOracleRewardSpec
from vlarl.types import Rollout


class DenseOracleReward:
    """Pays scale x (gamma x Phi(next) - Phi(present)) with Phi = exp(-distance / length), 0 after success.

    With ``truncation: terminal`` nothing follows the horizon, so that Phi is 0 there too: else an episode that waits
    near the goal would keep what success gives back. The step at which an episode errors pays nothing. Where a step
    lasted k control steps, gamma is to the power of k.
    """

    name = "dense_oracle"

    def __init__(self, spec: DenseOracleRewardSpec, *, gamma: float, truncation: Truncation) -> None:
        self._spec, self._gamma, self._truncation = spec, gamma, truncation
        self.weight = spec.weight

    def score(self, rollout: Rollout) -> np.ndarray:
        assert rollout.goal_distance is not None
        assert rollout.next_goal_distance is not None
        present, following = self._potential(rollout.goal_distance), self._potential(rollout.next_goal_distance)
        following[rollout.terminated] = 0.0
        if self._truncation == "terminal":
            following[rollout.truncated] = 0.0
        rewards = self._spec.scale * (rollout.discounts(self._gamma) * following - present)
        rewards[rollout.errored] = 0.0
        if rollout.active is not None:
            rewards[~rollout.active] = 0.0
        return rewards.astype(np.float32)

    def _potential(self, distance: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(-distance / np.float32(self._spec.length)))
