"""Privileged dense reward: the rise of a potential that falls with the distance to the goal."""

from __future__ import annotations

import numpy as np

from vlarl.recipe.specs.learning import Truncation
from vlarl.recipe.specs.rewards import DenseOracleRewardSpec
from vlarl.rewards.rises import rises
from vlarl.types import Rollout


class DenseOracleReward:
    """Pays scale x (gamma x Phi(next) - Phi(present)) with Phi = exp(-distance / length), 0 after success.

    With ``truncation: terminal`` nothing follows the horizon, so that Phi is 0 there too: else an episode that waits
    near the goal would keep what success gives back. Where a step lasted k control steps, gamma is to the power of k.

    ``mode: difference`` pays scale x (Phi(next) - Phi(present)), where Phi is 1 after success and the horizon changes
    nothing. The step at which an episode errors pays nothing.
    """

    name = "dense_oracle"

    def __init__(self, spec: DenseOracleRewardSpec, *, gamma: float, truncation: Truncation) -> None:
        self._spec, self._gamma, self._truncation = spec, gamma, truncation
        self.weight = spec.weight

    def score(self, rollout: Rollout) -> np.ndarray:
        assert rollout.goal_distance is not None
        assert rollout.next_goal_distance is not None
        present, following = self._potential(rollout.goal_distance), self._potential(rollout.next_goal_distance)
        rewards = self._spec.scale * rises(
            rollout, present, following, self._spec.mode, gamma=self._gamma, truncation=self._truncation
        )
        rewards[rollout.errored] = 0.0
        if rollout.active is not None:
            rewards[~rollout.active] = 0.0
        return rewards.astype(np.float32)

    def _potential(self, distance: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(-distance / np.float32(self._spec.length)))
