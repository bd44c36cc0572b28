"""The tiny policy on a GPU: the CPU's first weights, its numbers to rounding, and the same update."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders import make_batch, observation, shared_critic, tiny_policy, weights
from vlarl.errors import EnvironmentUnusable, Exit
from vlarl.ppo import Ppo
from vlarl.recipe.specs.learning import PpoSpec
from vlarl.seeding import apply_determinism

COUNT = 12
apply_determinism("seeded", 1)  # no TF32
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(EnvironmentUnusable) as caught:
        tiny_policy(device="cuda")
    assert (caught.value.code, caught.value.exit_status) == ("E415", Exit.ENVIRONMENT)
    assert tiny_policy(device="auto").device == torch.device("cpu")


@needs_gpu
@pytest.mark.parametrize("vision", ["keypoints", "deep_keypoints"])
def test_both_devices_start_alike_and_agree_to_rounding(vision: str) -> None:
    here, there = tiny_policy(vision=vision), tiny_policy(vision=vision, device="cuda")
    assert torch.equal(weights(here), weights(there).cpu())
    seen, draws = observation(COUNT), np.random.default_rng(5).random((COUNT, 7))
    one = here.sample(here.prepare(seen), temperature=1.0, uniforms=draws)
    with torch.no_grad():
        two = there.score(there.prepare(seen), one.tokens, temperature=1.0)
    assert two.log_prob.device.type == "cpu"
    assert (one.log_prob - two.log_prob).abs().max() < 1e-4  # of about 38
    again = there.sample(there.prepare(seen), temperature=1.0, uniforms=draws)
    assert (again.tokens == one.tokens).float().mean() > 0.9


@needs_gpu
def test_an_update_on_a_gpu_begins_at_ratio_one_and_moves() -> None:
    policy = tiny_policy(device="cuda", vision="deep_keypoints")
    critic = shared_critic(policy)
    batch = make_batch(policy, critic, 32)
    before = weights(policy).clone()
    stats = Ppo(PpoSpec(minibatch_size=16), policy, critic, critic_warmup=0, iterations=9, seed=1).update(batch, 0)
    assert stats.first_ratio_error < 1e-4
    assert (weights(policy) - before).abs().max() > 1e-6
