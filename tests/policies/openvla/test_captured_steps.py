"""Decoding steps that read copies of the adapters, as a CUDA graph does, with the graph replaced by direct calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders import observation
from small_openvla import VISION_HEADS
from vlarl.policies.action_tokens import NUM_ACTION_TOKENS
from vlarl.policies.openvla.adapters import RoundedFactors
from vlarl.policies.openvla.policy import OpenVlaPolicy
from vlarl.policies.protocol import Sampled
from vlarl.policies.static_decoding import StaticDecoder
from vlarl.recipe.specs.policies import LoraSpec, OpenVlaSpec
from vlarl.types import SuiteFacts

COUNT = 12


def make_policy(folder: Path, **knobs: Any) -> OpenVlaPolicy:
    values = {"dtype": "bfloat16", "device": "cpu", "images": "plain", "lora": LoraSpec(rank=4, alpha=8), **knobs}
    spec = OpenVlaSpec.model_validate({"checkpoint": str(folder), "vision_heads": VISION_HEADS, **values})
    return OpenVlaPolicy(spec, suite=SuiteFacts("tabletop_basic", 64), seed=1)


def stir(policy: OpenVlaPolicy, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.adapters.weights("policy").values():
            weight.add_(0.3 * torch.randn(weight.shape, generator=random))


def sample(policy: OpenVlaPolicy, seed: int = 0) -> Sampled:
    draws = np.random.default_rng(seed).random((COUNT, NUM_ACTION_TOKENS))
    inputs = policy.prepare(observation(COUNT, seed=seed, image_size=64))
    return policy.sample(inputs, temperature=1.0, uniforms=draws)


def with_copies(policy: OpenVlaPolicy) -> RoundedFactors:
    """As on a GPU, but that a replay is the step once more."""
    rounded = policy.adapters.rounded("policy", torch.bfloat16, within="language_model.")

    def capture(run: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            with rounded.in_place():
                run()

        return replay

    sizes = policy.model.sizes
    policy._rounded = rounded
    policy._decoder = StaticDecoder(
        policy.model.language_model,
        num_action_tokens=NUM_ACTION_TOKENS,
        num_bins=sizes.num_bins,
        first_row=sizes.first_action_row,
        capture=capture,
    )
    return rounded


def equal(one: Sampled, other: Sampled) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "log_prob", "feature"))


def test_steps_on_copies_give_what_autocast_gives_to_the_bit(folder: Path) -> None:
    policy, other = make_policy(folder), make_policy(folder)
    fresh = sample(policy)
    for each in (policy, other):
        stir(each, seed=3)
    with_copies(other)
    decided = sample(policy)
    assert not torch.equal(decided.log_prob, fresh.log_prob), "the adapters matter"
    assert equal(sample(other), decided)


def test_copies_follow_the_adapters(folder: Path) -> None:
    policy, other = make_policy(folder), make_policy(folder)
    rounded = with_copies(other)
    for seed in (1, 2):
        for each in (policy, other):
            stir(each, seed)
        assert equal(sample(other, seed), sample(policy, seed))
    other.load_state_dict({name: torch.zeros_like(weight) for name, weight in other.state_dict().items()})
    assert equal(sample(other), sample(make_policy(folder)))
    stir(other, seed=4)
    before = [copy.clone() for copy in rounded._copies]
    rounded.refresh()
    assert not all(map(torch.equal, before, rounded._copies))


def test_the_masters_stay_the_weights(folder: Path) -> None:
    policy = make_policy(folder)
    rounded = with_copies(policy)
    masters = policy.adapters.weights("policy")
    sample(policy)
    for name, weight in policy.adapters.weights("policy").items():
        assert weight is masters[name]
        assert weight.dtype == torch.float32
        assert weight.requires_grad
    with rounded.in_place():
        inside = policy.adapters.weights("policy")
        swapped = {name.split(".", 1)[0] for name, weight in inside.items() if weight is not masters[name]}
        assert swapped == {"language_model"}, "the steps run nothing else"
    with pytest.raises(ZeroDivisionError), rounded.in_place():
        raise ZeroDivisionError
    assert all(weight is masters[name] for name, weight in policy.adapters.weights("policy").items())


def test_adapters_without_a_language_part_have_no_copies(folder: Path) -> None:
    policy = make_policy(folder, lora=LoraSpec(rank=2, targets=["fc1"]))
    rounded = with_copies(policy)
    rounded.refresh()
    assert equal(sample(policy), sample(make_policy(folder, lora=LoraSpec(rank=2, targets=["fc1"]))))


def test_nothing_is_captured_on_a_cpu(folder: Path) -> None:
    assert make_policy(folder)._rounded is None
