"""Behaviour cloning of the tiny policy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from builders import IMAGE_SIZE, INSTRUCTIONS, tiny_policy, weights
from vlarl.errors import RunError
from vlarl.imitation import ImitationStats, _targets, clone, learning_rate
from vlarl.policies.tiny.policy import TinyPolicy
from vlarl.recipe.specs.learning import ImitationSpec
from vlarl.types import Demonstrations, SuiteFacts


def demonstrations(count: int = 12, seed: int = 0) -> Demonstrations:
    """A square whose place, and the instruction, say what to do."""
    random = np.random.default_rng(seed)
    images = np.full((count, IMAGE_SIZE, IMAGE_SIZE, 3), 100, np.uint8)
    places = random.integers(2, IMAGE_SIZE - 6, (count, 2))
    for image, (row, column) in zip(images, places, strict=True):
        image[row : row + 4, column : column + 4] = (220, 30, 30)
    tasks = (np.arange(count) % len(INSTRUCTIONS)).astype(np.int32)
    actions = np.zeros((count, 7), np.float32)
    actions[:, :2] = places / IMAGE_SIZE * 2 - 1
    actions[:, 2] = tasks / 2 - 0.5
    actions[:, 6] = np.where(random.random(count) < 0.5, -1.0, 1.0)
    return Demonstrations(images=images, tasks=tasks, instructions=INSTRUCTIONS, actions=actions)


def spec(**knobs: Any) -> ImitationSpec:
    return ImitationSpec(**{"updates": 6, "batch_size": 5, "lr": 3e-3, "warmup_updates": 2, **knobs})


def cloned(seed: int = 1, given: Demonstrations | None = None, **knobs: Any) -> tuple[TinyPolicy, ImitationStats]:
    policy = tiny_policy()
    return policy, clone(policy, given or demonstrations(), spec(**knobs), seed=seed)


def test_a_small_set_is_learnt_by_heart() -> None:
    policy, stats = cloned(updates=250, batch_size=12, warmup_updates=10)
    assert len(stats.losses) == 250
    assert stats.losses[0] == pytest.approx(math.log(256), rel=0.1)  # nothing known: 256 tokens alike
    # Measured with three seeds: loss 0.013, accuracy 1.
    assert np.mean(stats.losses[-10:]) < 0.3
    assert stats.accuracy > 0.9
    given = demonstrations()
    greedy = policy.sample(policy.prepare(given.observation(np.arange(12))), temperature=1.0, uniforms=None)
    wrong = np.abs(policy.decode(greedy.tokens.numpy()) - given.actions).max(axis=1)
    assert (wrong < 0.05).mean() > 0.9, "and acts so, by image and by instruction"


def test_one_seed_one_policy() -> None:
    (one, first), (two, second) = cloned(seed=1), cloned(seed=1)
    assert torch.equal(weights(one), weights(two))
    assert first == second


def test_another_seed_another_policy() -> None:
    (one, first), (two, second) = cloned(seed=1), cloned(seed=2)
    assert not torch.equal(weights(one), weights(two))
    assert first.losses != second.losses


def test_the_policy_moves_only_as_far_as_it_is_told() -> None:
    assert torch.equal(weights(cloned(lr=1e-30)[0]), weights(tiny_policy()))
    assert not torch.equal(weights(cloned()[0]), weights(tiny_policy()))


def test_every_step_is_seen_before_one_is_seen_again() -> None:
    """Batches of 5 out of 12: each 12 rows in turn hold every step once."""
    given = demonstrations()
    seen: list[int] = []

    class Watched(TinyPolicy):
        def prepare(self, observation: Any) -> Any:
            rows = range(len(given))
            seen.extend(next(i for i in rows if np.array_equal(given.images[i], one)) for one in observation.images)
            return super().prepare(observation)

    plain = tiny_policy()
    clone(Watched(plain.spec, suite=SuiteFacts("tabletop_basic", IMAGE_SIZE), seed=1), given, spec(updates=12), seed=1)
    assert len(seen) == 60
    for start in range(0, 60, 12):
        assert sorted(seen[start : start + 12]) == list(range(12))
    assert seen[:12] != seen[12:24], "in another order"


@pytest.mark.parametrize("batch_size", [12, 13, 40])
def test_batches_may_be_larger_than_the_set(batch_size: int) -> None:
    _, stats = cloned(batch_size=batch_size, updates=3)
    assert len(stats.losses) == 3


def test_progress_hears_of_every_update() -> None:
    heard: list[tuple[int, float]] = []
    stats = clone(
        tiny_policy(), demonstrations(), spec(), seed=1, progress=lambda update, loss: heard.append((update, loss))
    )
    assert heard == list(enumerate(stats.losses))


def test_learning_rate_by_hand() -> None:
    knobs = spec(lr=0.1, updates=12, warmup_updates=4)
    rates = [learning_rate(knobs, update) for update in range(12)]
    # A quarter, half, three quarters and all of 0.1; then 0.1 (1 + cos(pi k / 8)) / 2.
    expected = [0.025, 0.05, 0.075, 0.1, *(0.05 * (1 + math.cos(math.pi * k / 8)) for k in range(8))]
    assert rates == pytest.approx(expected)
    assert rates[8] == pytest.approx(0.05)  # half way down
    assert 0 < rates[-1] < 0.005


@pytest.mark.parametrize(("warmup_updates", "first"), [(0, 0.1), (1, 0.1), (20, 0.005)])
def test_learning_rate_of_the_first_update(warmup_updates: int, first: float) -> None:
    assert learning_rate(spec(lr=0.1, updates=10, warmup_updates=warmup_updates), 0) == pytest.approx(first)


def test_weight_decay_pulls_weights_to_zero() -> None:
    plain, decayed = cloned()[0], cloned(weight_decay=5.0)[0]
    assert float(weights(decayed).norm()) < float(weights(plain).norm())


def test_a_loss_that_is_no_number_stops_before_the_step() -> None:
    policy = tiny_policy()
    with torch.no_grad():
        policy.language_model.lm_head.weight[-1, 0] = math.nan
    before = weights(policy)
    with pytest.raises(RunError) as caught:
        clone(policy, demonstrations(), spec(), seed=1)
    assert caught.value.code == "X520"
    torch.testing.assert_close(weights(policy), before, atol=0, rtol=0, equal_nan=True)


def test_a_gradient_that_is_no_number_never_reaches_the_weights() -> None:
    policy = tiny_policy()
    next(iter(policy.parameters())).register_hook(lambda gradient: gradient * math.nan)
    before = weights(policy)
    with pytest.raises(RunError) as caught:
        clone(policy, demonstrations(), spec(updates=1), seed=1)
    assert caught.value.code == "X520"
    assert torch.equal(weights(policy), before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_actions_that_are_no_numbers_are_a_programmers_mistake(value: float) -> None:
    """The reader of demonstration files refuses them; as a token they would be the highest action."""
    given = demonstrations()
    given.actions[3, 2] = value
    with pytest.raises(AssertionError, match="finite"):
        clone(tiny_policy(), given, spec(), seed=1)


def test_the_target_of_a_chunk_is_what_follows_and_then_the_last_step_again() -> None:
    tokens = np.arange(5)[:, None] * 10 + np.arange(7)  # (5, 7), tens tell the step
    given = replace(demonstrations(5), last_rows=np.array([2, 2, 2, 4, 4]))
    found = _targets(tokens, given, np.array([0, 1, 2, 3, 4]), 3)
    assert found.shape == (5, 21)
    assert (found[:, ::7] // 10).tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 4], [4, 4, 4]]
    assert np.array_equal(found[0], tokens[:3].reshape(-1))
    assert np.array_equal(_targets(tokens, given, np.array([3, 0]), 1), tokens[[3, 0]])
