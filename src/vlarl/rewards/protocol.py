"""What a reward is: a name, a weight and one number per control step."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from vlarl.types import Rollout


class Reward(Protocol):
    """One named part of the reward."""

    name: str
    weight: float

    def score(self, rollout: Rollout) -> np.ndarray:
        """(N, T) float32 before the weight; finite everywhere."""
        ...
