"""Which task and init state a slot tries next.

``choose`` is a pure function of the state frozen at the iteration's start; ``learn`` runs at its end
with integer counts, so that sums over ranks are exact. The state is plain JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from vlarl.recipe.specs.rewards import UniformCurriculumSpec
from vlarl.seeding import seed, uniforms
from vlarl.types import EpisodeSpec, Rollout


class Curriculum(Protocol):
    """A rule for choosing episodes that learns from their outcomes."""

    def choose(self, slot: int, episode_index: int) -> EpisodeSpec: ...
    def learn(self, rollout: Rollout) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load(self, state: dict[str, Any]) -> None: ...


class OutcomeCounts:
    """Episodes and successes per (task, bucket of train init states)."""

    def __init__(self, bucket_size: int) -> None:
        self._bucket_size = bucket_size
        self._counts: dict[tuple[int, int], tuple[int, int]] = {}

    def learn(self, rollout: Rollout) -> None:
        for episode in rollout.episodes:
            key = (episode.spec.task, episode.spec.init // self._bucket_size)
            tried, succeeded = self._counts.get(key, (0, 0))
            self._counts[key] = (tried + 1, succeeded + int(episode.success))

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
