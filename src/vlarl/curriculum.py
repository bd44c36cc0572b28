"""Which task and init state a slot tries next.

``choose`` is a pure function of the state frozen at the iteration's start; ``learn`` runs at its end
with integer counts, so that sums over ranks are exact. The state is plain JSON.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

from vlarl.recipe.specs.curriculum import (
    AdaptiveCurriculumSpec,
    FrontierCurriculumSpec,
    LearningProgressCurriculumSpec,
    PaperCurriculumSpec,
    SuccessBandCurriculumSpec,
    UniformCurriculumSpec,
)
from vlarl.seeding import seed, uniforms
from vlarl.types import Episode, EpisodeSpec, Rollout

MAX_REPORTED = 256  # buckets of a summary; with more, one number a task is told

Bucket = tuple[int, int]  # task, init // bucket size
Counts = tuple[int, int]  # episodes, successes


class Curriculum(Protocol):
    """A rule for choosing episodes that learns from their outcomes."""

    def choose(self, slot: int, episode_index: int) -> EpisodeSpec: ...
    def learn(self, rollout: Rollout) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load(self, state: dict[str, Any]) -> None: ...

    def summary(self) -> dict[str, list[list[float]]]:
        """What a run's events tell: name -> number by task and bucket. Empty where nothing ever changes."""
        ...


class OutcomeCounts:
    """Episodes and successes per (task, bucket of train init states)."""

    def __init__(self, bucket_size: int) -> None:
        self._bucket_size = bucket_size
        self._counts: dict[Bucket, Counts] = {}

    def learn(self, rollout: Rollout) -> None:
        for key, (more, better) in tally(rollout.episodes, lambda task: self._bucket_size).items():
            tried, succeeded = self._counts.get(key, (0, 0))
            self._counts[key] = (tried + more, succeeded + better)

    def state(self) -> list[list[int]]:
        return [[*key, *counts] for key, counts in sorted(self._counts.items())]

    def load(self, rows: Sequence[Sequence[int]]) -> None:
        self._counts = {(task, bucket): (tried, succeeded) for task, bucket, tried, succeeded in rows}


class UniformCurriculum:
    """Every task equally likely, then every train init state."""

    def __init__(self, spec: UniformCurriculumSpec, *, num_inits: Sequence[int], seed: int) -> None:
        self._seed = seed
        self._num_inits = tuple(num_inits)  # per task
        self._outcomes = OutcomeCounts(spec.bucket_size)

    def choose(self, slot: int, episode_index: int) -> EpisodeSpec:
        which, where = uniforms(2, self._seed, "curriculum", slot, episode_index)
        task = int(which * len(self._num_inits))
        init = int(where * self._num_inits[task])
        return EpisodeSpec(task, "train", init, seed(self._seed, "episode", slot, episode_index) >> 32)

    def learn(self, rollout: Rollout) -> None:
        self._outcomes.learn(rollout)

    def state(self) -> dict[str, Any]:
        return {"kind": "uniform", "outcomes": self._outcomes.state()}

    def load(self, state: dict[str, Any]) -> None:
        assert state["kind"] == "uniform", "checked against the recipe when the checkpoint was opened"
        self._outcomes.load(state["outcomes"])

    def summary(self) -> dict[str, list[list[float]]]:
        return {}


class Window:
    """The newest outcomes of one bucket, as counts per iteration, oldest first."""

    def __init__(self, size: int, rows: Iterable[Counts] = ()) -> None:
        self._size = size
        self.rows = list(rows)

    def add(self, counts: Counts) -> None:
        """Append an iteration; forget the oldest while the rest still holds ``size`` episodes."""
        self.rows.append(counts)
        total = sum(tried for tried, _ in self.rows)
        while total - self.rows[0][0] >= self._size:
            total -= self.rows.pop(0)[0]

    def counts(self) -> Counts:
        return _summed(self.rows)

    def halves(self) -> tuple[Counts, Counts]:
        """Older and newer part: the newer one is the fewest iterations with at least half of the episodes."""
        total = sum(tried for tried, _ in self.rows)
        newer, at = 0, len(self.rows)
        while 2 * newer < total:
            at -= 1
            newer += self.rows[at][0]
        return _summed(self.rows[:at]), _summed(self.rows[at:])


