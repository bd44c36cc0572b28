"""Intervals against published values, exact sums and their defining properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.intervals import PairedComparison, paired, wilson


def pairs(both: int, gained: int, lost: int, neither: int) -> PairedComparison:
    before = [True] * both + [False] * gained + [True] * lost + [False] * neither
    after = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return paired(before, after)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(45, 50, 78.6, 95.7), (450, 500, 87.1, 92.3), (5, 5, 56.6, 100.0), (485, 500, 95.1, 98.2), (0, 10, 0.0, 27.8)],
)
def test_wilson_matches_known_values(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson(successes, trials)
    assert (round(100 * interval.low, 1), round(100 * interval.high, 1)) == (low, high)


def test_nothing_is_known_without_trials() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


@given(st.integers(1, 400), st.data())
def test_wilson_solves_the_score_equation(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    interval, rate = wilson(successes, trials), successes / trials
    for bound in (interval.low, interval.high):
        if 0.0 < bound < 1.0:
            score = abs(rate - bound) / math.sqrt(bound * (1 - bound) / trials)
            assert score == pytest.approx(1.959964, abs=1e-5)
    assert interval.low <= rate <= interval.high
    mirrored = wilson(trials - successes, trials)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - interval.high, 1 - interval.low), abs=1e-12)


def test_newcombe_matches_a_published_example() -> None:
    """Airway reactivity before and after stem cell transplantation (Fagerland, Lydersen, Laake 2014): 1, 1, 7, 12."""
    found = pairs(both=1, gained=1, lost=7, neither=12)
    assert found.difference == pytest.approx(-6 / 21)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.507, -0.026)


@pytest.mark.parametrize(("gained", "lost"), [(7, 1), (0, 0), (3, 3), (30, 2), (0, 9)])
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    found = pairs(both=4, gained=gained, lost=lost, neither=6)
    discordant = gained + lost
    extreme = [k for k in range(discordant + 1) if abs(k - discordant / 2) >= abs(gained - discordant / 2)]
    exact = sum(math.comb(discordant, k) for k in extreme) / 2**discordant
    assert found.p_value == pytest.approx(exact)
    assert found.significant == (exact < 0.05)
    assert (found.pairs, found.gained, found.lost) == (10 + discordant, gained, lost)


counts = st.integers(0, 40)


@given(counts, counts, counts, counts.map(lambda n: n + 1))
def test_swapping_before_and_after_mirrors_the_comparison(both: int, gained: int, lost: int, neither: int) -> None:
    one, other = pairs(both, gained, lost, neither), pairs(both, lost, gained, neither)
    assert (one.low, one.high, one.difference) == pytest.approx((-other.high, -other.low, -other.difference))
    assert one.p_value == pytest.approx(other.p_value)
    assert -1.0 <= one.low <= one.difference <= one.high <= 1.0


@pytest.mark.parametrize(("before", "after", "agreement"), [(0.5, 0.5, 0.5), (0.5, 0.8, 0.4), (0.3, 0.4, 0.2)])
def test_the_paired_interval_covers_at_the_promised_rate(before: float, after: float, agreement: float) -> None:
    """Exact coverage: every outcome of 16 pairs, weighted by its multinomial probability."""
    both = before * after + agreement * (min(before, after) - before * after)
    cells = (both, after - both, before - both, 1 - before - after + both)
    pairs_made, covered = 16, 0.0
    for a in range(pairs_made + 1):
        for g in range(pairs_made + 1 - a):
            for lost in range(pairs_made + 1 - a - g):
                numbers = (a, g, lost, pairs_made - a - g - lost)
                found = pairs(*numbers)
                if found.low <= after - before <= found.high:
                    ways = math.factorial(pairs_made) // math.prod(math.factorial(n) for n in numbers)
                    covered += ways * math.prod(p**n for p, n in zip(cells, numbers, strict=True))
    assert 0.94 <= covered < 1.0
