"""The privileged reward, against sums by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from builders import make_rollout
from vlarl.recipe.specs.learning import Truncation
from vlarl.recipe.specs.rewards import DenseOracleRewardSpec
from vlarl.rewards.dense_oracle import DenseOracleReward
from vlarl.types import Rollout

GAMMA = 0.9


def at(*phi: float) -> np.ndarray:
    """(1, T) distances, in metres, at which the potential of length 0.1 is ``phi``."""
    return (-0.1 * np.log(np.array([phi]))).astype(np.float32)


def rollout(**fields: Any) -> Rollout:
    """One slot: three steps to success, then two of another episode."""
    blank = {
        "goal_distance": at(0.2, 0.4, 0.6, 0.1, 0.3),
        "next_goal_distance": at(0.4, 0.6, 0.9, 0.3, 0.5),
        "terminated": np.array([[False, False, True, False, False]]),
    }
    return make_rollout(1, 5, **{**blank, **fields})


def reward(truncation: Truncation = "bootstrap") -> DenseOracleReward:
    return DenseOracleReward(DenseOracleRewardSpec(scale=2.0, length=0.1), gamma=GAMMA, truncation=truncation)


def test_at_the_horizon_nothing_is_left_where_nothing_follows_it() -> None:
    """Success and waiting near the goal until the horizon then both pay -Phi(first): no shaping beats success."""
    given = rollout(truncated=np.array([[False, False, False, False, True]]))
    kept, ended = reward("bootstrap").score(given), reward("terminal").score(given)
    assert (kept != ended).tolist() == [[False, False, False, False, True]]
    assert ended[0, 4] == pytest.approx(2.0 * -0.3, abs=1e-6)
    assert float(ended[0, 3:] @ [1.0, GAMMA]) == pytest.approx(-2.0 * 0.1, abs=1e-6)


def test_pays_the_difference_of_the_potential_and_nothing_is_left_after_success() -> None:
    expected = [[0.9 * 0.4 - 0.2, 0.9 * 0.6 - 0.4, -0.6, 0.9 * 0.3 - 0.1, 0.9 * 0.5 - 0.3]]
    found = reward().score(rollout())
    np.testing.assert_allclose(found, 2.0 * np.array(expected), atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("truncation", ["bootstrap", "terminal"])
def test_a_difference_pays_what_was_gained_and_success_the_rest(truncation: Truncation) -> None:
    spec = DenseOracleRewardSpec(scale=2.0, length=0.1, mode="difference")
    given = rollout(truncated=np.array([[False, False, False, False, True]]))
    found = DenseOracleReward(spec, gamma=GAMMA, truncation=truncation).score(given)
    np.testing.assert_allclose(found, 2.0 * np.array([[0.2, 0.2, 1.0 - 0.6, 0.2, 0.2]]), atol=1e-6)


def test_a_step_that_errors_and_a_slot_that_waits_pay_nothing() -> None:
    errored = np.array([[False, False, False, True, False]])
    unknown = np.array([[0.1, 0.1, 0.1, np.nan, 0.1]], np.float32)
    active = np.array([[True, True, True, True, False]])
    found = reward().score(rollout(errored=errored, next_goal_distance=unknown, active=active))
    assert found[0, 3] == found[0, 4] == 0.0
    assert (found[0, :3] != 0.0).all()


@pytest.mark.parametrize("length", [0.05, 0.2])
def test_the_length_says_how_near_is_near(length: float) -> None:
    spec = DenseOracleRewardSpec(scale=1.0, length=length)
    found = DenseOracleReward(spec, gamma=1.0, truncation="terminal").score(
        make_rollout(
            1, 1, goal_distance=np.array([[length]], np.float32), next_goal_distance=np.zeros((1, 1), np.float32)
        )
    )
    assert found[0, 0] == pytest.approx(1.0 - np.exp(-1.0))


def test_over_a_chunk_the_potential_is_discounted_by_its_control_steps() -> None:
    """As in the advantages, so that over an episode it telescopes to -Phi(first)."""
    taken = np.array([[3, 3, 2, 3, 3]], np.int32)
    given = rollout(num_taken=taken)
    found = reward().score(given)
    expected = [0.9**3 * 0.4 - 0.2, 0.9**3 * 0.6 - 0.4, -0.6, 0.9**3 * 0.3 - 0.1, 0.9**3 * 0.5 - 0.3]
    np.testing.assert_allclose(found, 2.0 * np.array([expected]), atol=1e-6)
    assert float(found[0, :3] @ [1.0, 0.9**3, 0.9**6]) == pytest.approx(-2.0 * 0.2, abs=1e-6)
