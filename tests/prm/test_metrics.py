"""Figures against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.prm.metrics import (
    auc,
    average_precision,
    calibration_error,
    estimate,
    order_correlation,
    ranks,
    reliability,
)


def flags(*values: int) -> np.ndarray:
    return np.array(values, bool)


def test_ranks_share_ties() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_auc_by_hand() -> None:
    assert auc(np.array([0.9, 0.8, 0.2, 0.1]), flags(1, 1, 0, 0)) == 1.0
    assert auc(np.array([0.9, 0.8, 0.2, 0.1]), flags(1, 0, 1, 0)) == 0.75
    assert auc(np.full(4, 0.5), flags(1, 0, 1, 0)) == 0.5
    assert np.isnan(auc(np.array([0.1, 0.2]), flags(1, 1)))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=20))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([float(s) for s, _ in rows]), np.array([p for _, p in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    if pairs:
        assert auc(scores, positive) == pytest.approx(np.mean(pairs))


def test_average_precision_by_hand() -> None:
    found = average_precision(np.array([0.9, 0.8, 0.7, 0.6]), flags(1, 0, 1, 0))
    assert found == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.full(4, 0.5), flags(1, 0, 1, 0)) == 0.5, "the order of ties does not count"


def test_calibration_by_hand() -> None:
    scores, positive = np.array([0.25, 0.25, 0.75, 0.75]), flags(0, 1, 1, 1)
    assert calibration_error(scores, positive) == pytest.approx(0.25)
    rows = reliability(scores, positive)
    assert [row.count for row in rows] == [0, 0, 2, 0, 0, 0, 0, 2, 0, 0]
    assert (rows[2].mean_score, rows[2].share_positive) == (0.25, 0.5)
    assert reliability(np.array([1.0]), flags(1))[-1].count == 1


def test_order_in_time() -> None:
    assert order_correlation(np.array([0.1, 0.2, 0.9])) == pytest.approx(1.0)
    assert order_correlation(np.array([0.9, 0.2, 0.1])) == pytest.approx(-1.0)
    assert order_correlation(np.zeros(5)) == 0.0


def test_intervals_resample_whole_trajectories() -> None:
    values = np.repeat([0.0, 1.0], 50)
    groups = [np.arange(50), np.arange(50, 100)]
    found = estimate(lambda rows: float(values[rows].mean()), groups, num_resamples=400, seed=0, name="mean")
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    steps = [np.array([row]) for row in range(100)]
    narrow = estimate(lambda rows: float(values[rows].mean()), steps, num_resamples=400, seed=0, name="mean")
    assert narrow.low is not None
    assert narrow.low > 0.35


def test_a_figure_that_is_none_has_no_interval() -> None:
    found = estimate(lambda rows: float("nan"), [np.arange(3)], num_resamples=10, seed=0, name="none")
    assert (found.value, found.low, found.high) == (None, None, None)
