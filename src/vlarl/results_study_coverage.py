"""How much of the plane of actions the policies of a study use at step 0 and in the end, by cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlarl import seeding
from vlarl.intervals import Interval
from vlarl.intervals_bootstrap import seeds_interval
from vlarl.results_study import RunResult


@dataclass(frozen=True)
class SeedMean:
    """Mean over seeds with a bootstrap interval over them, None for a single seed."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class CoverageRow:
    """Shares of the plane of actions in one cell."""

    cell: str
    seeds: int  # of finished runs whose actions are known
    before: SeedMean
    after: SeedMean
    change: SeedMean


def coverage_rows(done: Mapping[str, Sequence[RunResult]]) -> tuple[CoverageRow, ...]:
    """One row a cell, in their order; cells of whose runs none is known are left out. ``done``: finished runs."""
    rows = (_row(cell, [run.action_shares for run in runs if run.action_shares]) for cell, runs in done.items())
    return tuple(row for row in rows if row is not None)


def _row(cell: str, shares: Sequence[tuple[float, float]]) -> CoverageRow | None:
    if not shares:
        return None
    before, after = np.array(shares).T
    return CoverageRow(
        cell=cell,
        seeds=len(shares),
        before=_mean(before, "before"),
        after=_mean(after, "after"),
        change=_mean(after - before, "change"),
    )


def _mean(values: np.ndarray, purpose: str) -> SeedMean:
    rng = seeding.generator(0, "bootstrap", "coverage", purpose)
    return SeedMean(float(values.mean()), seeds_interval(values, rng))
