"""The regression guard's test: e-values by hand, their mean, false alarms and power by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate

from vlarl.guard import Evidence, e_value, finding
from vlarl.intervals import paired

RATE = 0.05


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [
        (0, 0, 1.0),  # nothing differs: no evidence either way
        (0, 1, 3 / 2),  # (1 + 2) / (2 * 1)
        (1, 0, 1 / 2),
        (1, 1, 4 / 6),  # (1 + 3) / (3 * 2)
        (0, 4, 31 / 5),  # (1 + 5 + 10 + 10 + 5) / (5 * 1)
    ],
)
def test_e_values_by_hand(gained: int, lost: int, expected: float) -> None:
    assert e_value(gained, lost) == pytest.approx(expected)


@pytest.mark.parametrize(("gained", "lost"), [(3, 9), (20, 22), (40, 10)])
def test_the_closed_form_is_the_integral(gained: int, lost: int) -> None:
    def ratio(q: float) -> float:
        return 2 * (2 * q) ** lost * (2 * (1 - q)) ** gained

    assert e_value(gained, lost) == pytest.approx(integrate.quad(ratio, 0.5, 1.0)[0], rel=1e-6)


@pytest.mark.parametrize("pairs", [1, 7, 60])
def test_the_mean_is_one_when_losses_are_as_likely_as_gains_and_less_when_rarer(pairs: int) -> None:
    def mean(q: float) -> float:
        return sum(
            math.comb(pairs, lost) * q**lost * (1 - q) ** (pairs - lost) * e_value(pairs - lost, lost)
            for lost in range(pairs + 1)
        )

    assert mean(0.5) == pytest.approx(1.0)
    assert mean(0.4) < 1.0
    assert mean(0.7) > 1.0


def test_a_large_loss_stays_a_number() -> None:
    assert e_value(0, 20_000) == 1e300
    assert e_value(20_000, 0) < 1e-4


def test_the_weights_of_many_evaluations_sum_to_one() -> None:
    evidence = Evidence()
    for _ in range(500):
        evidence = evidence.after(0, 0)
    assert evidence.total == pytest.approx(500 / 501)
    assert evidence.evaluations == 500


def test_it_acts_only_after_an_evaluation_that_lost_more_than_it_gained() -> None:
    evidence = Evidence().after(0, 20)
    assert evidence.alarms(RATE, gained=0, lost=20)
    for gained, lost in ((3, 3), (5, 1), (0, 0)):
        later = evidence.after(gained, lost)
        assert later.total > evidence.total, "what was lost is remembered"
        assert not later.alarms(RATE, gained=gained, lost=lost), "this policy is no worse than at step 0"
    assert later.alarms(RATE, gained=2, lost=3)
    assert not Evidence().after(0, 1).alarms(RATE, gained=0, lost=1), "one loss is no evidence"


def test_what_an_alarm_says_is_of_all_evaluations_together() -> None:
    assert finding(0).startswith("evaluations since step 0 together show")
    assert finding(8).startswith("evaluations since the alarm after iteration 8 together show")


def simulated(rng: np.random.Generator, change: float, *, episodes: int, evaluations: int) -> tuple[bool, bool]:
    """Whether this guard, and an uncorrected test at every evaluation, ever alarm in one run.

    The same episodes each time, of unequal difficulty, and policies that resemble the one before: an outcome
    is kept with probability 0.7. ``change`` is added to every episode's chance after step 0.
    """
    chance = rng.beta(2, 2, episodes)
    before = rng.random(episodes) < chance
    now = rng.random(episodes) < np.clip(chance + change, 0, 1)
    evidence, alarm, naive = Evidence(), False, False
    for _ in range(evaluations):
        redrawn = rng.random(episodes) < 0.3
        now = np.where(redrawn, rng.random(episodes) < np.clip(chance + change, 0, 1), now)
        gained, lost = int((now & ~before).sum()), int((before & ~now).sum())
        evidence = evidence.after(gained, lost)
        alarm |= evidence.alarms(RATE, gained=gained, lost=lost)
        pair = paired(before.tolist(), now.tolist())
        naive |= pair.significant and pair.difference < 0
    return alarm, naive


def test_false_alarms_stay_below_the_rate_however_often_it_looks() -> None:
    rng = np.random.default_rng(11)
    alarms, naive = zip(*(simulated(rng, 0.0, episodes=64, evaluations=30) for _ in range(400)), strict=True)
    assert sum(alarms) / 400 <= RATE
    assert sum(naive) / 400 > 1.5 * RATE, "a test that is not sequential would cry wolf on these runs"


def test_a_fall_of_a_quarter_is_found() -> None:
    rng = np.random.default_rng(12)
    alarms, _ = zip(*(simulated(rng, -0.25, episodes=128, evaluations=5) for _ in range(60)), strict=True)
    assert sum(alarms) >= 57
