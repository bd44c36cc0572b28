"""The numbers of a study's table, held against ones worked out by hand."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from made_study import made_result

from vlarl.intervals import Interval, wilson
from vlarl.intervals_bootstrap import student_interval
from vlarl.recipe.specs.study import StudySpec, ThresholdSpec
from vlarl.results_study import Point
from vlarl.results_study_numbers import alike, point_interval
from vlarl.results_study_table import csv_text, difference_text, make_table, markdown, pairs_text, time_to_threshold


def spec(**fields: object) -> StudySpec:
    given = {"recipe": "r.yaml", "seeds": [1, 2], "baseline": "base", "cells": {"base": {}, "new": {}}, **fields}
    return StudySpec.model_validate(given)


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
    assert new.ratio_bound == "both"  # both sides have a run that never got there
    assert new.baseline_censored == 1
    assert new.ratio_interval is not None
    assert (new.ratio_interval.low, new.ratio_interval.high) == pytest.approx((2 / 3, 1.0))
    text = markdown(table, "ours")
    assert "x 0.83 [0.67, 1.00], both cut off by the budget, 250 steps, 1 of 2 never, baseline 1 of 2 |" in text
    assert "until 40.0 % (itself an estimate from the runs of `base`)" in text


@pytest.mark.parametrize(("slow", "bound", "shown"), [("new", ">=", "≥ x 2.00"), ("base", "<=", "≤ x 0.50")])
def test_a_censored_side_makes_the_ratio_a_bound(slow: str, bound: str, shown: str) -> None:
    rates = {name: [0.0, 0.2, 0.4] if name == slow else [0.0, 0.5, 0.5] for name in ("base", "new")}
    runs = [made_result(name, 1, rates[name], {"a": "1"}) for name in rates]
    table = make_table(spec(threshold={"window": 1, "success": 0.5}), runs)
    assert table.rows[1].ratio_bound == bound
    assert shown in markdown(table, "ours")
    assert ("baseline 1 of 1" in markdown(table, "ours")) == (slow == "base")
    assert "cut off" not in markdown(table, "ours")
    assert "itself an estimate" not in markdown(table, "ours"), "it was given"


def test_without_censored_runs_the_ratio_is_no_bound() -> None:
    runs = [made_result(name, 1, [0.0, 0.5, 0.5], {"a": "1"}) for name in ("base", "new")]
    row = make_table(spec(threshold={"window": 1, "success": 0.5}), runs).rows[1]
    assert (row.ratio, row.ratio_bound, row.baseline_censored) == (1.0, "", 0)


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
    assert (base.k, base.n, base.mean) == (6, 16, 6 / 16)
    assert base.mean_interval is not None
    assert base.mean_interval.low < 6 / 16 < base.mean_interval.high
    assert base.iqm == pytest.approx((0.25 + 0.5) / 2)  # of 0.5, 0, 0.75, 0.25
    assert (base.difference, base.pairs) == (None, 0)
    assert new.mean == pytest.approx(9 / 16)
    assert new.difference == pytest.approx((2 / 8 + 1 / 8) / 2)  # seed 1: two gained; seed 2: two gained, one lost
    assert new.pairs == 2
    by_seed = student_interval(np.array([2 / 8, 1 / 8]))
    assert new.difference_interval == Interval(max(-1.0, by_seed.low), min(1.0, by_seed.high))
    assert new.seconds == 60.0
    assert new.paper == 88.0


def test_seeds_of_one_side_only_are_not_paired() -> None:
    runs = [run for run in runs_with_outcomes() if (run.cell, run.seed) != ("base", 2)]
    new = make_table(spec(), runs).rows[1]
    assert (new.seeds, new.pairs) == (2, 1)
    assert new.difference == pytest.approx(2 / 8)
    assert pairs_text(new) == "(1 pair, episodes only)"
    assert "+25.0 [" in difference_text(new)
    assert "] (1 pair, episodes only)" in difference_text(new)


def test_two_pairs_of_three_seeds_are_told() -> None:
    runs = [*runs_with_outcomes(), made_result("new", 3, [0.5], OUTCOMES["new", 1])]
    new = make_table(spec(), runs).rows[1]
    assert (new.seeds, new.pairs, pairs_text(new)) == (3, 2, "(2 pairs)")
    assert difference_text(new).endswith("(2 pairs); seeds to settle: not enough to say")


def test_one_seed_alone_speaks_of_its_episodes() -> None:
    table = make_table(spec(), [run for run in runs_with_outcomes() if run.seed == 1])
    base, new = table.rows
    assert base.mean_interval == wilson(2, 8)
    assert pairs_text(new) == "(episodes only)"
    assert any(note.startswith("*episodes only*") for note in markdown(table, "ours").split("- "))


def test_outcomes_that_are_all_alike_have_an_interval_with_a_width() -> None:
    runs = [made_result(cell, seed, [0.0], {"a": "0" * 8}) for cell in ("base", "new") for seed in (1, 2, 3)]
    base, new = make_table(spec(seeds=[1, 2, 3]), runs).rows
    assert base.mean_interval == base.iqm_interval == wilson(0, 8)
    assert new.difference_interval is not None
    assert new.difference_interval.low < 0 < new.difference_interval.high
    assert "seeds to settle: not enough to say" in difference_text(new), "without a difference no number settles it"


def test_seeds_to_settle_are_told_where_zero_is_inside() -> None:
    marks = {1: "11111110", 2: "11000000", 3: "11110000"}
    runs = [made_result("base", seed, [0.5], {"a": "11100000"}) for seed in marks]
    runs += [made_result("new", seed, [0.5], {"a": own}) for seed, own in marks.items()]
    new = make_table(spec(seeds=[1, 2, 3]), runs).rows[1]
    assert new.holds_zero
    assert new.seeds_to_settle is not None
    assert new.seeds_to_settle > 3
    assert difference_text(new).endswith(f"; {new.seeds_to_settle} seeds to settle")


def test_seeds_with_other_tasks_or_episodes_are_left_out_and_it_is_said() -> None:
    other = made_result("new", 3, [0.5], {"a": "11"})
    none = made_result("new", 4, [], {})
    runs = [*runs_with_outcomes(), other, none]
    kept, left_out = alike(runs[2:])
    assert ([run.seed for run in kept], [run.seed for run in left_out]) == ([1, 2], [3, 4])
    table = make_table(spec(seeds=[1, 2, 3, 4]), runs)
    assert (table.rows[1].seeds, table.rows[1].n) == (2, 16)
    note = "seeds 3, 4 of new were not evaluated on the tasks and episodes of the cell's other seeds and left out"
    assert note in table.notes


def test_a_band_knows_which_episodes_succeeded_or_takes_the_worst() -> None:
    marks = ("1100", "1100", "1100")
    known = [Point(iteration=1, env_steps=1, seconds=1.0, k=2, n=4, outcomes={"a": mark}) for mark in marks]
    unknown = [Point(iteration=1, env_steps=1, seconds=1.0, k=2, n=4) for _ in marks]
    runs = [made_result("base", seed, [0.5], {"a": mark}) for seed, mark in enumerate(marks, 1)]
    assert point_interval(known) == make_table(spec(seeds=[1, 2, 3]), runs).rows[0].mean_interval
    mixed = point_interval([*known[:2], unknown[2]])
    assert mixed == point_interval(unknown)
    assert mixed.low < 0.5 < mixed.high


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
    assert "| new | 2 | 9/16 | 56.2 [" in text
    assert "a\\|b" in text
    base, new = csv.DictReader(io.StringIO(csv_text(table)))
    assert base["cell"] == "base"
    assert float(new["difference"]) == 0.1875
    assert float(new["mean_low"]) <= float(new["mean"]) <= float(new["mean_high"])
    assert base["difference"] == ""


def test_the_legend_says_what_is_covered() -> None:
    table = make_table(spec(), runs_with_outcomes())
    text = markdown(table, "ours")
    for words in ("crossed bootstrap", "Student's t", "several comparisons", "seeds to settle", "fewer than three"):
        assert words in text, words
    assert "Wilson interval" not in text


def test_a_study_that_has_not_begun_has_a_table() -> None:
    table = make_table(spec(threshold={}), [])
    assert markdown(table, "ours").count("| – |") == 2 * 3 or "0 of 2" in markdown(table, "ours")
    assert csv_text(table).startswith("cell,seeds")


def test_the_intervals_of_one_table_do_not_change(tmp_path: Path) -> None:
    assert make_table(spec(), runs_with_outcomes()) == make_table(spec(), runs_with_outcomes())
