"""Bootstrap intervals, 95 %, of success over several training seeds: seeds are resampled, then episodes within each.

Counts are arrays (S, T): S seeds, T tasks. Seeds are the strata's upper level because the tasks of one seed share
one policy; within a seed the episodes of each task are resampled apart from those of the others.
"""

from __future__ import annotations

import math

import numpy as np

from vlarl.intervals import Interval

RESAMPLES = 10_000
_LEVELS = (2.5, 97.5)


def mean_rate(successes: np.ndarray, episodes: np.ndarray) -> float:
    """Mean over seeds of the success rate over all episodes of a seed."""
    return float(np.mean(successes.sum(axis=1) / episodes.sum(axis=1)))


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half: of N scores the floor(N / 4) lowest and as many highest are left out."""
    return float(_trimmed(scores.reshape(1, -1))[0])


def mean_interval(successes: np.ndarray, episodes: np.ndarray, rng: np.random.Generator) -> Interval:
    """Of ``mean_rate``."""
    drawn, of = _resampled(successes, episodes, rng)
    return _interval((drawn.sum(axis=2) / of.sum(axis=2)).mean(axis=1))


def interquartile_interval(successes: np.ndarray, episodes: np.ndarray, rng: np.random.Generator) -> Interval:
    """Of the ``interquartile_mean`` over the S x T success rates."""
    drawn, of = _resampled(successes, episodes, rng)
    return _interval(_trimmed((drawn / of).reshape(len(drawn), -1)))


def difference_interval(
    gained: np.ndarray, lost: np.ndarray, episodes: np.ndarray, rng: np.random.Generator
) -> Interval:
    """Of the mean over seeds of (gained - lost) / episodes.

    A pair of runs shares seed and held-out episodes; pairs are resampled as one, then the pairs of episodes.
    """
    chosen = _seeds(len(gained), rng)  # (R, S)
    kept = episodes - gained - lost
    shares = np.stack([gained, lost, kept], axis=-1) / episodes[..., None]  # (S, T, 3)
    drawn = rng.multinomial(episodes[chosen], shares[chosen])  # (R, S, T, 3)
    change = (drawn[..., 0] - drawn[..., 1]).sum(axis=2) / episodes[chosen].sum(axis=2)
    return _interval(change.mean(axis=1))


def ratio_interval(times: np.ndarray, baseline: np.ndarray, rng: np.random.Generator) -> Interval | None:
    """Of mean(times) / mean(baseline) over pairs of one seed; None for a single pair, which says nothing of others."""
    if len(times) < 2:
        return None
    chosen = _seeds(len(times), rng)
    return _interval(times[chosen].mean(axis=1) / baseline[chosen].mean(axis=1))


def seeds_interval(values: np.ndarray, rng: np.random.Generator) -> Interval | None:
    """Of the mean of one number (S,) a seed; None for a single seed, which says nothing of others."""
    if len(values) < 2:
        return None
    return _interval(values[_seeds(len(values), rng)].mean(axis=1))


def seeds_to_settle(differences: np.ndarray) -> int | None:
    """Seeds at which an interval around the mean of such differences would leave out zero.

    By the normal approximation, from the spread between seeds; None for fewer than two, or without a difference.
    """
    mean = float(np.mean(differences)) if len(differences) > 1 else 0.0
    if mean == 0.0:
        return None
    return max(2, math.ceil((1.96 * float(np.std(differences, ddof=1)) / mean) ** 2))


def _seeds(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(count, size=(RESAMPLES, count))


def _resampled(successes: np.ndarray, episodes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Counts of successes and of episodes, each (R, S, T)."""
    assert successes.shape == episodes.shape, "counts of the same seeds and tasks"
    assert (episodes > 0).all(), "every task was tried"
    chosen = _seeds(len(successes), rng)
    of = episodes[chosen]
    return rng.binomial(of, successes[chosen] / of), of


def _trimmed(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean of each row."""
    cut = scores.shape[1] // 4
    ordered = np.sort(scores, axis=1)
    return np.asarray(ordered[:, cut : scores.shape[1] - cut].mean(axis=1))


def _interval(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, _LEVELS)
    return Interval(float(low), float(high))
