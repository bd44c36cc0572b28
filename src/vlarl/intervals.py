"""Statistics of success counts: never a bare percentage."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """Wilson score interval, 95 %, of a success rate; [0, 1] without trials."""
    assert 0 <= successes <= trials
    if trials == 0:
        return Interval(0.0, 1.0)
    rate, z2 = successes / trials, _Z95**2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # At the ends the bound is exact, and rounding must not put it beside the rate.
    low = 0.0 if successes == 0 else centre - half
    return Interval(low, 1.0 if successes == trials else centre + half)


@dataclass(frozen=True)
class PairedComparison:
    """Two sets of outcomes on the same episodes."""

    pairs: int
    gained: int  # failed before, succeeds now
    lost: int  # succeeded before, fails now
    difference: float  # rate now - rate before
    low: float  # 95 % interval of the difference
    high: float
    p_value: float  # exact two-sided McNemar

    @property
    def significant(self) -> bool:
        return self.p_value < 0.05


def paired(before: list[bool], after: list[bool]) -> PairedComparison:
    """Exact McNemar test and a 95 % interval for the paired difference of rates.

    The interval is Newcombe's (1998, method 10) for paired proportions, which stays in [-1, 1] and keeps its
    coverage at small counts.
    """
    assert len(before) == len(after) > 0, "pairs are formed on the same episodes"
    n = len(before)
    gained = sum(b < a for b, a in zip(before, after, strict=True))
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    both = sum(b and a for b, a in zip(before, after, strict=True))
    neither = n - gained - lost - both
    low, high = _newcombe_paired(both, gained, lost, neither)
    return PairedComparison(n, gained, lost, (gained - lost) / n, low, high, _mcnemar(gained, lost))


def _mcnemar(gained: int, lost: int) -> float:
    discordant = gained + lost
    if discordant == 0:
        return 1.0
    tail = float(sum(math.comb(discordant, k) for k in range(min(gained, lost) + 1)) / 2**discordant)
    return min(1.0, 2.0 * tail)


def _newcombe_paired(both: int, gained: int, lost: int, neither: int) -> tuple[float, float]:
    n = both + gained + lost + neither
    after, before = (both + gained) / n, (both + lost) / n
    after_interval, before_interval = wilson(both + gained, n), wilson(both + lost, n)
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    covariance = float(both * neither - gained * lost)
    if covariance > 0:
        covariance = max(covariance - n / 2, 0.0)
    phi = covariance / math.sqrt(margins) if margins else 0.0
    down_after, up_after = after - after_interval.low, after_interval.high - after
    down_before, up_before = before - before_interval.low, before_interval.high - before
    difference = after - before
    low = math.sqrt(max(0.0, down_after**2 - 2 * phi * down_after * up_before + up_before**2))
    high = math.sqrt(max(0.0, up_after**2 - 2 * phi * up_after * down_before + down_before**2))
    return difference - low, difference + high
