"""Intervals, 95 %, of success over several training seeds that were evaluated on the same held-out episodes.

Outcomes of T tasks are a sequence of T arrays (S, E): S seeds, E init states of that task, 1 for success. All seeds
have the same init states, and an easy one is easy for every seed. Resamples therefore draw seeds and, beside them,
init states within each task, once for all seeds together: crossed, the pigeonhole bootstrap of Owen (2007). To draw
episodes within each seed would take the seeds' repeats of one init state for as many independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vlarl.intervals import Interval, paired, wilson

RESAMPLES = 10_000
_LEVELS = (2.5, 97.5)
_LEVEL, _POWER = 0.975, 0.8  # of a two-sided test at 5 %, and how often it is to find what is there
_NEGLIGIBLE = 1e-12  # of rates and their differences: rounding
_MANY_PAIRS = 100_000  # from here on t is normal

Outcomes = Sequence[np.ndarray]


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half: of N scores the floor(N / 4) lowest and as many highest are left out."""
    return float(_trimmed(scores.reshape(1, -1))[0])


def mean_interval(outcomes: Outcomes, rng: np.random.Generator) -> Interval:
    """Of the mean over seeds of the success rate over all episodes of a seed. For one seed it is Wilson's."""
    num_seeds, episodes = len(outcomes[0]), _episodes(outcomes)
    rate = sum(float(marks.sum()) for marks in outcomes) / (num_seeds * episodes)
    if num_seeds == 1:
        return wilson(round(rate * episodes), episodes)
    drawn = _crossed(outcomes, rng)
    return _with_width(_interval(drawn.sum(axis=2).mean(axis=1) / episodes), rate, episodes)


def interquartile_interval(outcomes: Outcomes, rng: np.random.Generator) -> Interval:
    """Of the ``interquartile_mean`` over the S x T success rates; of one seed over its init states alone."""
    of = np.array([marks.shape[1] for marks in outcomes])
    drawn = _crossed(outcomes, rng) / of
    found = _interval(_trimmed(drawn.reshape(len(drawn), -1)))
    scores = np.stack([marks.mean(axis=1) for marks in outcomes])
    kept = 1 - 2 * (scores.size // 4) / scores.size  # share of the scores that count
    return _with_width(found, interquartile_mean(scores), max(1, round(kept * int(of.sum()))))


def counts_interval(successes: np.ndarray, episodes: np.ndarray, rng: np.random.Generator) -> Interval:
    """Of the mean over seeds where only counts (S,) are known, not which episodes succeeded.

    One draw of episodes is as lucky for every seed as for any other. That is the largest spread that shared init
    states can cause, so the interval is too wide rather than too narrow.
    """
    rates = successes / episodes
    if len(rates) == 1:
        return wilson(int(successes[0]), int(episodes[0]))
    chosen = _seeds(len(rates), rng)
    by_luck = np.sort(rng.binomial(episodes, rates, size=(RESAMPLES, len(rates))), axis=0) / episodes
    drawn = by_luck[rng.integers(RESAMPLES, size=RESAMPLES)]
    means = np.take_along_axis(drawn, chosen, axis=1).mean(axis=1)
    return _with_width(_interval(means), float(rates.mean()), int(episodes.min()))


def difference_interval(own: Outcomes, base: Outcomes, rng: np.random.Generator) -> Interval:
    """Of the mean over pairs of runs of one seed of the difference in success rate, own - base.

    At each end the wider of two: Student's t over the differences of the pairs, which covers other seeds, and a
    bootstrap over init states within these pairs, which covers other episodes. Of a single pair it is the latter
    alone. Where nothing varies it is Newcombe's of one pair's episodes.
    """
    changes = [after.astype(float) - before for after, before in zip(own, base, strict=True)]
    episodes = _episodes(own)
    drawn = np.zeros(RESAMPLES)
    for change in changes:
        values, counts = np.unique(change.sum(axis=0), return_counts=True)
        drawn += rng.multinomial(change.shape[1], counts / change.shape[1], size=RESAMPLES) @ values
    by_episode = _interval(drawn / (len(changes[0]) * episodes))
    low, high = by_episode.low, by_episode.high
    if len(changes[0]) > 1:
        by_seed = student_interval(sum(change.sum(axis=1) for change in changes) / episodes)
        low, high = max(-1.0, min(low, by_seed.low)), min(1.0, max(high, by_seed.high))
    if high - low > _NEGLIGIBLE:
        return Interval(low, high)
    before, after = (np.concatenate([marks[0] for marks in each]).astype(bool).tolist() for each in (base, own))
    alone = paired(before, after)
    return Interval(alone.low, alone.high)


def student_interval(values: np.ndarray) -> Interval:
    """Student's t interval, 95 %, of the mean of at least two values (N,)."""
    from scipy.special import stdtrit

    number = len(values)
    half = float(stdtrit(number - 1, _LEVEL)) * float(np.std(values, ddof=1)) / math.sqrt(number)
    mean = float(np.mean(values))
    return Interval(mean - half, mean + half)


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
    """Pairs that a two-sided t test at 5 % needs to find this mean of differences (N,) with a power of 80 %.

    For a spread that stays what it is; always more than there are. None with fewer than three pairs or a mean of
    zero, which are not enough to say.
    """
    pairs = len(differences)
    mean = float(np.mean(differences)) if pairs else 0.0
    if pairs < 3 or abs(mean) <= _NEGLIGIBLE:
        return None
    spread = float(np.std(differences, ddof=1))
    if spread <= _NEGLIGIBLE:
        return pairs + 1
    effect = abs(mean) / spread
    rough = ((1.959964 + 0.841621) / effect) ** 2
    if rough > _MANY_PAIRS:
        return math.ceil(rough)
    low, high = pairs, pairs + 1
    while power(effect, high) < _POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle) >= _POWER else (middle, high)
    return high


