"""What a reward is: a name, a weight and one number per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from vlarl.rewards.alarm import HackingAlarm
from vlarl.types import Rollout


class Reward(Protocol):
    """One named part of the reward."""

    name: str
    weight: float

    def score(self, rollout: Rollout) -> np.ndarray:
        """(N, T) float32 before the weight; finite everywhere."""
        ...


@runtime_checkable
class OfModel(Protocol):
    """A reward that a frozen model gives; the run's hash chain has the model's digest."""

    name: str
    digest: str


@runtime_checkable
class Watched(Protocol):
    """A reward whose weight changes over the run, and for whose abuse an alarm watches."""

    name: str
    alarm: HackingAlarm

    def weight_at(self, iteration: int) -> float:
        """The weight of an iteration, counted from 0, before the alarm's factor."""
        ...


class Scorer(Protocol):
    """A frozen process reward model."""

    digest: str
    previous_frame: int  # how many steps earlier the second picture is; 0 for none

    def answers(
        self, images: np.ndarray, previous: np.ndarray | None, instructions: Sequence[str], batch_size: int
    ) -> Mapping[str, np.ndarray]:
        """(n,) float32 in [0, 1] by name of the answer, for images (n, H, W, 3) uint8 and as many instructions."""
        ...
