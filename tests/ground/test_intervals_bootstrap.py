"""Intervals over seeds that share their held-out episodes, held against ones worked out by hand or by exact sums."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from vlarl.intervals import paired, wilson
from vlarl.intervals_bootstrap import (
    counts_interval,
    difference_interval,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    power,
    ratio_interval,
    seeds_interval,
    seeds_to_settle,
    student_interval,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def first(successes: int, episodes: int) -> np.ndarray:
    """Outcomes (E,) of which the first ones are successes."""
    return (np.arange(episodes) < successes).astype(np.int8)


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ([0.1, 0.2, 0.3, 0.8], 0.25),
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0], 0.35),
        ([0.5, 1.0, 0.0], 0.5),  # floor(3 / 4) = 0: nothing is left out
        ([1.0], 1.0),
    ],
)
def test_interquartile_mean(scores: list[float], wanted: float) -> None:
    assert interquartile_mean(np.array(scores)) == pytest.approx(wanted)


# Levels


def test_one_seed_has_wilson_s_interval() -> None:
    assert mean_interval([first(4, 10)[None], first(9, 10)[None]], rng()) == wilson(13, 20)


def test_seeds_that_repeat_each_other_are_no_more_episodes() -> None:
    """The same policy thrice on the same init states is known as well as once, and not sqrt(3) times better."""
    thrice = [np.tile(first(40, 100), (3, 1))]
    deviation = (0.4 * 0.6 / 100) ** 0.5
    interval = mean_interval(thrice, rng())
    assert interval.low == pytest.approx(0.4 - 1.96 * deviation, abs=0.011)
    assert interval.high == pytest.approx(0.4 + 1.96 * deviation, abs=0.011)
    pooled = wilson(120, 300)
    assert interval.high - interval.low > 1.6 * (pooled.high - pooled.low)


def test_the_crossed_spread_is_that_of_all_resamples() -> None:
    """Two seeds, two init states: the 16 resamples, worked out one by one."""
    marks = np.array([[1, 1], [1, 0]])
    means = sorted(
        float(marks[np.ix_(seeds, inits)].mean())
        for seeds in itertools.product(range(2), repeat=2)
        for inits in itertools.product(range(2), repeat=2)
    )
    interval = mean_interval([marks], rng())
    assert (means[0], means[-1]) == (0.0, 1.0)
    assert (interval.low, interval.high) == (0.0, 1.0)  # 0 has probability 1/16, 1 has 1/2
    wide = mean_interval([np.tile(marks, (1, 50))], rng())
    assert wide.low == pytest.approx(0.5, abs=0.08)  # the second seed alone has probability 1/4
    assert wide.high == 1.0


def test_seeds_that_differ_widen_the_interval() -> None:
    apart = mean_interval([np.stack([first(k, 400) for k in (40, 160, 240, 360)])], rng())
    alike = mean_interval([np.stack([np.roll(first(200, 400), 100 * at) for at in range(4)])], rng())
    assert apart.high - apart.low > 5 * (alike.high - alike.low)
    two = mean_interval([np.stack([first(0, 400), first(400, 400)])], rng())
    assert (two.low, two.high) == (0.0, 1.0)


def test_init_states_are_drawn_within_their_task() -> None:
    """One task always, the other never: whichever init states are drawn, half of them succeed."""
    always_never = [np.ones((2, 8), np.int8), np.zeros((2, 8), np.int8)]
    assert mean_interval(always_never, rng()) == wilson(8, 16)
    assert interquartile_interval(always_never, rng()) == wilson(4, 8)  # of the middle two of four scores


@pytest.mark.parametrize("outcome", [0, 1])
def test_outcomes_that_are_all_alike_have_the_interval_of_one_seed_s_episodes(outcome: int) -> None:
    same = [np.full((3, 10), outcome), np.full((3, 10), outcome)]
    assert mean_interval(same, rng()) == wilson(20 * outcome, 20)
    iqm = interquartile_interval(same, rng())  # 4 of 6 scores count: two thirds of 20 episodes
    assert iqm == wilson(13 * outcome, 13)


def test_counts_alone_give_no_narrower_an_interval() -> None:
    marks = np.stack([np.random.default_rng(seed).random(64) < 0.3 for seed in range(4)]).astype(np.int8)
    k, n = marks.sum(axis=1), np.full(4, 64)
    known, counted = mean_interval([marks], rng()), counts_interval(k, n, rng())
    assert counted.high - counted.low > known.high - known.low
    repeated = np.tile(marks[:1], (4, 1))  # the worst that shared init states can do
    known, counted = mean_interval([repeated], rng()), counts_interval(repeated.sum(axis=1), n, rng())
    assert counted.high - counted.low == pytest.approx(known.high - known.low, abs=0.02)
    assert counts_interval(np.array([3]), np.array([10]), rng()) == wilson(3, 10)
    assert counts_interval(np.array([0, 0]), np.array([10, 10]), rng()) == wilson(0, 10)


def test_a_generator_gives_the_same_interval_again() -> None:
    marks = [np.array([[1, 0, 0], [1, 1, 0]]), np.array([[0, 0, 0], [1, 0, 0]])]
    assert mean_interval(marks, rng()) == mean_interval(marks, rng())
    assert interquartile_interval(marks, rng()) == interquartile_interval(marks, rng())


# Differences


def test_student_s_interval_by_hand() -> None:
    interval = student_interval(np.array([0.1, 0.2, 0.3]))
    half = 4.302653 * 0.1 / 3**0.5  # t of two degrees of freedom
    assert (interval.low, interval.high) == pytest.approx((0.2 - half, 0.2 + half))


def test_a_difference_is_as_wide_as_the_wider_of_seeds_and_episodes() -> None:
    base = [np.zeros((3, 100), np.int8)]
    seeds = [np.stack([first(k, 100) for k in (10, 20, 30)])]
    found, by_seed = difference_interval(seeds, base, rng()), student_interval(np.array([0.1, 0.2, 0.3]))
    assert (found.low, found.high) == (by_seed.low, by_seed.high), "seeds differ more than episodes"
    alike = [np.stack([np.roll(first(20, 100), 30 * at) for at in range(3)])]
    found = difference_interval(alike, base, rng())
    deviation = np.mean(alike[0], axis=0).std() / 10  # of the mean over seeds, by init state
    assert (found.low, found.high) == pytest.approx((0.2 - 1.96 * deviation, 0.2 + 1.96 * deviation), abs=0.005)


def test_a_single_pair_has_the_interval_of_its_episodes() -> None:
    found = difference_interval([first(20, 100)[None]], [np.zeros((1, 100), np.int8)], rng())
    deviation = (0.2 * 0.8 / 100) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.2 - 1.96 * deviation, 0.2 + 1.96 * deviation), abs=0.011)


def test_the_two_ends_may_come_from_either_and_stay_among_differences() -> None:
    found = difference_interval([np.stack([first(100, 100), first(0, 100)])], [np.zeros((2, 100), np.int8)], rng())
    assert (found.low, found.high) == (-1.0, 1.0)  # t of one degree of freedom goes far beyond


def test_a_difference_without_spread_is_newcombe_s() -> None:
    outcomes = np.tile(first(4, 10), (3, 1))
    alone = paired([True] * 4 + [False] * 6, [True] * 4 + [False] * 6)
    found = difference_interval([outcomes], [outcomes], rng())
    assert (found.low, found.high) == (alone.low, alone.high)
    assert found.low < 0 < found.high
    all_gained = difference_interval([np.ones((3, 10), np.int8)], [np.zeros((3, 10), np.int8)], rng())
    assert 0 < all_gained.low < all_gained.high <= 1


# Seeds to settle


def test_the_power_is_that_of_simulated_tests() -> None:
    drawn = np.random.default_rng(3).normal(0.5, 1.0, (20_000, 28))
    p_values = ttest_1samp(drawn, 0.0, axis=1).pvalue
    assert power(0.5, 28) == pytest.approx(float((p_values < 0.05).mean()), abs=0.01)
    assert power(0.0, 10) == pytest.approx(0.05)
    for effect, pairs in ((20.0, 5), (1.0, 100), (1e4, 4)):
        assert power(effect, pairs) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[0.039, 0.055, 0.07, -0.047], [-3, -4, 1, 0], [0.1, -0.02, 0.04]])
def test_seeds_to_settle_are_the_fewest_with_the_power(values: list[float]) -> None:
    differences = np.array(values)
    effect = abs(differences.mean()) / differences.std(ddof=1)
    by_one = next(n for n in itertools.count(len(values) + 1) if power(effect, n) >= 0.8)
    assert seeds_to_settle(differences) == by_one
    assert seeds_to_settle(-100 * differences) == by_one


def test_seeds_to_settle_are_more_than_there_are() -> None:
    assert seeds_to_settle(np.array([0.5, 0.5001, 0.4999, 0.5])) == 5
    assert seeds_to_settle(np.full(6, 0.01)) == 7


def test_a_tiny_difference_needs_very_many() -> None:
    differences = np.array([1.0, -1.0, 0.003, 0.0])
    effect = abs(differences.mean()) / differences.std(ddof=1)
    found = seeds_to_settle(differences)
    assert found == pytest.approx((2.801585 / effect) ** 2, rel=1e-6)


@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.3], [0.1, -0.1, 0.0], [0.0, 0.0, 0.0]])
def test_what_is_not_enough_to_say(values: list[float]) -> None:
    assert seeds_to_settle(np.array(values)) is None


# Ratios and numbers a seed


def test_ratio_of_times() -> None:
    interval = ratio_interval(np.array([50.0, 100.0]), np.array([100.0, 200.0]), rng())
    assert interval is not None
    assert (interval.low, interval.high) == (0.5, 0.5)
    spread = ratio_interval(np.array([50.0, 100.0]), np.array([100.0, 100.0]), rng())
    assert spread is not None
    assert (spread.low, spread.high) == (0.5, 1.0)
    assert ratio_interval(np.array([50.0]), np.array([100.0]), rng()) is None


def test_the_interval_over_seeds() -> None:
    assert seeds_interval(np.array([0.5]), rng()) is None
    interval = seeds_interval(np.array([0.0, 1.0]), rng())
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 1.0)
    values = np.linspace(0, 1, 50)
    wide = seeds_interval(values, rng())
    assert wide is not None
    deviation = values.std() / 50**0.5
    assert (wide.low, wide.high) == pytest.approx((0.5 - 1.96 * deviation, 0.5 + 1.96 * deviation), abs=0.01)
