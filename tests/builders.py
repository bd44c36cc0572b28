"""Small policies, batches and rollouts that the tests of the mechanics share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlarl.critics.shared import SharedCritic
from vlarl.policies.protocol import Critic, Policy
from vlarl.policies.tiny.policy import TinyPolicy
from vlarl.recipe.specs.policies import SharedCriticSpec, TinySpec
from vlarl.types import Batch, Episode, EpisodeSpec, Observation, Rollout, StageDigests, SuiteFacts

IMAGE_SIZE = 32
INSTRUCTIONS = (
    "reach the red cube",
    "pick up the small green cube and place it on the yellow plate",
    "push it",
)
# Threads cost more than they save at these sizes, and on a busy machine a hundred times more.
torch.set_num_threads(1)
NO_DIGESTS = StageDigests(tasks="", inits="", actions="", states="", pixels="")


def tiny_policy(seed: int = 1, *, image_size: int = IMAGE_SIZE, **knobs: Any) -> TinyPolicy:
    spec = TinySpec(**{"hidden_size": 32, "num_layers": 2, "num_heads": 4, **knobs})
    return TinyPolicy(spec, suite=SuiteFacts("tabletop_basic", image_size), seed=seed)


def shared_critic(policy: Policy, seed: int = 1, *, stop_gradient: bool = True) -> SharedCritic:
    spec = SharedCriticSpec(hidden_sizes=[16], stop_gradient=stop_gradient)
    return SharedCritic(spec, policy=policy, seed=seed)


def observation(
    count: int, *, seed: int = 0, instructions: Sequence[str] = INSTRUCTIONS, image_size: int = IMAGE_SIZE
) -> Observation:
    """``count`` random images, the instructions in turn."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, image_size, image_size, 3), dtype=np.uint8)
    return Observation(images=images, instructions=tuple(instructions[i % len(instructions)] for i in range(count)))


def make_batch(
    policy: Policy, critic: Critic, size: int, *, seed: int = 0, image_size: int = IMAGE_SIZE, num_tokens: int = 7
) -> Batch:
    """Decisions really sampled from ``policy`` and valued by ``critic``, with random advantages."""
    random = np.random.default_rng(seed)
    seen = observation(size, seed=seed, image_size=image_size)
    with torch.no_grad():
        inputs = policy.prepare(seen)
        sampled = policy.sample(inputs, temperature=1.0, uniforms=random.random((size, num_tokens)))
        own = critic.adapter == "policy"
        feature = sampled.feature if own else policy.features(inputs, adapter=critic.adapter)
        values = critic.value(feature).numpy()
    advantages = random.normal(size=size).astype(np.float32)
    return Batch(
        images=seen.images,
        tasks=(np.arange(size) % len(INSTRUCTIONS)).astype(np.int32),
        instructions=INSTRUCTIONS,
        tokens=sampled.tokens.numpy(),
        old_log_probs=sampled.log_prob.numpy(),
        old_values=values,
        advantages=advantages,
        returns=values + advantages,
        features=feature.numpy() if critic.caches_features else None,
        temperature=1.0,
    )


def make_rollout(num_slots: int, num_steps: int, **fields: Any) -> Rollout:
    """A rollout of zeros and 1 x 1 images, but for ``fields``."""
    shape = (num_slots, num_steps)
    blank: dict[str, Any] = {
        "images": np.zeros((*shape, 1, 1, 3), np.uint8),
        "tasks": np.zeros(shape, np.int32),
        "inits": np.zeros(shape, np.int32),
        "episode_steps": np.zeros(shape, np.int32),
        "tokens": np.zeros((*shape, 7), np.int64),
        "actions": np.zeros((*shape, 7), np.float32),
        "log_probs": np.zeros(shape, np.float32),
        "values": np.zeros(shape, np.float32),
        "features": None,
        "terminated": np.zeros(shape, bool),
        "truncated": np.zeros(shape, bool),
        "errored": np.zeros(shape, bool),
        "final_values": np.zeros(shape, np.float32),
        "final_images": {},
        "last_values": np.zeros(num_slots, np.float32),
        "gripper_opening": np.zeros(shape, np.float32),
        "eef_speed": np.zeros(shape, np.float32),
        "instructions": ("do it",),
        "episodes": (),
        "temperature": 1.0,
        "digests": NO_DIGESTS,
    }
    return Rollout(**{**blank, **fields})


def finished(task: int, init: int, *, success: bool, slot: int = 0, index: int = 0) -> Episode:
    return Episode(
        spec=EpisodeSpec(task, "train", init, 0),
        slot=slot,
        index=index,
        length=3,
        success=success,
        truncated=not success,
        errored=False,
        end_step=2,
    )


def weights(*modules: nn.Module) -> Tensor:
    """All parameters of the modules in one vector, detached and copied."""
    return torch.cat([p.detach().flatten().clone() for module in modules for p in module.parameters()])
