"""Curricula that follow success: probabilities by hand, frequencies, the floor, the window, state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from builders import finished, make_rollout
from vlarl.curriculum import AdaptiveCurriculum, Window
from vlarl.registry import build, kinds

ADAPTIVE = ("paper", "frontier", "success_band", "learning_progress")
NUM_INITS = (100, 100, 100)
# Episodes and successes of three tasks, in two iterations.
FIRST = ((4, 0), (4, 0), (4, 4))
SECOND = ((4, 0), (4, 4), (4, 3))


def curriculum(
    kind: str, *, num_inits: Sequence[int] = NUM_INITS, seed: int = 3, taught: bool = False, **knobs: Any
) -> AdaptiveCurriculum:
    made: AdaptiveCurriculum = build(kinds("curriculum")[kind](**knobs), num_inits=num_inits, seed=seed)
    if taught:
        teach(made, FIRST)
        teach(made, SECOND)
    return made


def teach(made: AdaptiveCurriculum, outcomes: Sequence[tuple[int, int]], init: int = 0) -> None:
    """One iteration with (episodes, successes) of each task."""
    episodes = tuple(
        finished(task, init, success=number < succeeded)
        for task, (tried, succeeded) in enumerate(outcomes)
        for number in range(tried)
    )
    made.learn(make_rollout(1, 1, episodes=episodes))


def by_task(made: AdaptiveCurriculum) -> list[float]:
    return [sum(row) for row in made.probabilities()]


# s = (k + 1) / (n + 2): 0.1, 0.5 and 0.8 after both iterations (prior 0.5 of two episodes).
@pytest.mark.parametrize(
    ("kind", "knobs", "expected"),
    [
        # exp(0.8), exp(0), exp(-0.6) = 2.225541, 1, 0.548812
        ("paper", {"tau": 0.5, "floor": 0.0}, (0.589658, 0.264950, 0.145409)),
        # exp(-1.6), exp(0), exp(-1.2) = 0.201897, 1, 0.301194
        ("frontier", {"tau": 0.25, "floor": 0.0}, (0.134320, 0.665295, 0.200383)),
        # distances 0.1, 0 and 0.05 from [0.2, 0.75]: exp(-1), 1, exp(-0.5) = 0.367879, 1, 0.606531
        (
            "success_band",
            {"low": 0.2, "high": 0.75, "tau": 0.1, "floor": 0.0},
            (0.186324, 0.506480, 0.307196),
        ),
        # older 1/6, 1/6, 5/6 and newer 1/6, 5/6, 4/6: changes 0, 2/3, 1/6; 1, exp(2), exp(0.5) = 1, 7.389056, 1.648721
        ("learning_progress", {"tau": 1 / 3, "floor": 0.0}, (0.099624, 0.736124, 0.164252)),
    ],
)
def test_probabilities_by_hand(kind: str, knobs: dict[str, Any], expected: tuple[float, ...]) -> None:
    found = by_task(curriculum(kind, taught=True, **knobs))
    assert found == pytest.approx(expected, abs=2e-5)
    floored = by_task(curriculum(kind, taught=True, **{**knobs, "floor": 0.3}))
    assert floored == pytest.approx([0.7 * p + 0.1 for p in expected], abs=2e-5)


def test_the_paper_prefers_the_hardest_and_the_frontier_the_middle() -> None:
    hard, middle, _ = by_task(curriculum("paper", taught=True))
    assert hard > middle
    hard, middle, easy = by_task(curriculum("frontier", taught=True))
    assert middle > easy > hard


def test_prior_and_its_weight_smooth_the_success_rate() -> None:
    made = curriculum("paper", prior_success=0.2, prior_weight=5.0)
    assert made.success((0, 0)) == pytest.approx(0.2)
    assert made.success((5, 5)) == pytest.approx(0.6)


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_before_anything_was_tried_all_is_uniform(kind: str) -> None:
    made = curriculum(kind, num_inits=(100, 70, 5), bucket_size=10)
    expected = [[1 / 30] * 10, [1 / 21] * 7, [1 / 3]]
    for found, row in zip(made.probabilities(), expected, strict=True):
        assert found == pytest.approx(row)


def test_a_short_last_bucket_is_drawn_by_its_size() -> None:
    assert curriculum("paper", num_inits=(25,), bucket_size=10).probabilities() == [pytest.approx([0.4, 0.4, 0.2])]


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_long_run_frequencies_are_the_probabilities(kind: str) -> None:
    made = curriculum(kind, num_inits=(40, 40, 25), bucket_size=20, taught=True)
    specs = [made.choose(slot, index) for slot in range(50) for index in range(400)]
    expected = np.array([p for row in made.probabilities() for p in row])
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    counts = [sum((spec.task, spec.init // 20) == key for spec in specs) for key in keys]
    assert stats.chisquare(counts, expected * len(specs)).pvalue > 1e-3
    # A change of one part in ten of the probabilities would be found at this length.
    assert stats.chisquare(counts, np.full(6, len(specs) / 6)).pvalue < 1e-6
    inits = np.bincount([spec.init for spec in specs if (spec.task, spec.init // 20) == keys[0]], minlength=20)
    assert stats.chisquare(inits).pvalue > 1e-3
    assert {spec.split for spec in specs} == {"train"}


@given(
    kind=st.sampled_from(ADAPTIVE),
    outcomes=st.lists(st.tuples(*(st.tuples(st.integers(0, 6), st.integers(0, 6)) for _ in range(3))), max_size=4),
    floor=st.floats(0.0, 1.0),
    tau=st.floats(1e-3, 10.0),
)
def test_the_floor_holds(kind: str, outcomes: list[Any], floor: float, tau: float) -> None:
    made = curriculum(kind, floor=floor, tau=tau, bucket_size=50)
    for rows in outcomes:
        teach(made, [(tried, min(tried, succeeded)) for tried, succeeded in rows])
    flat = [p for row in made.probabilities() for p in row]
    assert sum(flat) == pytest.approx(1.0)
    assert min(flat) >= floor / 6 - 1e-12


def test_the_window_forgets_whole_iterations() -> None:
    window = Window(10)
    for counts in ((4, 4), (4, 0), (5, 1)):
        window.add(counts)
    assert window.rows == [(4, 4), (4, 0), (5, 1)], "without the first only nine would be left"
    window.add((1, 1))
    assert window.rows == [(4, 0), (5, 1), (1, 1)]
    assert window.counts() == (10, 2)
    window.add((30, 3))
    assert window.rows == [(30, 3)]


def test_old_failures_are_forgotten() -> None:
    made = curriculum("paper", window=8, floor=0.0)
    teach(made, ((8, 0), (8, 8), (8, 8)))
    before = by_task(made)
    teach(made, ((8, 8), (8, 8), (8, 8)))
    assert before[0] > before[1]
    assert by_task(made) == pytest.approx([1 / 3] * 3)


def test_progress_needs_an_older_half() -> None:
    made = curriculum("learning_progress", floor=0.0)
    teach(made, ((8, 8), (0, 0), (0, 0)))
    assert by_task(made) == pytest.approx([1 / 3] * 3)


def test_errored_episodes_teach_nothing() -> None:
    from dataclasses import replace

    made = curriculum("paper")
    lost = replace(finished(0, 0, success=False), truncated=False, errored=True)
    made.learn(make_rollout(1, 1, episodes=(lost,) * 9))
    assert made.state()["outcomes"] == []


def test_outcomes_of_an_iteration_count_in_any_order() -> None:
    episodes = tuple(finished(n % 3, n, success=n % 2 == 0) for n in range(20))
    forwards, backwards = curriculum("paper", bucket_size=5), curriculum("paper", bucket_size=5)
    forwards.learn(make_rollout(1, 1, episodes=episodes))
    backwards.learn(make_rollout(1, 1, episodes=episodes[::-1]))
    assert forwards.state() == backwards.state()


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_choices_go_on_the_same_from_a_stored_state(kind: str) -> None:
    made = curriculum(kind, bucket_size=50, window=6, taught=True)
    text = json.dumps(made.state())
    restored = curriculum(kind, bucket_size=50, window=6)
    restored.load(json.loads(text))
    places = [(slot, index) for slot in range(20) for index in range(20)]
    for _ in range(3):
        assert json.dumps(restored.state()) == json.dumps(made.state())
        assert restored.probabilities() == made.probabilities(), "to the last bit"
        assert [restored.choose(*at) for at in places] == [made.choose(*at) for at in places[::-1]][::-1]
        for each in (made, restored):
            teach(each, ((3, 1), (2, 2), (5, 0)), init=60)


def test_many_buckets_are_told_by_task() -> None:
    made = curriculum("paper", num_inits=(1000, 10), bucket_size=1)
    teach(made, ((8, 0), (8, 8)))
    summary = made.summary()
    assert [len(row) for row in summary["probability"]] == [1, 1]
    assert sum(row[0] for row in summary["probability"]) == pytest.approx(1.0, abs=1e-5)
    assert summary["success"] == [[pytest.approx((999 * 0.5 + 0.1) / 1000)], [pytest.approx((9 * 0.5 + 0.9) / 10)]]
    few = curriculum("frontier", taught=True).summary()
    assert few["success"] == [[0.1], [0.5], [0.8]]
