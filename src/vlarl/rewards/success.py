"""Sparse success."""

from __future__ import annotations

import numpy as np

from vlarl.recipe.specs.rewards import SuccessRewardSpec
from vlarl.types import Rollout


class SuccessReward:
    """1 at the step that succeeds; configured values where an episode is truncated or errors."""

    name = "success"

    def __init__(self, spec: SuccessRewardSpec) -> None:
        self._spec = spec
        self.weight = spec.weight

    def score(self, rollout: Rollout) -> np.ndarray:
        rewards = np.zeros(rollout.values.shape, np.float32)
        rewards[rollout.truncated] = self._spec.truncated
        rewards[rollout.errored] = self._spec.errored
        rewards[rollout.terminated] = 1.0
        return rewards
