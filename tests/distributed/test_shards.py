"""Shards of env slots: each runs as it would beside any others."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict

import fake_suite
import numpy as np
import pytest
from fake_suite import FakeSpec

from builders import shared_critic, tiny_policy
from vlarl.distributed_rollout import combined
from vlarl.rollout import collect
from vlarl.suites.pool import Pool
from vlarl.types import EpisodeSpec, Rollout

NUM_ENVS, NUM_STEPS = 8, 12


def assign(slot: int, index: int) -> EpisodeSpec:
    return EpisodeSpec(task=(slot + index) % 3, split="train", init=(slot * 7 + index) % 11, seed=slot * 100 + index)


def rolled(shards: range | None = None, *, num_shards: int = 2) -> Rollout:
    spec = FakeSpec(num_envs=NUM_ENVS, num_shards=num_shards, num_groups=2, num_workers=1)
    policy = tiny_policy(image_size=fake_suite.IMAGE_SIZE)
    critic = shared_critic(policy)
    with Pool(spec, fake_suite.tasks(), fake_suite.IMAGE_SIZE, assign, shards=shards) as pool:
        pool.start()
        return collect(
            policy,
            critic,
            pool,
            instructions=tuple(task.instruction for task in fake_suite.tasks()),
            seed=3,
            num_steps=NUM_STEPS,
            temperature=1.0,
            ledger=defaultdict(float),
        )


@pytest.fixture(scope="module")
def whole() -> Rollout:
    return rolled()


@pytest.mark.parametrize("shard", [0, 1])
def test_a_shard_alone_does_what_it_does_beside_the_other(whole: Rollout, shard: int) -> None:
    own = rolled(range(shard, shard + 1))
    slots = slice(4 * shard, 4 * shard + 4)
    assert own.first_slot == 4 * shard
    assert own.digests == whole.shard_digests[shard]
    for name in ("tokens", "images", "values", "log_probs", "terminated", "truncated", "final_values", "last_values"):
        np.testing.assert_array_equal(getattr(own, name), getattr(whole, name)[slots])
    beside = [e for e in whole.episodes if slots.start <= e.slot < slots.stop]
    assert own.episodes, "a rollout without a finished episode proves little"
    assert [asdict(e) | {"slot": e.slot + slots.start} for e in own.episodes] == [asdict(e) for e in beside]


def test_the_digests_are_those_of_all_shards(whole: Rollout) -> None:
    assert len(whole.shard_digests) == 2
    assert whole.digests == combined(whole.shard_digests)
    undivided = rolled(num_shards=1)
    assert undivided.digests == undivided.shard_digests[0] != whole.digests
    np.testing.assert_array_equal(undivided.tokens, whole.tokens)
