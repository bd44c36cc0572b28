"""How a potential rises from step to step, as rewards count it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from vlarl.recipe.specs.learning import Truncation
from vlarl.types import Rollout


def rises(
    rollout: Rollout,
    present: np.ndarray,
    following: np.ndarray,
    mode: Literal["potential", "difference"],
    *,
    gamma: float,
    truncation: Truncation,
) -> np.ndarray:
    """(N, T): what each step adds to a potential (N, T) in [0, 1] that is ``following`` after it.

    ``potential``: gamma x following - present, with 0 after success and, where nothing follows the horizon, there too
    (Ng et al. 1999): the best policy stays what it is, and a critic that has learnt the potential takes it off again.
    ``difference``: following - present, with 1 after success. It telescopes too, but under a discount it rewards what
    is near as such, by (1 - gamma) x Phi a step, so that it also leads where success never came.
    """
    following = following.copy()
    if mode == "difference":
        following[rollout.terminated] = 1.0
        return following - present
    following[rollout.terminated] = 0.0
    if truncation == "terminal":
        following[rollout.truncated] = 0.0
    return rollout.discounts(gamma) * following - present
