"""The weighted sum of named rewards, its breakdown kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlarl.errors import RunError
from vlarl.rewards.protocol import OfModel, Reward
from vlarl.types import Rollout, Scored


class Rewards:
    """All rewards of a recipe."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        assert len({reward.name for reward in rewards}) == len(rewards), "names are unique"
        self._rewards = tuple(rewards)

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each frozen model that gives one of the rewards, by the reward's name."""
        return {reward.name: reward.digest for reward in self._rewards if isinstance(reward, OfModel)}

    def score(self, rollout: Rollout) -> Scored:
        """Raises RunError naming the reward when one is not a number."""
        breakdown = {reward.name: np.float32(reward.weight) * reward.score(rollout) for reward in self._rewards}
        for name, values in breakdown.items():
            if not np.isfinite(values).all():
                slot, step = np.argwhere(~np.isfinite(values))[0]
                raise RunError(
                    f"reward `{name}` is not a number at slot {slot}, step {step}",
                    code="X513",
                    hint=f"start a new run without it, or mend the part `{name}`",
                )
        total = np.stack(list(breakdown.values())).sum(axis=0, dtype=np.float32)
        return Scored(rollout=rollout, rewards=total, breakdown=breakdown)
