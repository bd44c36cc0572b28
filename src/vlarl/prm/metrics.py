"""How good scores are: ranking, calibration, order along trajectories, each with intervals by trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vlarl.seeding import generator


def ranks(values: np.ndarray) -> np.ndarray:
    """(n,) float64 ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive scores above a negative, ties half; NaN with one class only."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    total = float(ranks(scores)[positive].sum())
    return (total - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Sum over thresholds of precision x gain in recall; NaN without a positive."""
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits, ordered = positive[order].astype(np.float64), scores[order]
    last_of_tie = np.append(np.diff(ordered) != 0, True)
    found, seen = np.cumsum(hits)[last_of_tie], np.flatnonzero(last_of_tie) + 1
    return float((np.diff(found, prepend=0.0) * found / seen).sum() / hits.sum())


@dataclass(frozen=True)
class Bin:
    """One row of the reliability table."""

    low: float
    high: float
    count: int
    mean_score: float | None
    share_positive: float | None


def reliability(scores: np.ndarray, positive: np.ndarray, num_bins: int = 10) -> tuple[Bin, ...]:
    places = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    bins = []
    for place in range(num_bins):
        inside = places == place
        count = int(inside.sum())
        means = (float(scores[inside].mean()), float(positive[inside].mean())) if count else (None, None)
        bins.append(Bin(place / num_bins, (place + 1) / num_bins, count, *means))
    return tuple(bins)


def calibration_error(scores: np.ndarray, positive: np.ndarray, num_bins: int = 10) -> float:
    """Expected calibration error: mean |score - share of positives| over equal bins, by their counts."""
    gaps = [
        each.count * abs(each.mean_score - each.share_positive)
        for each in reliability(scores, positive, num_bins)
        if each.mean_score is not None and each.share_positive is not None
    ]
    return float(sum(gaps) / len(scores)) if len(scores) else float("nan")


def order_correlation(values: np.ndarray) -> float:
    """Spearman correlation of ``values`` along a trajectory with time; 0 where they are all equal."""
    if len(values) < 2:
        return float("nan")
    if np.ptp(values) == 0.0:
        return 0.0
    return float(np.corrcoef(ranks(values), np.arange(len(values)))[0, 1])


@dataclass(frozen=True)
class Estimate:
    """A figure with the 95 % interval that resampling trajectories gives."""

    value: float | None
    low: float | None
    high: float | None


def estimate(
    figure: Callable[[np.ndarray], float], groups: Sequence[np.ndarray], *, num_resamples: int, seed: int, name: str
) -> Estimate:
    """``figure`` of all rows, and its spread when whole ``groups`` of rows (trajectories) are drawn again and again."""
    everything = np.concatenate(groups) if groups else np.empty(0, np.int64)
    value = figure(everything) if len(everything) else float("nan")
    random = generator(seed, "prm-bootstrap", name)
    drawn = []
    for _ in range(num_resamples if np.isfinite(value) else 0):
        picked = random.integers(0, len(groups), len(groups))
        drawn.append(figure(np.concatenate([groups[i] for i in picked])))
    usable = [each for each in drawn if np.isfinite(each)]
    low, high = np.quantile(usable, [0.025, 0.975]).tolist() if usable else (None, None)
    return Estimate(value if np.isfinite(value) else None, low, high)