def power(effect: float, pairs: int) -> float:
    """Of a two-sided t test at 5 % whether a mean is zero, when it is ``effect`` standard deviations away from it."""
    from scipy.special import nctdtr, stdtrit

    free, noncentrality = pairs - 1, effect * math.sqrt(pairs)
    beyond = float(stdtrit(free, _LEVEL))
    # Far off, the other tail is nothing, and scipy's value of it may be no number.
    other_tail = float(nctdtr(free, noncentrality, -beyond)) if noncentrality < 5.0 else 0.0
    return 1.0 - float(nctdtr(free, noncentrality, beyond)) + other_tail


def _seeds(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(count, size=(RESAMPLES, count))


def _episodes(outcomes: Outcomes) -> int:
    """Of one seed, over all tasks."""
    return sum(int(marks.shape[1]) for marks in outcomes)


def _crossed(outcomes: Outcomes, rng: np.random.Generator) -> np.ndarray:
    """Successes (R, S, T) of resamples: seeds with replacement, and init states of each task once for all seeds."""
    assert len({len(marks) for marks in outcomes}) == 1, "every seed tried every task"
    assert all(marks.shape[1] for marks in outcomes), "every task was tried"
    chosen = _seeds(len(outcomes[0]), rng)
    successes = []
    for marks in outcomes:
        # Init states that went alike for all seeds are interchangeable, so that their number is drawn at once.
        kinds, counts = np.unique(marks, axis=1, return_counts=True)
        drawn = rng.multinomial(marks.shape[1], counts / marks.shape[1], size=RESAMPLES)  # (R, kinds)
        successes.append(np.take_along_axis(drawn @ kinds.T.astype(np.int64), chosen, axis=1))
    return np.stack(successes, axis=2)


def _trimmed(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean of each row."""
    cut = scores.shape[1] // 4
    ordered = np.sort(scores, axis=1)
    return np.asarray(ordered[:, cut : scores.shape[1] - cut].mean(axis=1))


def _interval(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, _LEVELS)
    return Interval(float(low), float(high))


def _with_width(found: Interval, rate: float, episodes: int) -> Interval:
    """Where no resample differs the data do not say how sure they are: Wilson's over one seed's episodes instead."""
    if found.high - found.low > _NEGLIGIBLE:
        return found
    return wilson(round(rate * episodes), episodes)
