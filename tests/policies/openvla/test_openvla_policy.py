"""OpenVLA behind the policy protocol, on a small random checkpoint in the published layout."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parts import COUNT, SUITE, check_that_a_batch_equals_each_alone, decide, knobs_of, seen, stir

from builders import INSTRUCTIONS, make_batch
from small_openvla import Small, write_checkpoint
from vlarl.critics.adapter import AdapterCritic
from vlarl.critics.frozen import FrozenCritic
from vlarl.critics.shared import SharedCritic
from vlarl.errors import AssetError
from vlarl.policies.openvla.policy import OpenVlaPolicy
from vlarl.policies.protocol import Critic
from vlarl.ppo import Minibatch, Ppo
from vlarl.recipe.specs.learning import PpoSpec
from vlarl.recipe.specs.policies import AdapterCriticSpec, FrozenCriticSpec, LoraSpec, OpenVlaSpec, SharedCriticSpec
from vlarl.types import Observation, SuiteFacts


def make_policy(folder: Path, *, seed: int = 1, suite: SuiteFacts = SUITE, **knobs: Any) -> OpenVlaPolicy:
    return OpenVlaPolicy(OpenVlaSpec(**knobs_of(folder, **knobs)), suite=suite, seed=seed)


@pytest.fixture(scope="module")
def policy(folder: Path) -> OpenVlaPolicy:
    return decide(make_policy(folder))


def uniforms(count: int = COUNT, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 7))


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_scoring_gives_the_log_probabilities_of_sampling(policy: OpenVlaPolicy, temperature: float) -> None:
    """Seven cached steps against one forward."""
    inputs = policy.prepare(seen(24))
    sampled = policy.sample(inputs, temperature=temperature, uniforms=uniforms(24))
    assert len(sampled.tokens.unique()) > 20
    with torch.no_grad():
        scores = policy.score(inputs, sampled.tokens, temperature=temperature)
    # Measured: 3.5e-5, at log-probabilities near -40, where float32 counts in steps of 4e-6.
    torch.testing.assert_close(scores.log_prob, sampled.log_prob, atol=8e-5, rtol=0)
    torch.testing.assert_close(scores.feature, sampled.feature, atol=1e-5, rtol=0)
    torch.testing.assert_close(policy.features(inputs).detach(), sampled.feature, atol=1e-5, rtol=0)


def test_bfloat16_scores_are_near_those_of_sampling(folder: Path) -> None:
    policy = make_policy(folder, dtype="bfloat16")
    stir(policy.adapters.weights("policy"))
    inputs = policy.prepare(seen(24))
    sampled = policy.sample(inputs, temperature=1.0, uniforms=uniforms(24))
    with torch.no_grad():
        scores = policy.score(inputs, sampled.tokens, temperature=1.0)
    assert scores.log_prob.dtype == torch.float32
    # Measured: 4e-6 here. Kernels of another processor may round a cached step otherwise than a whole forward.
    torch.testing.assert_close(scores.log_prob, sampled.log_prob, atol=0.02, rtol=0)
    assert {w.dtype for w in policy.adapters.weights("policy").values()} == {torch.float32}
    assert policy.model.projector.fc1.get_base_layer().weight.dtype == torch.bfloat16


def test_the_sliced_head_gives_what_the_whole_head_gives(policy: OpenVlaPolicy) -> None:
    inputs = policy.prepare(seen())
    first = policy.model.sizes.first_action_row
    with torch.no_grad():
        feature = policy.features(inputs)
        logits = policy.model.language_model.lm_head(feature)[:, first : first + 256]
        log_probs = policy.token_log_probs(inputs, torch.zeros(COUNT, 7, dtype=torch.int64))[:, 0]
    torch.testing.assert_close(logits.log_softmax(dim=-1), log_probs, atol=1e-5, rtol=0)


def test_a_batch_of_mixed_instructions_equals_each_alone(policy: OpenVlaPolicy) -> None:
    check_that_a_batch_equals_each_alone(policy, uniforms(), atol=4e-5)


def test_among_gives_every_batch_one_shape(policy: OpenVlaPolicy) -> None:
    short = Observation(images=seen(1).images, instructions=("push it",))
    longest = policy.prepare(seen(3)).text.shape[1]
    assert policy.prepare(short).text.shape[1] < longest
    assert policy.prepare(short, among=INSTRUCTIONS).text.shape[1] == longest


def test_the_picture_is_looked_at(policy: OpenVlaPolicy) -> None:
    one = seen(1)
    other = Observation(images=255 - one.images, instructions=one.instructions)
    with torch.no_grad():
        difference = policy.features(policy.prepare(one)) - policy.features(policy.prepare(other))
    assert float(difference.abs().max()) > 0.05


def test_fresh_adapters_change_nothing_and_base_is_without_them(folder: Path) -> None:
    plain, adapted = make_policy(folder, lora=None), make_policy(folder)
    inputs = plain.prepare(seen())
    with torch.no_grad():
        base = plain.features(inputs)
        torch.testing.assert_close(adapted.features(inputs), base, atol=0, rtol=0)
        stir(adapted.adapters.weights("policy"))
        assert float((adapted.features(inputs) - base).abs().max()) > 0.05
        torch.testing.assert_close(adapted.features(inputs, adapter="base"), base, atol=0, rtol=0)


def test_the_seed_decides_the_adapters(folder: Path) -> None:
    one, same, other = (make_policy(folder, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_what_is_trained_and_stored_is_the_adapters(folder: Path) -> None:
    policy = make_policy(folder)
    groups = policy.trainable_groups()
    assert list(groups) == ["vision", "projector", "language_model"]
    state = policy.state_dict()
    assert sum(map(len, groups.values())) == len(state)
    assert all(".lora_" in name and "lm_head" not in name for name in state)
    trained = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert len(trained) == len(state)
    blind = make_policy(folder, lora=LoraSpec(rank=4, alpha=8, vision=False))
    assert list(blind.trainable_groups()) == ["projector", "language_model"]
    some = make_policy(folder, lora=LoraSpec(rank=2, targets=["q_proj", "v_proj"]))
    assert {name.split(".")[-3] for name in some.state_dict()} == {"q_proj", "v_proj"}


def test_weights_travel_by_state_dict(policy: OpenVlaPolicy, folder: Path) -> None:
    other, inputs = make_policy(folder, seed=9), policy.prepare(seen())
    with torch.no_grad():
        other.model.language_model.lm_head.weight.mul_(4.0)
        assert not torch.equal(other.features(inputs), policy.features(inputs))
        other.load_state_dict(policy.state_dict())
        assert torch.equal(other.features(inputs), policy.features(inputs))


def test_identity_names_the_base_and_the_adapters(folder: Path, tmp_path: Path) -> None:
    policy = make_policy(folder)
    assert policy.identity == make_policy(folder, seed=5).identity
    assert policy.identity != make_policy(folder, lora=LoraSpec(rank=8)).identity
    write_checkpoint(tmp_path / "other", Small(hidden=64, vision_width=32, vocabulary="small", seed=1))
    assert policy.identity != make_policy(tmp_path / "other").identity


def test_a_suite_without_statistics_is_told_which_there_are(folder: Path) -> None:
    with pytest.raises(AssetError, match="tabletop_basic") as caught:
        make_policy(folder, suite=SuiteFacts("libero_goal", 256))
    assert caught.value.code == "R380"


# --- critics ---

CRITICS = {
    "shared": lambda policy: SharedCritic(SharedCriticSpec(hidden_sizes=[16]), policy=policy, seed=1),
    "frozen": lambda policy: FrozenCritic(FrozenCriticSpec(hidden_sizes=[16]), policy=policy, seed=1),
    "adapter": lambda policy: AdapterCritic(
        AdapterCriticSpec(hidden_sizes=[16], lora=LoraSpec(rank=2)), policy=policy, seed=1
    ),
}


def values(policy: OpenVlaPolicy, critic: Critic, given: Observation) -> torch.Tensor:
    with torch.no_grad():
        return critic.value(policy.features(policy.prepare(given), adapter=critic.adapter))


@pytest.mark.parametrize("kind", CRITICS)
def test_two_observations_have_two_values(folder: Path, kind: str) -> None:
    policy = make_policy(folder)
    found = values(policy, CRITICS[kind](policy), seen(8))
    assert float(found.std()) > 1e-4


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", CRITICS)
def test_an_update_moves_policy_and_critic_and_never_the_base(folder: Path, kind: str, checkpointing: bool) -> None:
    policy = make_policy(folder, gradient_checkpointing=checkpointing)
    critic = CRITICS[kind](policy)
    batch = make_batch(policy, critic, 12, image_size=64)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    ppo = Ppo(
        PpoSpec(lr=1e-3, value_lr=1e-3, minibatch_size=6, epochs=2),
        policy,
        critic,
        critic_warmup=1,
        iterations=9,
        seed=1,
    )
    ppo.update(batch, 0)
    moved = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert all(".critic." in name for name in moved), "warm-up trains the critic only"
    assert bool(moved) == (kind == "adapter")
    values_before = critic.state_dict()["head.layers.1.weight"].clone()
    stats = ppo.update(batch, 1)
    assert stats.policy_updated
    assert stats.first_ratio_error < 1e-4
    assert stats.ratio_spread > 1e-3
    moved = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert any(".policy." in name for name in moved)
    assert not any(".lora_" not in name for name in moved), "the base stays as it was"
    assert not torch.equal(critic.state_dict()["head.layers.1.weight"], values_before)


def test_recomputation_uses_the_adapters_of_the_forward(folder: Path) -> None:
    """Policy and critic share a backward; by then other adapters act than in the critic's forward."""
    gradients = []
    for checkpointing in (False, True):
        policy = make_policy(folder, gradient_checkpointing=checkpointing)
        critic = CRITICS["adapter"](policy)
        stir(policy.adapters.weights("policy"), seed=1)
        stir(policy.adapters.weights("critic"), seed=2)
        inputs = policy.prepare(seen(3))
        scores = policy.score(inputs, torch.zeros(3, 7, dtype=torch.int64), temperature=1.0)
        value = critic.value(policy.features(inputs, adapter="critic"))
        (scores.log_prob.sum() + value.sum()).backward()
        names = ("policy", "critic")
        gradients.append(torch.cat([w.grad.flatten() for n in names for w in policy.adapters.weights(n).values()]))
    assert float(gradients[0].abs().max()) > 1e-3
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


def test_micro_batches_add_up(folder: Path) -> None:
    results = []
    for size in (None, 4):
        policy = make_policy(folder)
        critic = CRITICS["shared"](policy)
        batch = make_batch(policy, critic, 12, image_size=64)
        knobs = PpoSpec(lr=1e-3, minibatch_size=12, micro_batch_size=size)
        Ppo(knobs, policy, critic, critic_warmup=0, iterations=9, seed=1).update(batch, 0)
        results.append(copy.deepcopy(policy.state_dict()))
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, atol=2e-6, rtol=0)


def test_decisions_of_a_stored_batch_repeat_to_the_bit(policy: OpenVlaPolicy) -> None:
    batch = make_batch(policy, CRITICS["shared"](policy), 8, image_size=64)
    whole = Minibatch(batch, np.arange(8))
    with torch.no_grad():
        one, two = (
            policy.score(policy.prepare(whole.observation()), whole.tensor("tokens"), temperature=1.0) for _ in "12"
        )
    assert torch.equal(one.log_prob, two.log_prob)
