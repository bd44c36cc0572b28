"""The PPO update: losses by hand, the loop against a plain reference, its guards."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ppo_reference
from builders import make_batch, observation, shared_critic, tiny_policy, weights
from vlarl.critics.frozen import FrozenCritic
from vlarl.critics.shared import SharedCritic
from vlarl.errors import RecipeError, RunError
from vlarl.policies.tiny.policy import TinyPolicy
from vlarl.ppo import Minibatch, Ppo, explained_variance, policy_loss, value_loss
from vlarl.recipe.specs.learning import PpoSpec
from vlarl.recipe.specs.policies import FrozenCriticSpec
from vlarl.types import Batch

SEED = 11
Parts = tuple[TinyPolicy, SharedCritic, Batch]


@pytest.fixture(scope="module")
def built() -> Parts:
    policy = tiny_policy()
    critic = shared_critic(policy)
    return policy, critic, make_batch(policy, critic, 24)


@pytest.fixture
def parts(built: Parts) -> Parts:
    policy, critic, batch = built
    return *copy.deepcopy((policy, critic)), batch


def spec(**knobs: Any) -> PpoSpec:
    return PpoSpec(**{"lr": 1e-3, "value_lr": 2e-3, "minibatch_size": 8, "epochs": 2, **knobs})


def make_ppo(parts: Parts, *, critic_warmup: int = 0, iterations: int = 10, seed: int = SEED, **knobs: Any) -> Ppo:
    return Ppo(spec(**knobs), parts[0], parts[1], critic_warmup=critic_warmup, iterations=iterations, seed=seed)


# --- losses by hand ---

PolicyLoss = Callable[[Tensor, Tensor, float], Tensor]
ValueLoss = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]


def check_policy_loss(loss: PolicyLoss) -> None:
    """-min(r A, clip(r, 0.8, 1.2) A) and its slope in log r: -r A where the free term counts, else 0."""
    # ratio, advantage, loss, slope
    cases = (
        (1.5, 1.0, -1.2, 0.0),  # min(1.5, 1.2): too far in the good direction, no more pull
        (1.5, -1.0, 1.5, 1.5),  # min(-1.5, -1.2): a bad action made likelier is pulled back
        (0.5, 1.0, -0.5, -0.5),  # min(0.5, 0.8): a good action made rarer is pulled back
        (0.5, -1.0, 0.8, 0.0),  # min(-0.5, -0.8): far enough in the good direction
        (1.1, 2.0, -2.2, -2.2),  # inside the clip both are 2.2
        (0.9, -3.0, 2.7, 2.7),  # inside the clip both are -2.7
        (1.7, 0.0, 0.0, 0.0),  # nothing to gain
    )
    ratio, advantage, expected, slope = (torch.tensor(column) for column in zip(*cases, strict=True))
    log_ratio = ratio.log().requires_grad_()
    found = loss(log_ratio, advantage, 0.2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(found.sum(), log_ratio)
    torch.testing.assert_close(gradient, slope, atol=1e-6, rtol=0)


def check_value_loss(loss: ValueLoss) -> None:
    """Half of max((v - R)^2, (old + clip(v - old) - R)^2) with a clip of 0.2."""
    # value, old value, return, loss, slope in the value
    cases = (
        (1.0, 0.5, 2.0, 0.845, 0.0),  # free (-1)^2; limited to 0.7: (-1.3)^2 = 1.69 is worse
        (2.5, 2.0, 2.4, 0.02, 0.0),  # free 0.1^2; limited to 2.2: (-0.2)^2 = 0.04 is worse
        (1.0, 0.9, 0.0, 0.5, 1.0),  # inside the clip: 1^2
        (0.0, 1.0, -1.0, 1.62, 0.0),  # free 1^2; limited to 0.8: 1.8^2 = 3.24 is worse
        (3.0, 1.0, 1.0, 2.0, 2.0),  # free 2^2; limited to 1.2: 0.2^2 is better and does not count
    )
    value, old, target, expected, slope = (torch.tensor(column) for column in zip(*cases, strict=True))
    value.requires_grad_()
    found = loss(value, old, target, 0.2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(found.sum(), value)
    torch.testing.assert_close(gradient, slope, atol=1e-6, rtol=0)
    # Without a clip: 1, 0.01, 1, 1 and 4, halved.
    free = loss(value.detach(), old, target, None)
    torch.testing.assert_close(free, torch.tensor([0.5, 0.005, 0.5, 0.5, 2.0]), atol=1e-6, rtol=0)


def test_policy_loss_by_hand() -> None:
    check_policy_loss(policy_loss)


def test_value_loss_by_hand() -> None:
    check_value_loss(value_loss)


def _clipped(log_ratio: Tensor, clip: float) -> Tensor:
    return log_ratio.exp().clamp(1 - clip, 1 + clip)


POLICY_MUTANTS: dict[str, PolicyLoss] = {
    "sign flipped": lambda log_ratio, a, clip: -policy_loss(log_ratio, a, clip),
    "advantage negated": lambda log_ratio, a, clip: policy_loss(log_ratio, -a, clip),
    "clip dropped": lambda log_ratio, a, clip: -log_ratio.exp() * a,
    "always clipped": lambda log_ratio, a, clip: -_clipped(log_ratio, clip) * a,
    "min and max swapped": lambda log_ratio, a, clip: (
        -torch.maximum(log_ratio.exp() * a, _clipped(log_ratio, clip) * a)
    ),
    "clip of the log ratio": lambda log_ratio, a, clip: (
        -torch.minimum(log_ratio.exp() * a, log_ratio.clamp(-clip, clip).exp() * a)
    ),
    "log ratio for ratio": lambda log_ratio, a, clip: (
        -torch.minimum(log_ratio * a, log_ratio.clamp(1 - clip, 1 + clip) * a)
    ),
    "no lower bound": lambda log_ratio, a, clip: (
        -torch.minimum(log_ratio.exp() * a, log_ratio.exp().clamp(max=1 + clip) * a)
    ),
    "no upper bound": lambda log_ratio, a, clip: (
        -torch.minimum(log_ratio.exp() * a, log_ratio.exp().clamp(min=1 - clip) * a)
    ),
    "gradient lost": lambda log_ratio, a, clip: policy_loss(log_ratio.detach(), a, clip) + 0.0 * log_ratio,
}

VALUE_MUTANTS: dict[str, ValueLoss] = {
    "sign flipped": lambda v, old, target, clip: -value_loss(v, old, target, clip),
    "clip dropped": lambda v, old, target, clip: value_loss(v, old, target, None),
    "min and max swapped": lambda v, old, target, clip: (
        value_loss(v, old, target, None)
        if clip is None
        else 0.5 * torch.minimum((v - target).square(), (old + (v - old).clamp(-clip, clip) - target).square())
    ),
    "always clipped": lambda v, old, target, clip: (
        value_loss(v, old, target, None)
        if clip is None
        else 0.5 * (old + (v - old).clamp(-clip, clip) - target).square()
    ),
    "clipped around the return": lambda v, old, target, clip: value_loss(v, target, old, clip),
    "not halved": lambda v, old, target, clip: 2.0 * value_loss(v, old, target, clip),
    "clipped when told not to": lambda v, old, target, clip: value_loss(v, old, target, clip or 0.2),
}


@pytest.mark.parametrize("mutant", POLICY_MUTANTS.values(), ids=POLICY_MUTANTS.keys())
def test_the_cases_reject_a_wrong_policy_loss(mutant: PolicyLoss) -> None:
    with pytest.raises(AssertionError):
        check_policy_loss(mutant)


@pytest.mark.parametrize("mutant", VALUE_MUTANTS.values(), ids=VALUE_MUTANTS.keys())
def test_the_cases_reject_a_wrong_value_loss(mutant: ValueLoss) -> None:
    with pytest.raises(AssertionError):
        check_value_loss(mutant)


def test_explained_variance_by_hand() -> None:
    # Returns 1 and 3 have variance 1; what is left, 0 and 1, has variance 1/4.
    assert explained_variance(np.array([1.0, 2.0]), np.array([1.0, 3.0])) == 0.75
    assert explained_variance(np.array([5.0, 5.0]), np.array([1.0, 3.0])) == 0.0
    assert explained_variance(np.array([1.0, 2.0]), np.array([3.0, 3.0])) == 0.0  # nothing to explain


# --- the loop ---


def test_a_minibatch_splits_into_micro_batches_that_cover_it(built: Parts) -> None:
    minibatch = Minibatch(built[2], np.array([7, 3, 9, 0, 5]))
    pieces = [micro.rows.tolist() for micro in minibatch.split(2)]
    assert pieces == [[7, 3], [9, 0], [5]]
    assert [micro.rows.tolist() for micro in minibatch.split(None)] == [[7, 3, 9, 0, 5]]
    assert torch.equal(minibatch.tensor("returns"), torch.from_numpy(built[2].returns)[[7, 3, 9, 0, 5]])
    seen = minibatch.observation()
    assert np.array_equal(seen.images, built[2].images[[7, 3, 9, 0, 5]])
    assert seen.instructions == tuple(built[2].instructions[built[2].tasks[row]] for row in (7, 3, 9, 0, 5))


@pytest.mark.parametrize("stop_gradient", [True, False])
@pytest.mark.parametrize("value_clip", [0.2, None])
def test_equals_a_plain_reference_loop(stop_gradient: bool, value_clip: float | None) -> None:
    policy = tiny_policy()
    critic = shared_critic(policy, stop_gradient=stop_gradient)
    batch = make_batch(policy, critic, 30)
    knobs = spec(
        minibatch_size=8, epochs=2, entropy_bonus=0.01, value_coef=0.5, value_clip=value_clip, max_grad_norm=0.02
    )
    theirs = copy.deepcopy((policy, critic))
    before = weights(policy, critic)
    stats = Ppo(knobs, policy, critic, critic_warmup=0, iterations=1, seed=SEED).update(batch, 0)
    orders = ppo_reference.minibatch_orders(SEED, 0, len(batch), knobs.epochs)
    last = ppo_reference.reference_update(*theirs, ppo_reference.make_optimizer(*theirs, knobs), batch, knobs, orders)
    torch.testing.assert_close(weights(policy, critic), weights(*theirs), atol=1e-6, rtol=0)
    assert float((weights(policy, critic) - before).abs().max()) > 1e-3, "thousands of times the tolerance"
    assert stats.num_minibatches == 8  # 8 + 8 + 8 + 6 rows, twice
    assert stats.epochs_done == 2
    assert last["approx_kl"] > 0


@pytest.mark.parametrize("micro_batch_size", [1, 5, 8, 12])
@pytest.mark.parametrize("iteration", [0, 1], ids=["critic warm-up", "both"])
def test_micro_batches_equal_the_whole_minibatch(parts: Parts, micro_batch_size: int, iteration: int) -> None:
    policy, critic, batch = parts
    other = (*copy.deepcopy((policy, critic)), batch)
    before = weights(policy, critic)
    # With a small epsilon Adam turns rounding of vanishing gradients into steps of the size of the learning rate.
    knobs: dict[str, Any] = {"minibatch_size": 12, "epochs": 1, "adam_eps": 1e-3, "entropy_bonus": 0.01}
    whole = make_ppo(parts, critic_warmup=1, **knobs).update(batch, iteration)
    pieces = make_ppo(other, critic_warmup=1, micro_batch_size=micro_batch_size, **knobs).update(batch, iteration)
    torch.testing.assert_close(weights(policy, critic), weights(*other[:2]), atol=1e-6, rtol=0)
    assert float((weights(policy, critic) - before).abs().max()) > 5e-4
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "critic_grad_norm"):
        assert getattr(pieces, name) == pytest.approx(getattr(whole, name), abs=1e-5), name


def test_the_first_ratio_is_one_and_later_ones_are_not(parts: Parts) -> None:
    stats = make_ppo(parts).update(parts[2], 0)
    # Measured: 4e-6, one rounding step of float32 at a log-probability near -40.
    assert stats.first_ratio_error <= 1e-5
    assert stats.ratio_spread > 1e-2
    assert stats.policy_updated


def test_the_same_update_twice_is_the_same(parts: Parts) -> None:
    other = (*copy.deepcopy(parts[:2]), parts[2])
    one, two = make_ppo(parts).update(parts[2], 3), make_ppo(other).update(parts[2], 3)
    assert torch.equal(weights(*parts[:2]), weights(*other[:2]))
    assert replace(one, seconds=0.0) == replace(two, seconds=0.0)


@pytest.mark.parametrize(("seed", "iteration"), [(SEED + 1, 3), (SEED, 4)])
def test_seed_and_iteration_order_the_minibatches(parts: Parts, seed: int, iteration: int) -> None:
    other = (*copy.deepcopy(parts[:2]), parts[2])
    make_ppo(parts).update(parts[2], 3)
    make_ppo(other, seed=seed).update(parts[2], iteration)
    assert not torch.equal(weights(*parts[:2]), weights(*other[:2]))


def test_every_epoch_has_its_own_order_and_covers_the_batch(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    ppo = make_ppo(parts, epochs=2)
    accumulate = ppo._accumulate

    def spy(minibatch: list[Minibatch], trains_policy: bool) -> dict[str, float]:
        taken.extend(minibatch[0].rows.tolist())
        return accumulate(minibatch, trains_policy)

    monkeypatch.setattr(ppo, "_accumulate", spy)
    ppo.update(parts[2], 0)
    first, second = taken[:24], taken[24:]
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second


def test_good_actions_become_likelier_and_bad_ones_rarer(parts: Parts) -> None:
    policy, _, batch = parts
    tokens, inputs = torch.from_numpy(batch.tokens), policy.prepare(Minibatch(batch, np.arange(24)).observation())
    ppo = make_ppo(parts, epochs=4)
    before = policy.score(inputs, tokens, temperature=1.0).log_prob.detach()
    ppo.update(batch, 0)
    gained = (policy.score(inputs, tokens, temperature=1.0).log_prob.detach() - before).numpy()
    assert np.corrcoef(gained, batch.advantages)[0, 1] > 0.5
    assert gained[batch.advantages > 0].mean() > 0 > gained[batch.advantages < 0].mean()


def test_the_critic_comes_closer_to_the_returns(parts: Parts) -> None:
    batch = replace(parts[2], returns=parts[2].old_values + np.float32(2.0))
    ppo = make_ppo(parts, critic_warmup=10, value_lr=1e-2, value_clip=None)
    losses = [ppo.update(batch, iteration).value_loss for iteration in range(10)]
    assert losses[0] > 0.5
    assert losses[-1] < 0.1 * losses[0]


def test_statistics_by_hand(parts: Parts) -> None:
    """Two epochs of one minibatch: the first has ratio 1, the second is worked out from a policy after one epoch."""
    policy, critic, batch = parts
    once = (*copy.deepcopy((policy, critic)), batch)
    make_ppo(once, minibatch_size=24, epochs=1).update(batch, 0)
    inputs = once[0].prepare(Minibatch(batch, np.arange(24)).observation())
    with torch.no_grad():
        scores = once[0].score(inputs, torch.from_numpy(batch.tokens), temperature=1.0)
        start = policy.score(inputs, torch.from_numpy(batch.tokens), temperature=1.0)
    log_ratio = scores.log_prob.numpy() - batch.old_log_probs
    ratio = np.exp(log_ratio)
    stats = make_ppo(parts, minibatch_size=24, epochs=2).update(batch, 0)
    gain = np.minimum(ratio * batch.advantages, ratio.clip(0.8, 1.2) * batch.advantages).mean()
    assert stats.num_minibatches == 2
    assert stats.policy_loss == pytest.approx(-(batch.advantages.mean() + gain) / 2, abs=1e-5)
    assert stats.approx_kl == pytest.approx((ratio - 1 - log_ratio).mean() / 2, abs=1e-5)
    assert stats.clip_fraction == pytest.approx((np.abs(ratio - 1) > 0.2).mean() / 2, abs=1e-6)
    assert stats.ratio_spread == pytest.approx(np.abs(ratio - 1).max(), rel=1e-4)
    assert stats.entropy == pytest.approx(float(start.entropy.mean() + scores.entropy.mean()) / 2, abs=1e-5)
    assert stats.explained_variance == pytest.approx(explained_variance(batch.old_values, batch.returns))
    assert stats.clip_fraction > 0
    assert stats.seconds > 0


# --- knobs ---


def test_critic_warmup_moves_the_critic_and_not_one_bit_of_the_policy(parts: Parts) -> None:
    policy, critic, batch = parts
    before_policy, before_critic = weights(policy), weights(critic)
    ppo = make_ppo(parts, critic_warmup=2)
    for iteration in range(2):
        stats = ppo.update(batch, iteration)
        assert not stats.policy_updated
        assert stats.first_ratio_error == stats.policy_grad_norm == stats.policy_loss == 0.0
    assert torch.equal(weights(policy), before_policy)
    assert not torch.equal(weights(critic), before_critic)
    assert not ppo.optimizers["policy"].state, "momentum would move the policy later"
    assert ppo.update(batch, 2).policy_updated
    assert not torch.equal(weights(policy), before_policy)


def test_critic_warmup_spares_the_policy_also_when_its_gradient_is_let_through(built: Parts) -> None:
    policy = copy.deepcopy(built[0])
    critic = shared_critic(policy, stop_gradient=False)
    before = weights(policy)
    Ppo(spec(), policy, critic, critic_warmup=1, iterations=10, seed=SEED).update(built[2], 0)
    assert torch.equal(weights(policy), before)


def test_policy_and_critic_have_their_own_learning_rates(parts: Parts) -> None:
    policy, critic, batch = parts
    before = weights(policy), weights(critic)
    make_ppo(parts, lr=3e-4, value_lr=7e-3, minibatch_size=24, epochs=1).update(batch, 0)
    # Adam's first step moves a parameter by the learning rate times g / (|g| + eps).
    assert float((weights(policy) - before[0]).abs().max()) == pytest.approx(3e-4, rel=0.02)
    assert float((weights(critic) - before[1]).abs().max()) == pytest.approx(7e-3, rel=0.02)


@pytest.mark.parametrize(("lr_decay", "shares"), [("none", (1.0, 1.0, 1.0)), ("linear", (1.0, 0.5, 0.1))])
def test_decay_of_the_learning_rates(parts: Parts, lr_decay: str, shares: tuple[float, ...]) -> None:
    ppo = make_ppo(parts, lr_decay=lr_decay, lr=4e-4, value_lr=8e-3, epochs=1, minibatch_size=24, ratio_tolerance=1e9)
    for iteration, share in zip((0, 5, 9), shares, strict=True):
        ppo.update(parts[2], iteration)
        assert ppo.optimizers["policy"].param_groups[0]["lr"] == pytest.approx(share * 4e-4)
        assert ppo.optimizers["critic"].param_groups[0]["lr"] == pytest.approx(share * 8e-3)


def test_the_policys_learning_rate_rises_after_the_critics_warm_up(parts: Parts) -> None:
    policy, critic, batch = parts
    knobs = spec(lr=4e-4, value_lr=8e-3, lr_warmup=3, epochs=1, minibatch_size=24, ratio_tolerance=1e9)
    ppo = Ppo(knobs, policy, critic, critic_warmup=2, iterations=20, seed=SEED)
    rates = []
    for iteration in range(2, 8):
        ppo.update(batch, iteration)
        rates.append(ppo.optimizers["policy"].param_groups[0]["lr"])
        assert ppo.optimizers["critic"].param_groups[0]["lr"] == 8e-3
    assert rates == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 4e-4, 4e-4])


def test_groups_of_weights_have_their_own_share_of_the_learning_rate(parts: Parts) -> None:
    policy, _, batch = parts
    before = {name: [p.detach().clone() for p in group] for name, group in policy.trainable_groups().items()}
    make_ppo(parts, lr=3e-4, group_lr={"vision": 0.1}, minibatch_size=24, epochs=1).update(batch, 0)
    moved = {
        name: max(float((p.detach() - old).abs().max()) for p, old in zip(group, before[name], strict=True))
        for name, group in policy.trainable_groups().items()
    }
    assert moved == pytest.approx({"vision": 3e-5, "language_model": 3e-4}, rel=0.05)


def test_a_group_that_does_not_exist_is_named(parts: Parts) -> None:
    with pytest.raises(RecipeError, match="`vison`") as caught:
        make_ppo(parts, group_lr={"vison": 0.1})
    assert caught.value.code == "R219"
    assert "vision, language_model" in str(caught.value.hint)


def test_target_kl_ends_the_update_before_the_step_that_would_go_further(parts: Parts) -> None:
    ppo = make_ppo(parts, target_kl=1e-3, epochs=50)
    stats = ppo.update(parts[2], 0)
    assert stats.epochs_done < 50
    assert stats.num_minibatches < 150
    steps = {int(state["step"]) for state in ppo.optimizers["policy"].state.values()}
    assert steps == {stats.num_minibatches - 1}, "the minibatch that showed it was not stepped"


def test_without_target_kl_every_epoch_runs(parts: Parts) -> None:
    stats = make_ppo(parts, epochs=5).update(parts[2], 0)
    assert (stats.epochs_done, stats.num_minibatches) == (5, 15)


def mean_entropy(policy: TinyPolicy, batch: Batch) -> float:
    inputs = policy.prepare(Minibatch(batch, np.arange(len(batch))).observation())
    with torch.no_grad():
        return float(policy.score(inputs, torch.from_numpy(batch.tokens), temperature=1.0).entropy.mean())


def sharpened(policy: TinyPolicy) -> TinyPolicy:
    with torch.no_grad():
        policy.language_model.lm_head.weight.mul_(4.0)
    return policy


def test_entropy_bonus_raises_entropy_and_nothing_else_moves_the_policy() -> None:
    policy = sharpened(tiny_policy())
    critic = shared_critic(policy)
    batch = make_batch(policy, critic, 24)
    still = replace(batch, advantages=np.zeros(24, np.float32))
    without = (*copy.deepcopy((policy, critic)), still)
    before = mean_entropy(policy, still)
    make_ppo((policy, critic, still), entropy_bonus=0.1, epochs=4).update(still, 0)
    make_ppo(without, entropy_bonus=0.0, epochs=4).update(still, 0)
    assert mean_entropy(policy, still) > before + 0.01
    assert before < 0.95 * math.log(256), "there was room above"
    assert mean_entropy(without[0], still) == before


def test_rescored_takes_the_training_path_and_leaves_the_batch_alone(parts: Parts) -> None:
    policy, critic, batch = parts
    other = (*copy.deepcopy((policy, critic)), batch)
    tampered = replace(batch, old_log_probs=batch.old_log_probs + np.float32(0.3))
    kept = tampered.old_log_probs.copy()
    stats = make_ppo(parts, old_log_probs="rescored").update(tampered, 0)
    make_ppo(other, old_log_probs="rescored", micro_batch_size=5).update(batch, 0)
    assert stats.first_ratio_error <= 1e-5
    assert np.array_equal(tampered.old_log_probs, kept)
    torch.testing.assert_close(weights(policy), weights(other[0]), atol=1e-4, rtol=0)


def test_temperature_reaches_the_scores(parts: Parts) -> None:
    """The batch says at which temperature its actions were drawn; scoring at another gives another ratio."""
    with pytest.raises(RunError) as caught:
        make_ppo(parts).update(replace(parts[2], temperature=1.5), 0)
    assert caught.value.code == "X512"


def test_a_critic_that_keeps_features_reads_them_from_the_batch(built: Parts) -> None:
    policy = copy.deepcopy(built[0])
    critic = FrozenCritic(FrozenCriticSpec(hidden_sizes=[16]), policy=tiny_policy(hidden_size=8), seed=1)
    features = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    target = np.sign(features[:, 0])
    batch = replace(built[2], features=features, returns=target, old_values=np.zeros(24, np.float32))
    ppo = Ppo(spec(value_lr=1e-2, value_clip=None), policy, critic, critic_warmup=50, iterations=60, seed=SEED)
    losses = [ppo.update(batch, iteration).value_loss for iteration in range(50)]
    assert losses[-1] < 0.3 * losses[0], "the target is a function of these features only"
    assert ppo.update(batch, 50).policy_updated


# --- guards ---


def expect_stop(parts: Parts, batch: Batch, code: str, **knobs: Any) -> RunError:
    """The update raises and leaves every weight and all momentum alone."""
    policy, critic, _ = parts
    before = weights(policy, critic)
    ppo = make_ppo(parts, **knobs)
    with pytest.raises(RunError) as caught:
        ppo.update(batch, 0)
    assert caught.value.code == code
    assert caught.value.hint
    assert torch.equal(weights(policy, critic), before)
    assert not ppo.optimizers["policy"].state
    assert not ppo.optimizers["critic"].state
    return caught.value


def test_tampered_log_probabilities_stop_the_run(parts: Parts) -> None:
    batch = parts[2]
    error = expect_stop(parts, replace(batch, old_log_probs=batch.old_log_probs + np.float32(1e-3)), "X512")
    assert "0.001" in error.message


def test_one_wrong_log_probability_in_the_first_minibatch_is_enough(parts: Parts) -> None:
    batch = parts[2]
    first = ppo_reference.minibatch_orders(SEED, 0, 24, 1)[0][:8]
    old = batch.old_log_probs.copy()
    old[first[5]] += 0.1
    for micro_batch_size in (None, 3):
        expect_stop(parts, replace(batch, old_log_probs=old), "X512", micro_batch_size=micro_batch_size)


@pytest.mark.parametrize("field", ["advantages", "returns", "old_values", "old_log_probs"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("minibatch", [0, 2])
def test_a_number_that_is_none_stops_before_any_step(parts: Parts, field: str, value: float, minibatch: int) -> None:
    batch = parts[2]
    row = ppo_reference.minibatch_orders(SEED, 0, 24, 1)[0][8 * minibatch]
    spoiled = getattr(batch, field).copy()
    spoiled[row] = value
    expect_stop(parts, replace(batch, **{field: spoiled}), "X510")


def test_a_policy_of_no_numbers_stops_before_any_step(parts: Parts) -> None:
    policy, critic, batch = parts
    with torch.no_grad():
        policy.language_model.lm_head.weight.fill_(math.nan)
    before = weights(critic)
    with pytest.raises(RunError) as caught:
        make_ppo(parts).update(batch, 0)
    assert caught.value.code == "X510"
    assert torch.equal(weights(critic), before)


@pytest.mark.parametrize("whose", [0, 1], ids=["policy", "critic"])
def test_a_gradient_that_is_no_number_stops_before_the_step(parts: Parts, whose: int) -> None:
    parameter = next(iter(parts[whose].parameters()))
    parameter.register_hook(lambda gradient: gradient * math.nan)
    expect_stop(parts, parts[2], "X511")


def test_a_batch_without_advantage_leaves_the_policy_alone(parts: Parts) -> None:
    policy, _, batch = parts
    before = weights(policy)
    make_ppo(parts).update(replace(batch, advantages=np.zeros(24, np.float32)), 0)
    assert torch.equal(weights(policy), before)


def test_scoring_observes_what_the_rollout_saw(built: Parts) -> None:
    """Another image or another instruction gives another probability, so a mix-up of rows cannot pass the guard."""
    policy, _, batch = built
    tokens = torch.from_numpy(batch.tokens)
    with torch.no_grad():
        right = policy.score(policy.prepare(Minibatch(batch, np.arange(24)).observation()), tokens, temperature=1.0)
        wrong = policy.score(policy.prepare(observation(24, seed=99)), tokens, temperature=1.0)
    assert float((right.log_prob - wrong.log_prob).abs().min()) > 1e-4
