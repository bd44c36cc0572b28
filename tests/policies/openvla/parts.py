"""What tests of policies on a small checkpoint of random weights begin from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from builders import observation
from small_openvla import VISION_HEADS
from vlarl.policies.openvla.policy import OpenVlaPolicy
from vlarl.recipe.specs.policies import LoraSpec
from vlarl.types import Observation, SuiteFacts

P = TypeVar("P", bound=OpenVlaPolicy)
COUNT = 6
SUITE = SuiteFacts("tabletop_basic", 64)


def knobs_of(folder: Path, **knobs: Any) -> dict[str, Any]:
    usual = {"vision_heads": VISION_HEADS, "dtype": "float32", "device": "cpu", "images": "plain"}
    return {"checkpoint": str(folder), **usual, "lora": LoraSpec(rank=4, alpha=8), **knobs}


def stir(weights: Mapping[str, torch.nn.Parameter], seed: int = 3) -> None:
    """As if trained: adapters start with a second factor of zero."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(0.3 * torch.randn(weight.shape, generator=random))


def decide(policy: P) -> P:
    """``policy`` with adapters that change something, and decided enough that decoding mistakes show."""
    stir(policy.adapters.weights("policy"))
    with torch.no_grad():
        policy.model.language_model.lm_head.weight.mul_(4.0)
    return policy


def seen(count: int = COUNT, seed: int = 0) -> Observation:
    return observation(count, seed=seed, image_size=64)


def check_that_a_batch_equals_each_alone(policy: OpenVlaPolicy, draws: np.ndarray, *, atol: float) -> None:
    """Of mixed instructions, whose prompts are padded; ``atol`` is for log-probabilities."""
    whole = seen(len(draws))
    together = policy.sample(policy.prepare(whole), temperature=1.0, uniforms=draws)
    widths = set()
    for i in range(len(draws)):
        inputs = policy.prepare(Observation(images=whole.images[i : i + 1], instructions=whole.instructions[i : i + 1]))
        widths.add(inputs.text.shape[1])
        alone = policy.sample(inputs, temperature=1.0, uniforms=draws[i : i + 1])
        assert torch.equal(alone.tokens[0], together.tokens[i])
        torch.testing.assert_close(alone.log_prob[0], together.log_prob[i], atol=atol, rtol=0)
        torch.testing.assert_close(alone.feature[0], together.feature[i], atol=1e-5, rtol=0)
    assert len(widths) > 1, "padding was really at work"
