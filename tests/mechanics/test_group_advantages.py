"""Advantages of episodes against their group, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from builders import make_rollout, shared_critic, tiny_policy, weights
from vlarl.advantages import advantages, group_advantages, normalized
from vlarl.ppo import Ppo
from vlarl.recipe.specs.learning import PpoSpec
from vlarl.types import Episode, EpisodeSpec, Scored

FIRST, SECOND = EpisodeSpec(0, "train", 5, 1), EpisodeSpec(1, "train", 5, 2)


def episode(spec: EpisodeSpec, slot: int, start: int, stop: int, *, success: bool) -> Episode:
    return Episode(
        spec=spec,
        slot=slot,
        index=0,
        length=stop - start,
        success=success,
        truncated=not success,
        errored=False,
        end_step=stop - 1,
    )


@pytest.fixture
def scored() -> Scored:
    """Four slots of five steps: a group of returns 1, 0, 0 and one of 1, 1. Slot 3 runs one episode of each."""
    episodes = (
        episode(FIRST, 0, 0, 2, success=True),
        episode(FIRST, 1, 0, 4, success=False),
        episode(SECOND, 2, 0, 3, success=True),
        episode(FIRST, 3, 0, 3, success=False),
        episode(SECOND, 3, 3, 5, success=True),
    )
    active = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    rewards = np.zeros((4, 5), np.float32)
    rewards[0, 1] = rewards[2, 2] = rewards[3, 4] = 1.0
    ended = np.zeros((4, 5), bool)
    ended[[0, 1, 2, 3, 3], [1, 3, 2, 2, 4]] = True
    marked = np.arange(20, dtype=np.float32).reshape(4, 5)
    rollout = make_rollout(4, 5, episodes=episodes, active=active, log_probs=marked, terminated=ended)
    return Scored(rollout=rollout, rewards=rewards, breakdown={"success": rewards})


# Returns 1, 0, 0: mean 1/3, deviation sqrt(2)/3.
GRPO = {"first": (2**0.5, -(0.5**0.5)), "second": 0.0}
# 1 - 0 = 1; 0 - 1/2.
RLOO = {"first": (1.0, -0.5), "second": 0.0}


@pytest.mark.parametrize(("kind", "expected"), [("grpo", GRPO), ("rloo", RLOO)])
def test_by_hand(scored: Scored, kind: str, expected: dict[str, object]) -> None:
    batch = group_advantages(scored, kind)  # type: ignore[arg-type]
    good, bad = expected["first"]  # type: ignore[misc]
    by_hand = [good] * 2 + [bad] * 4 + [0.0] * 3 + [bad] * 3 + [0.0] * 2
    assert batch.advantages == pytest.approx(by_hand)
    assert len(batch) == scored.rollout.num_steps == 14
    assert batch.old_log_probs.tolist() == [0, 1, 5, 6, 7, 8, 10, 11, 12, 15, 16, 17, 18, 19]
    assert batch.returns.tolist() == [1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_dynamic_sampling_drops_groups_that_agree(scored: Scored, kind: str) -> None:
    batch = group_advantages(scored, kind, drop_equal_groups=True)  # type: ignore[arg-type]
    assert batch.old_log_probs.tolist() == [0, 1, 5, 6, 7, 8, 15, 16, 17]
    assert (batch.advantages != 0).all()


def test_dropping_goes_by_success_and_not_by_return(scored: Scored) -> None:
    shaped = replace(scored, rewards=scored.rewards + np.linspace(0, 0.1, 5, dtype=np.float32))
    assert len(group_advantages(shaped, "rloo", drop_equal_groups=True)) == 9


def test_a_group_of_one_outcome_gives_grpo_nothing(scored: Scored) -> None:
    batch = group_advantages(scored, "grpo")
    assert (batch.advantages[6:9] == 0).all()


def test_returns_that_differ_by_rounding_are_equal() -> None:
    returns = np.array([0.1 + 0.2 + 0.7, 1.0, 0.7 + 0.2 + 0.1])
    assert len(set(returns.tolist())) > 1, "sums of the same rewards in another order"
    for totals in (returns, 1000 * returns, returns - 1.0, np.array([1.0, 1.0 + 1e-6])):
        assert (normalized(totals) == 0).all()
    assert normalized(np.array([1.0, 1.0 + 1e-5])).tolist() == pytest.approx([-1.0, 1.0])
    assert normalized(np.array([0.0, 1e-5])).tolist() == pytest.approx([-1.0, 1.0])


def test_waiting_slots_are_left_out_of_critic_based_advantages(scored: Scored) -> None:
    batch = advantages(scored, gamma=0.5, gae_lambda=1.0, truncation="terminal")
    assert batch.advantages.tolist() == [0.5, 1, 0, 0, 0, 0, 0.25, 0.5, 1, 0, 0, 0, 0.5, 1]


def test_an_update_of_nothing_changes_nothing(scored: Scored) -> None:
    rollout = replace(scored.rollout, episodes=scored.rollout.episodes[2:3])
    batch = group_advantages(replace(scored, rollout=rollout), "grpo", drop_equal_groups=True)
    assert len(batch) == 0
    policy = tiny_policy()
    critic = shared_critic(policy)
    ppo = Ppo(PpoSpec(), policy, critic, critic_warmup=0, iterations=1, seed=0)
    before = weights(policy)
    stats = ppo.update(batch, 0)
    assert torch.equal(before, weights(policy))
    assert (stats.num_minibatches, stats.policy_updated) == (0, False)
