"""Rewards: what an episode's end is worth, and where a sum comes from."""

from __future__ import annotations

import numpy as np
import pytest

from builders import make_rollout
from vlarl.errors import RunError
from vlarl.recipe.specs.rewards import SuccessRewardSpec
from vlarl.rewards.combine import Rewards
from vlarl.rewards.success import SuccessReward
from vlarl.types import Rollout


class Constant:
    """The same number at every step."""

    def __init__(self, name: str, value: float, weight: float) -> None:
        self.name, self.weight, self._value = name, weight, value

    def score(self, rollout: Rollout) -> np.ndarray:
        return np.full(rollout.values.shape, self._value, np.float32)


def ended() -> Rollout:
    """Step 1 of slot 0 succeeds, its step 3 is truncated; step 2 of slot 1 errors."""
    flags = {name: np.zeros((2, 4), bool) for name in ("terminated", "truncated", "errored")}
    flags["terminated"][0, 1] = flags["truncated"][0, 3] = flags["errored"][1, 2] = True
    return make_rollout(2, 4, **flags)


def test_success_pays_at_the_step_that_succeeds() -> None:
    rewards = SuccessReward(SuccessRewardSpec()).score(ended())
    assert rewards.dtype == np.float32
    assert rewards.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]


def test_truncated_and_errored_episodes_have_their_configured_values() -> None:
    reward = SuccessReward(SuccessRewardSpec(truncated=-0.25, errored=-0.5))
    assert reward.score(ended()).tolist() == [[0, 1, 0, -0.25], [0, 0, -0.5, 0]]


def test_the_breakdown_is_weighted_and_sums_to_the_rewards() -> None:
    success = SuccessReward(SuccessRewardSpec(weight=2.0, truncated=-1.0))
    scored = Rewards([success, Constant("tick", -0.1, 0.5)]).score(ended())
    assert list(scored.breakdown) == ["success", "tick"]
    assert scored.breakdown["success"].tolist() == [[0, 2, 0, -2], [0, 0, 0, 0]]
    np.testing.assert_allclose(scored.breakdown["tick"], -0.05, rtol=1e-6)
    assert np.array_equal(scored.rewards, scored.breakdown["success"] + scored.breakdown["tick"])
    assert scored.rewards.dtype == np.float32
    assert scored.rewards.shape == (2, 4)


def test_the_rollout_is_wrapped_and_not_touched() -> None:
    rollout = ended()
    assert Rewards([Constant("tick", 1.0, 1.0)]).score(rollout).rollout is rollout


def test_two_rewards_of_one_name_are_a_programmers_mistake() -> None:
    with pytest.raises(AssertionError):
        Rewards([Constant("tick", 0.0, 1.0), Constant("tick", 1.0, 1.0)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_no_number_is_named(value: float) -> None:
    class Spoiled(Constant):
        def score(self, rollout: Rollout) -> np.ndarray:
            rewards = super().score(rollout)
            rewards[1, 2] = value
            return rewards

    with pytest.raises(RunError) as caught:
        Rewards([Constant("tick", 0.0, 1.0), Spoiled("odd", 0.0, 1.0)]).score(ended())
    assert caught.value.code == "X513"
    assert "`odd`" in caught.value.message
    assert "slot 1, step 2" in caught.value.message
