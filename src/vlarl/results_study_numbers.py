"""The numbers of one cell of a study: success with intervals, the difference to the baseline, the ratio of times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from vlarl import seeding
from vlarl.intervals import Interval
from vlarl.intervals_bootstrap import (
    counts_interval,
    difference_interval,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    ratio_interval,
    seeds_to_settle,
)
from vlarl.results_study import Point, RunResult

Times = tuple[int, bool]  # env steps until the threshold, and whether it was reached


def alike(runs: Sequence[RunResult]) -> tuple[list[RunResult], list[RunResult]]:
    """The runs that were evaluated on equally many episodes of the same tasks as most, by seed; and the others.

    Of groups of one size the one with the lowest seed. A run without an evaluation is never among the first.
    """
    ordered = sorted(runs, key=lambda run: run.seed)
    groups: dict[tuple[tuple[str, int], ...], list[RunResult]] = {}
    for run in ordered:
        groups.setdefault(tuple(sorted((task, len(marks)) for task, marks in run.outcomes.items())), []).append(run)
    groups.pop((), None)
    kept = max(groups.values(), key=len, default=[])
    return kept, [run for run in ordered if not any(run is one for one in kept)]


def levels(runs: Sequence[RunResult]) -> dict[str, Any]:
    """Final success of one cell, over runs that are alike."""
    if not runs:
        names = ("mean", "mean_interval", "iqm", "iqm_interval", "seconds")
        return {"seeds": 0, "k": 0, "n": 0, **dict.fromkeys(names)}
    outcomes = _arrays(tuple(_marks([run.outcomes for run in runs])))
    scores = np.stack([marks.mean(axis=1) for marks in outcomes], axis=1)  # (S, T)
    k, n = sum(int(marks.sum()) for marks in outcomes), sum(marks.size for marks in outcomes)
    return {
        "seeds": len(runs),
        "k": k,
        "n": n,
        "mean": k / n,  # every seed has as many episodes
        "mean_interval": success_interval([run.outcomes for run in runs]),
        "iqm": interquartile_mean(scores),
        "iqm_interval": interquartile_interval(outcomes, _generator("iqm")),
        "seconds": float(np.mean([run.seconds for run in runs])),
    }


def success_interval(outcomes: Sequence[Mapping[str, str]]) -> Interval:
    """Of the mean success over seeds, each with its outcomes by task, equally many in all of them."""
    return _mean_interval(tuple(_marks(outcomes)))


def point_interval(points: Sequence[Point]) -> Interval:
    """Of the mean success of one evaluation of several seeds; from counts where it is not known what succeeded."""
    known = [point.outcomes for point in points if point.outcomes]
    shapes = {tuple(sorted((task, len(marks)) for task, marks in each.items())) for each in known}
    if len(known) == len(points) and len(shapes) == 1:
        return success_interval(known)
    k, n = (np.array([getattr(point, name) for point in points]) for name in ("k", "n"))
    return counts_interval(k, n, _generator("counts"))


def difference(pairs: Sequence[tuple[RunResult, RunResult]]) -> dict[str, Any]:
    """To the baseline, over pairs (own run, the baseline's) of one seed and protocol."""
    if not pairs:
        return {"pairs": 0, "difference": None, "difference_interval": None, "seeds_to_settle": None}
    ordered = [own.outcomes for own, _ in pairs] + [base.outcomes for _, base in pairs]
    both = _arrays(tuple(_marks(ordered)))  # of the same tasks in the same order
    own, base = [marks[: len(pairs)] for marks in both], [marks[len(pairs) :] for marks in both]
    episodes = sum(marks.shape[1] for marks in own)
    changes = [after.astype(int) - before for after, before in zip(own, base, strict=True)]
    by_seed = sum(change.sum(axis=1) for change in changes) / episodes
    interval = difference_interval(own, base, _generator("difference"))
    unsettled = interval.low <= 0.0 <= interval.high
    return {
        "pairs": len(pairs),
        "difference": float(np.mean(by_seed)),
        "difference_interval": interval,
        "seeds_to_settle": seeds_to_settle(np.asarray(by_seed)) if unsettled else None,
    }


def ratio(against: Sequence[tuple[Times, Times]]) -> dict[str, Any]:
    """Of env steps to the threshold, own to the baseline's, over pairs of one seed."""
    cut_off = sum(not reached for _, (_, reached) in against)
    own, base = (np.array([pair[at][0] for pair in against], dtype=float) for at in (0, 1))
    if not against or not base.mean() > 0:
        return {"ratio": None, "ratio_interval": None, "ratio_bound": "", "baseline_censored": cut_off}
    interval = ratio_interval(own, base, _generator("ratio")) if (base > 0).all() else None
    own_cut, base_cut = any(not pair[0][1] for pair in against), cut_off > 0
    bound = {(False, False): "", (True, False): ">=", (False, True): "<=", (True, True): "both"}[own_cut, base_cut]
    return {
        "ratio": float(own.mean() / base.mean()),
        "ratio_interval": interval,
        "ratio_bound": bound,
        "baseline_censored": cut_off,
    }


def _generator(*purpose: str) -> np.random.Generator:
    """The same results give the same intervals."""
    return seeding.generator(0, "bootstrap", *purpose)


def _marks(outcomes: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    """By task, a string of outcomes a seed; the tasks in the order of the first seed."""
    return [tuple(each[task] for each in outcomes) for task in outcomes[0]]


def _arrays(marks: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """By task, (S, E) of 0 and 1."""
    return [np.array([[mark == "1" for mark in seed] for seed in task], dtype=np.int8) for task in marks]


@lru_cache(maxsize=4096)  # a page draws the same curve over several axes
def _mean_interval(marks: tuple[tuple[str, ...], ...]) -> Interval:
    return mean_interval(_arrays(marks), _generator("mean"))
