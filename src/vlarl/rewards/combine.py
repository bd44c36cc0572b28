"""The weighted sum of named rewards, its breakdown kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from vlarl.errors import RunError
from vlarl.rewards.protocol import OfModel, Reward, Watched
from vlarl.types import Rollout, Scored


class Rewards:
    """All rewards of a recipe."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        assert len({reward.name for reward in rewards}) == len(rewards), "names are unique"
        self._rewards = tuple(rewards)
        self._watched = tuple(reward for reward in rewards if isinstance(reward, Watched))
        self._weights = {reward.name: reward.weight for reward in rewards}  # of the iteration scored last

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each frozen model that gives one of the rewards, by the reward's name."""
        return {reward.name: reward.digest for reward in self._rewards if isinstance(reward, OfModel)}

    def score(self, rollout: Rollout, iteration: int = 0, ledger: dict[str, float] | None = None) -> Scored:
        """Raises RunError naming the reward when one is not a number.

        ``ledger["score_seconds"]`` is what it took.
        """
        started = perf_counter()
        for reward in self._watched:
            self._weights[reward.name] = reward.weight_at(iteration) * reward.alarm.factor
        breakdown = {
            reward.name: np.float32(self._weights[reward.name]) * reward.score(rollout) for reward in self._rewards
        }
        if ledger is not None:
            ledger["score_seconds"] = perf_counter() - started
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

    def learn(self, scored: Scored) -> None:
        """Show the alarms what ``score`` gave, whole: where several processes share it, the rollout of all of them."""
        rollout = scored.rollout
        successes = sum(episode.success for episode in rollout.episodes)
        for reward in self._watched:
            weight, values = self._weights[reward.name], scored.breakdown[reward.name]
            if weight != 0.0:
                seen = values if rollout.active is None else values[rollout.active]
                reward.alarm.learn(float(seen.mean()) / weight, successes, len(rollout.episodes))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Weight and alarm of each reward that has them, as of the newest iteration."""
        return {
            reward.name: {"weight": self._weights[reward.name], **reward.alarm.summary()} for reward in self._watched
        }

    def warnings(self) -> list[str]:
        return [text for reward in self._watched if (text := reward.alarm.warning()) is not None]

    @property
    def reason_to_stop(self) -> str | None:
        """What an alarm found that is to end the run."""
        return next((reward.alarm.finding() for reward in self._watched if reward.alarm.stops), None)

    def state(self) -> dict[str, Any]:
        """Plain JSON, so that a run goes on as if it had never stopped."""
        return {reward.name: reward.alarm.state() for reward in self._watched}

    def load(self, state: Mapping[str, Any]) -> None:
        for reward in self._watched:
            if reward.name in state:
                reward.alarm.load(state[reward.name])