class AdaptiveCurriculum(ABC):
    """Draws (task, bucket) by how well it goes, then a train init state of the bucket.

    P = (1 - floor) * preferred + floor * uniform. Preferred is proportional to uniform times
    exp(preference / tau), so that a task of many buckets is not preferred for their number.
    """

    def __init__(
        self, spec: AdaptiveCurriculumSpec, *, tau: float, kind: str, num_inits: Sequence[int], seed: int
    ) -> None:
        self._spec, self._tau, self._kind, self._seed = spec, tau, kind, seed
        self._sizes = tuple(spec.bucket_size or count for count in num_inits)  # of buckets, per task
        self._num_inits = tuple(num_inits)
        self._buckets: list[tuple[int, int, int]] = [  # task, first init, number of inits
            (task, first, min(size, count - first))
            for task, (count, size) in enumerate(zip(num_inits, self._sizes, strict=True))
            for first in range(0, count, size)
        ]
        self._windows: dict[Bucket, Window] = {}
        self._refresh()

    @abstractmethod
    def preference(self, window: Window) -> float:
        """The exponent, before it is divided by tau."""

    def success(self, counts: Counts) -> float:
        """Smoothed success rate of (episodes, successes)."""
        spec = self._spec
        return (counts[1] + spec.prior_weight * spec.prior_success) / (counts[0] + spec.prior_weight)

    def choose(self, slot: int, episode_index: int) -> EpisodeSpec:
        which, where = uniforms(2, self._seed, "curriculum", slot, episode_index)
        at = min(bisect_right(self._cumulative, which * self._cumulative[-1]), len(self._buckets) - 1)
        task, first, size = self._buckets[at]
        init = first + int(where * size)
        return EpisodeSpec(task, "train", init, seed(self._seed, "episode", slot, episode_index) >> 32)

    def learn(self, rollout: Rollout) -> None:
        """Count the rollout's finished episodes. One that errored tells nothing of the policy and is left out."""
        finished = [episode for episode in rollout.episodes if not episode.errored]
        for key, counts in sorted(tally(finished, self._sizes.__getitem__).items()):
            self._windows.setdefault(key, Window(self._spec.window)).add(counts)
        self._refresh()

    def state(self) -> dict[str, Any]:
        rows = [[*key, [list(row) for row in window.rows]] for key, window in sorted(self._windows.items())]
        return {"kind": self._kind, "outcomes": rows}

    def load(self, state: dict[str, Any]) -> None:
        assert state["kind"] == self._kind, "checked against the recipe when the checkpoint was opened"
        self._windows = {
            (task, bucket): Window(self._spec.window, ((tried, succeeded) for tried, succeeded in rows))
            for task, bucket, rows in state["outcomes"]
        }
        self._refresh()

    def probabilities(self) -> list[list[float]]:
        """P by task and bucket; all together they sum to 1."""
        return self._by_task(self._probabilities)

    def summary(self) -> dict[str, list[list[float]]]:
        """``probability`` of the next iteration's choices, and smoothed ``success``."""
        rates = [self.success(self._window(bucket).counts()) for bucket in self._buckets]
        probabilities = self.probabilities()
        found = {"probability": probabilities, "success": self._by_task(rates)}
        if len(self._buckets) > MAX_REPORTED:
            shares = [self._uniform(bucket) * len(self._num_inits) for bucket in self._buckets]
            means = self._by_task([rate * share for rate, share in zip(rates, shares, strict=True)])
            found = {"probability": [[math.fsum(row)] for row in probabilities]}
            found["success"] = [[math.fsum(row)] for row in means]
        return {name: [[round(value, 6) for value in row] for row in rows] for name, rows in found.items()}

    def _refresh(self) -> None:
        preferences = [self.preference(self._window(bucket)) for bucket in self._buckets]
        highest = max(preferences)
        uniform = [self._uniform(bucket) for bucket in self._buckets]
        weights = [u * math.exp((p - highest) / self._tau) for u, p in zip(uniform, preferences, strict=True)]
        total, floor = math.fsum(weights), self._spec.floor
        self._probabilities = [(1 - floor) * w / total + floor * u for w, u in zip(weights, uniform, strict=True)]
        self._cumulative = list(accumulate(self._probabilities))

    def _window(self, bucket: tuple[int, int, int]) -> Window:
        task, first, _ = bucket
        return self._windows.get((task, first // self._sizes[task])) or Window(self._spec.window)

    def _uniform(self, bucket: tuple[int, int, int]) -> float:
        task, _, size = bucket
        return size / self._num_inits[task] / len(self._num_inits)

    def _by_task(self, values: Sequence[float]) -> list[list[float]]:
        rows: list[list[float]] = [[] for _ in self._num_inits]
        for (task, _, _), value in zip(self._buckets, values, strict=True):
            rows[task].append(value)
        return rows


class PaperCurriculum(AdaptiveCurriculum):
    """P proportional to exp((0.5 - s) / tau), as VLA-RL states it."""

    def __init__(self, spec: PaperCurriculumSpec, *, num_inits: Sequence[int], seed: int) -> None:
        super().__init__(spec, tau=spec.tau, kind=spec.kind, num_inits=num_inits, seed=seed)

    def preference(self, window: Window) -> float:
        return 0.5 - self.success(window.counts())


class FrontierCurriculum(AdaptiveCurriculum):
    """P proportional to exp(-|0.5 - s| / tau)."""

    def __init__(self, spec: FrontierCurriculumSpec, *, num_inits: Sequence[int], seed: int) -> None:
        super().__init__(spec, tau=spec.tau, kind=spec.kind, num_inits=num_inits, seed=seed)

    def preference(self, window: Window) -> float:
        return -abs(0.5 - self.success(window.counts()))


class SuccessBandCurriculum(AdaptiveCurriculum):
    """P proportional to exp(-distance of s from [low, high] / tau)."""

    def __init__(self, spec: SuccessBandCurriculumSpec, *, num_inits: Sequence[int], seed: int) -> None:
        self._low, self._high = spec.low, spec.high
        super().__init__(spec, tau=spec.tau, kind=spec.kind, num_inits=num_inits, seed=seed)

    def preference(self, window: Window) -> float:
        rate = self.success(window.counts())
        return -max(self._low - rate, rate - self._high, 0.0)


class LearningProgressCurriculum(AdaptiveCurriculum):
    """P proportional to exp(|s of the newer half - s of the older half| / tau)."""

    def __init__(self, spec: LearningProgressCurriculumSpec, *, num_inits: Sequence[int], seed: int) -> None:
        super().__init__(spec, tau=spec.tau, kind=spec.kind, num_inits=num_inits, seed=seed)

    def preference(self, window: Window) -> float:
        older, newer = window.halves()
        return abs(self.success(newer) - self.success(older)) if older[0] else 0.0


class _SizeOf(Protocol):
    def __call__(self, task: int, /) -> int: ...


def tally(episodes: Iterable[Episode], bucket_size: _SizeOf) -> Mapping[Bucket, Counts]:
    """Episodes and successes per (task, init // bucket_size(task))."""
    counts: dict[Bucket, Counts] = {}
    for episode in episodes:
        spec = episode.spec
        key = (spec.task, spec.init // bucket_size(spec.task))
        tried, succeeded = counts.get(key, (0, 0))
        counts[key] = (tried + 1, succeeded + int(episode.success))
    return counts


def _summed(rows: Sequence[Counts]) -> Counts:
    return sum(tried for tried, _ in rows), sum(succeeded for _, succeeded in rows)
