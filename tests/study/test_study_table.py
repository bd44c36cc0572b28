"""The numbers of a study's table, held against ones worked out by hand."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from made_study import made_result

from vlarl.intervals import wilson
from vlarl.intervals_bootstrap import (
    difference_interval,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    mean_rate,
    ratio_interval,
    seeds_to_settle,
)
from vlarl.recipe.specs.study import StudySpec, ThresholdSpec
from vlarl.results_study_table import csv_text, make_table, markdown, time_to_threshold


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def spec(**fields: object) -> StudySpec:
    given = {"recipe": "r.yaml", "seeds": [1, 2], "baseline": "base", "cells": {"base": {}, "new": {}}, **fields}
    return StudySpec.model_validate(given)


# Bootstrap


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


def test_the_mean_over_seeds_weighs_seeds_alike() -> None:
    assert mean_rate(np.array([[1, 1], [0, 2]]), np.array([[2, 2], [10, 10]])) == pytest.approx((0.5 + 0.1) / 2)


def test_certain_outcomes_have_no_spread() -> None:
    k, n = np.array([[5, 0], [5, 0]]), np.full((2, 2), 5)
    for interval in (mean_interval(k, n, rng()), interquartile_interval(k, n, rng())):
        assert (interval.low, interval.high) == (0.5, 0.5)


def test_episodes_of_one_seed_spread_as_a_binomial() -> None:
    interval = mean_interval(np.array([[40]]), np.array([[100]]), rng())
    deviation = (0.4 * 0.6 / 100) ** 0.5
    assert interval.low == pytest.approx(0.4 - 1.96 * deviation, abs=0.011)
    assert interval.high == pytest.approx(0.4 + 1.96 * deviation, abs=0.011)


def test_seeds_that_differ_widen_the_interval() -> None:
    n = np.full((4, 1), 400)
    alike = mean_interval(np.full((4, 1), 200), n, rng())
    apart = mean_interval(np.array([[40], [160], [240], [360]]), n, rng())
    assert apart.high - apart.low > 5 * (alike.high - alike.low)
    # Of two seeds at 0 and 1 a resample takes either alone with probability 1/4 each.
    two = mean_interval(np.array([[0], [400]]), n[:2], rng())
    assert (two.low, two.high) == (0.0, 1.0)


def test_pairs_are_resampled_as_one() -> None:
    n = np.full((3, 2), 10)
    always = difference_interval(np.full((3, 2), 10), np.zeros((3, 2), dtype=int), n, rng())
    assert (always.low, always.high) == (1.0, 1.0)
    same = difference_interval(np.zeros((3, 2), dtype=int), np.zeros((3, 2), dtype=int), n, rng())
    assert (same.low, same.high) == (0.0, 0.0)
    mixed = difference_interval(np.full((3, 2), 2), np.full((3, 2), 1), n, rng())
    deviation = ((0.3 - 0.1**2) / 60) ** 0.5  # of the mean of 60 changes in {-1, 0, 1}
    assert mixed.low == pytest.approx(0.1 - 1.96 * deviation, abs=0.02)
    assert mixed.high == pytest.approx(0.1 + 1.96 * deviation, abs=0.02)


def test_a_generator_gives_the_same_interval_again() -> None:
    k, n = np.array([[3, 4], [5, 1]]), np.full((2, 2), 8)
    assert mean_interval(k, n, rng()) == mean_interval(k, n, rng())


def test_ratio_of_times() -> None:
    interval = ratio_interval(np.array([50.0, 100.0]), np.array([100.0, 200.0]), rng())
    assert interval is not None
    assert (interval.low, interval.high) == (0.5, 0.5)
    spread = ratio_interval(np.array([50.0, 100.0]), np.array([100.0, 100.0]), rng())
    assert spread is not None
    assert (spread.low, spread.high) == (0.5, 1.0)
    assert ratio_interval(np.array([50.0]), np.array([100.0]), rng()) is None


def test_seeds_to_settle() -> None:
    differences = np.array([0.1, -0.02, 0.04])  # mean 0.04, standard deviation 0.06
    assert seeds_to_settle(differences) == 9  # (1.96 * 0.06 / 0.04)^2 = 8.64
    assert seeds_to_settle(np.array([0.1])) is None
    assert seeds_to_settle(np.array([0.1, -0.1])) is None


# Time to a threshold


def test_the_first_window_at_or_above_the_threshold_counts() -> None:
    run = made_result("new", 1, [0.0, 0.6, 0.3, 0.6, 0.6, 0.1], {})
    # Means of three: 0.3 after 200 steps, 0.5 after 300, 0.5 after 400.
    assert time_to_threshold(run, 0.5, 3) == (300, True)
    assert time_to_threshold(run, 0.3, 3) == (200, True)
    assert time_to_threshold(run, 0.6, 1) == (100, True)


def test_a_run_that_never_gets_there_counts_with_its_budget() -> None:
    run = made_result("new", 1, [0.0, 0.6, 0.3, 0.6, 0.6, 0.1], {})
    assert time_to_threshold(run, 0.51, 3) == (500, False)
    assert time_to_threshold(made_result("new", 1, [1.0, 1.0], {}), 0.5, 3) == (100, False)


def test_times_and_their_ratio() -> None:
    runs = [
        made_result("base", 1, [0.0, 0.2, 0.4, 0.6], {"a": "1"}),
        made_result("base", 2, [0.0, 0.0, 0.2, 0.4], {"a": "0"}),
        made_result("new", 1, [0.0, 0.4, 0.6, 0.6], {"a": "1"}),
        made_result("new", 2, [0.0, 0.2, 0.2, 0.4], {"a": "1"}),
    ]
    table = make_table(spec(threshold={"window": 2}), runs)
    assert table.threshold == pytest.approx((0.5 + 0.3) / 2)  # the baseline's last two of each seed
    base, new = table.rows
    assert base.times == {1: 300, 2: 300}
    assert (base.censored, base.ratio) == (1, None)  # seed 2 ends at a mean of 0.3
    assert new.times == {1: 200, 2: 300}
    assert new.censored == 1
    assert new.ratio == pytest.approx(500 / 600)
    assert new.ratio_bound == ""  # both sides have a run that never got there
    assert new.ratio_interval is not None
    assert (new.ratio_interval.low, new.ratio_interval.high) == pytest.approx((2 / 3, 1.0))


@pytest.mark.parametrize(("slow", "bound", "shown"), [("new", ">=", "≥ x 2.00"), ("base", "<=", "≤ x 0.50")])
def test_a_censored_side_makes_the_ratio_a_bound(slow: str, bound: str, shown: str) -> None:
    rates = {name: [0.0, 0.2, 0.4] if name == slow else [0.0, 0.5, 0.5] for name in ("base", "new")}
    runs = [made_result(name, 1, rates[name], {"a": "1"}) for name in rates]
    table = make_table(spec(threshold={"window": 1, "success": 0.5}), runs)
    assert table.rows[1].ratio_bound == bound
    assert shown in markdown(table, "ours")


def test_a_threshold_may_be_given() -> None:
    runs = [made_result("base", 1, [0.0, 0.2, 0.4], {"a": "1"})]
    table = make_table(spec(threshold={"window": 1, "success": 0.2}), runs)
    assert table.rows[0].times == {1: 100}
    assert ThresholdSpec().window == 3


# The table


OUTCOMES = {
    ("base", 1): {"a": "1100", "b": "0000"},
    ("base", 2): {"a": "1110", "b": "1000"},
    ("new", 1): {"a": "1110", "b": "1000"},
    ("new", 2): {"a": "0111", "b": "1100"},
}


def runs_with_outcomes() -> list:
    return [made_result(cell, seed, [0.0, 0.5], marks) for (cell, seed), marks in OUTCOMES.items()]


def test_rows() -> None:
    base, new = make_table(spec(cells={"base": {}, "new": {"paper": 88.0}}), runs_with_outcomes()).rows
    assert (base.k, base.n, base.pooled) == (6, 16, wilson(6, 16))
    assert base.mean == pytest.approx(6 / 16)
    assert base.iqm == pytest.approx((0.25 + 0.5) / 2)  # of 0.5, 0, 0.75, 0.25
    assert (base.difference, base.pairs) == (None, 0)
    assert new.mean == pytest.approx(9 / 16)
    assert new.difference == pytest.approx((2 / 8 + 1 / 8) / 2)  # seed 1: two gained; seed 2: two gained, one lost
    assert new.pairs == 2
    assert new.seconds == 60.0
    assert new.paper == 88.0


def test_seeds_of_one_side_only_are_not_paired() -> None:
    runs = [run for run in runs_with_outcomes() if (run.cell, run.seed) != ("base", 2)]
    new = make_table(spec(), runs).rows[1]
    assert (new.seeds, new.pairs) == (2, 1)
    assert new.difference == pytest.approx(2 / 8)


def test_unfinished_runs_are_left_out() -> None:
    runs = [
        *runs_with_outcomes()[:1],
        made_result("new", 1, [0.0, 1.0], {"a": "1111", "b": "1111"}, state="unfinished"),
    ]
    base, new = make_table(spec(), runs).rows
    assert (base.seeds, base.of_seeds) == (1, 2)
    assert (new.seeds, new.n, new.mean) == (0, 0, None)


def test_another_protocol_is_not_paired_and_said() -> None:
    runs = runs_with_outcomes()
    runs[2] = made_result("new", 1, [0.5], OUTCOMES["new", 1], protocol_digest="q")
    table = make_table(spec(), runs)
    assert table.rows[1].pairs == 1
    assert any("another protocol" in note for note in table.notes)


def test_runs_of_several_states_of_the_code_are_told() -> None:
    runs = [*runs_with_outcomes()[:3], made_result("new", 2, [0.5], OUTCOMES["new", 2], code="def")]
    assert any("2 states of the code" in note for note in make_table(spec(), runs).notes)


def test_markdown_and_csv_say_the_same() -> None:
    table = make_table(spec(cells={"base": {"note": "a|b"}, "new": {}}, threshold={"window": 1}), runs_with_outcomes())
    text = markdown(table, "ours")
    lines = text.splitlines()
    assert lines[2].startswith("| cell | seeds | success | mean over seeds | IQM | difference | steps to threshold |")
    assert "| new | 2 | 9/16 56.2 [" in text
    assert "a\\|b" in text
    base, new = csv.DictReader(io.StringIO(csv_text(table)))
    assert base["cell"] == "base"
    assert float(new["difference"]) == 0.1875
    assert float(new["mean_low"]) <= float(new["mean"]) <= float(new["mean_high"])
    assert base["difference"] == ""


def test_a_study_that_has_not_begun_has_a_table() -> None:
    table = make_table(spec(threshold={}), [])
    assert markdown(table, "ours").count("| – |") == 2 * 3 or "0 of 2" in markdown(table, "ours")
    assert csv_text(table).startswith("cell,seeds")


def test_the_intervals_of_one_table_do_not_change(tmp_path: Path) -> None:
    assert make_table(spec(), runs_with_outcomes()) == make_table(spec(), runs_with_outcomes())
