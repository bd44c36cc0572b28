"""The curriculum: a pure choice, and integer counts as its memory."""

from __future__ import annotations

import json
import random

import numpy as np
from scipy import stats

from builders import finished, make_rollout
from vlarl.curriculum import OutcomeCounts, UniformCurriculum
from vlarl.recipe.specs.curriculum import UniformCurriculumSpec
from vlarl.types import EpisodeSpec

NUM_INITS = (100, 7, 1)


def uniform(seed: int = 3, bucket_size: int = 50) -> UniformCurriculum:
    return UniformCurriculum(UniformCurriculumSpec(bucket_size=bucket_size), num_inits=NUM_INITS, seed=seed)


def choices(curriculum: UniformCurriculum, order: list[tuple[int, int]]) -> dict[tuple[int, int], EpisodeSpec]:
    return {place: curriculum.choose(*place) for place in order}


def test_a_choice_depends_on_slot_and_episode_alone() -> None:
    places = [(slot, index) for slot in range(6) for index in range(10)]
    shuffled = random.Random(0).sample(places, len(places))
    assert choices(uniform(), places) == choices(uniform(), shuffled) == choices(uniform(), places * 2)


def test_slots_episodes_and_seeds_choose_apart() -> None:
    seeds = {uniform().choose(slot, index).seed for slot in range(20) for index in range(20)}
    assert len(seeds) == 400
    assert uniform(seed=3).choose(0, 0) != uniform(seed=4).choose(0, 0)


def test_every_choice_is_a_training_episode_that_exists() -> None:
    for index in range(500):
        spec = uniform().choose(1, index)
        assert spec.split == "train"
        assert 0 <= spec.init < NUM_INITS[spec.task]
        assert 0 <= spec.seed < 2**31


def test_tasks_and_init_states_are_equally_frequent() -> None:
    curriculum = uniform()
    specs = [curriculum.choose(slot, index) for slot in range(30) for index in range(200)]
    tasks = np.bincount([spec.task for spec in specs], minlength=3)
    assert stats.chisquare(tasks).pvalue > 1e-3
    for task, count in enumerate(NUM_INITS[:2]):
        inits = np.bincount([spec.init for spec in specs if spec.task == task], minlength=count)
        assert stats.chisquare(inits).pvalue > 1e-3


def test_outcomes_are_counted_by_task_and_bucket() -> None:
    counts = OutcomeCounts(bucket_size=10)
    first = (finished(0, 3, success=True), finished(0, 9, success=False), finished(0, 10, success=True))
    counts.learn(make_rollout(1, 1, episodes=first))
    counts.learn(make_rollout(1, 1, episodes=(finished(2, 0, success=False), finished(0, 0, success=True))))
    # task, bucket, tried, succeeded
    assert counts.state() == [[0, 0, 3, 2], [0, 1, 1, 1], [2, 0, 1, 0]]


def test_state_survives_json() -> None:
    curriculum = uniform(bucket_size=10)
    curriculum.learn(make_rollout(1, 1, episodes=(finished(0, 25, success=True), finished(1, 2, success=False))))
    text = json.dumps(curriculum.state())
    restored = uniform(bucket_size=10)
    restored.load(json.loads(text))
    assert json.dumps(restored.state()) == text
    more = make_rollout(1, 1, episodes=(finished(0, 29, success=False),))
    curriculum.learn(more)
    restored.learn(more)
    assert restored.state() == curriculum.state() == {"kind": "uniform", "outcomes": [[0, 2, 2, 1], [1, 0, 1, 0]]}


def test_what_was_learnt_does_not_change_a_uniform_choice() -> None:
    curriculum = uniform()
    before = [curriculum.choose(slot, 0) for slot in range(10)]
    curriculum.learn(make_rollout(1, 1, episodes=(finished(0, 0, success=True),) * 50))
    assert [curriculum.choose(slot, 0) for slot in range(10)] == before
