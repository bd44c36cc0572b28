"""The critic on the policy's feature: it sees observations, not padding, and keeps its gradient to itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from builders import INSTRUCTIONS, observation, shared_critic, tiny_policy, weights
from vlarl.critics.heads import ValueHead
from vlarl.critics.shared import SharedCritic
from vlarl.policies.tiny.policy import TinyPolicy
from vlarl.recipe.specs.policies import SharedCriticSpec
from vlarl.types import Observation


@pytest.fixture(scope="module")
def policy() -> TinyPolicy:
    return tiny_policy()


@pytest.fixture(scope="module")
def critic(policy: TinyPolicy) -> SharedCritic:
    """A head whose differences are plain to see."""
    critic = shared_critic(policy)
    with torch.no_grad():
        for parameter in critic.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5.0)
    return critic


def values(policy: TinyPolicy, critic: SharedCritic, seen: Observation) -> torch.Tensor:
    with torch.no_grad():
        return critic.value(policy.features(policy.prepare(seen), adapter=critic.adapter))


def test_one_number_a_step(policy: TinyPolicy, critic: SharedCritic) -> None:
    found = values(policy, critic, observation(5))
    assert (found.shape, found.dtype) == ((5,), torch.float32)


def test_two_images_have_two_values(policy: TinyPolicy, critic: SharedCritic) -> None:
    one, other = values(policy, critic, observation(2, instructions=INSTRUCTIONS[:1]))
    assert abs(float(one - other)) > 1e-4


def test_two_instructions_have_two_values(policy: TinyPolicy, critic: SharedCritic) -> None:
    images = np.repeat(observation(1).images, 2, axis=0)
    one, other = values(policy, critic, Observation(images=images, instructions=INSTRUCTIONS[:2]))
    assert abs(float(one - other)) > 1e-4


@pytest.mark.parametrize("extra", [1, 4, 24])
@pytest.mark.parametrize("filler", [0, 5, 700])
def test_padding_has_no_value(policy: TinyPolicy, critic: SharedCritic, extra: int, filler: int) -> None:
    inputs = policy.prepare(observation(6))
    further = replace(
        inputs,
        text=torch.nn.functional.pad(inputs.text, (0, extra), value=filler),
        text_valid=torch.nn.functional.pad(inputs.text_valid, (0, extra), value=False),
    )
    with torch.no_grad():
        near, far = (critic.value(policy.features(given)) for given in (inputs, further))
    # Measured: 9e-7.
    torch.testing.assert_close(far, near, atol=1e-5, rtol=0)


def test_a_value_does_not_depend_on_its_neighbours(policy: TinyPolicy, critic: SharedCritic) -> None:
    """A long prompt in the batch pads the short ones."""
    seen = observation(3)
    together = values(policy, critic, seen)
    for i in range(3):
        alone = values(
            policy, critic, Observation(images=seen.images[i : i + 1], instructions=seen.instructions[i : i + 1])
        )
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_the_value_loss_reaches_the_policy_only_when_allowed(stop_gradient: bool) -> None:
    policy = tiny_policy()
    critic = shared_critic(policy, stop_gradient=stop_gradient)
    critic.value(policy.features(policy.prepare(observation(4)))).square().sum().backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in policy.parameters()]
    assert any(reached) is not stop_gradient
    assert all(p.grad is not None for p in critic.parameters())


def test_stopping_the_gradient_does_not_change_the_value(policy: TinyPolicy) -> None:
    seen = observation(4)
    one = values(policy, shared_critic(policy, stop_gradient=True), seen)
    assert torch.equal(values(policy, shared_critic(policy, stop_gradient=False), seen), one)


def test_the_seed_decides_the_first_weights(policy: TinyPolicy) -> None:
    assert torch.equal(weights(shared_critic(policy, seed=1)), weights(shared_critic(policy, seed=1)))
    assert not torch.equal(weights(shared_critic(policy, seed=1)), weights(shared_critic(policy, seed=2)))


def test_first_values_are_near_zero(policy: TinyPolicy) -> None:
    fresh = SharedCritic(SharedCriticSpec(), policy=policy, seed=3)
    assert float(values(policy, fresh, observation(32)).abs().max()) < 0.5


def test_identity_names_the_shapes(policy: TinyPolicy) -> None:
    assert shared_critic(policy, seed=1).identity == shared_critic(policy, seed=2).identity
    wider = SharedCritic(SharedCriticSpec(hidden_sizes=[17]), policy=policy, seed=1)
    assert wider.identity != shared_critic(policy).identity


@pytest.mark.parametrize("hidden_sizes", [[], [8], [8, 4]])
def test_a_head_of_any_depth_in_float32(hidden_sizes: list[int]) -> None:
    head = ValueHead(6, hidden_sizes)
    found = head(torch.randn(3, 6, dtype=torch.bfloat16))
    assert (found.shape, found.dtype) == ((3,), torch.float32)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in head.layers) == len(hidden_sizes) + 1
