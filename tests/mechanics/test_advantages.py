"""Advantages against a quadratic reference that shares no line with the implementation, and by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import make_rollout
from vlarl.advantages import Truncation, advantages, normalized
from vlarl.types import Batch, Rollout, Scored

FRACTIONS = (0.0, 0.3, 0.9, 0.95, 0.99, 1.0)


def scored(rollout: Rollout, rewards: np.ndarray) -> Scored:
    rewards = rewards.astype(np.float32)
    return Scored(rollout=rollout, rewards=rewards, breakdown={"success": rewards})


def brute_force(given: Scored, gamma: float, gae_lambda: float, truncation: Truncation) -> np.ndarray:
    """A_t as lambda-weighted n-step returns (Schulman et al. 2016, eq. 15), each summed from its definition.

    A_t = (1 - l) sum_{n < H} l^{n-1} G_n + l^{H-1} G_H - V_t, with H the steps to the episode's or rollout's end and
    G_n = r_t + ... + gamma^{n-1} r_{t+n-1} + gamma^n V_{t+n}.
    """
    rollout = given.rollout
    num_slots, num_steps = given.rewards.shape
    ended = rollout.terminated | rollout.truncated | rollout.errored
    result = np.zeros((num_slots, num_steps))
    for slot, start in product(range(num_slots), range(num_steps)):
        stop = next((t for t in range(start, num_steps) if ended[slot, t]), num_steps - 1)
        total, discounted = 0.0, 0.0
        for n, t in enumerate(range(start, stop + 1), start=1):
            discounted += gamma ** (n - 1) * float(given.rewards[slot, t])
            if t < stop:
                total += (
                    (1 - gae_lambda)
                    * gae_lambda ** (n - 1)
                    * (discounted + gamma**n * float(rollout.values[slot, t + 1]))
                )
                continue
            if not ended[slot, t]:
                after = float(rollout.last_values[slot])
            elif rollout.truncated[slot, t] and truncation == "bootstrap":
                after = float(rollout.final_values[slot, t])
            else:
                after = 0.0
            total += gae_lambda ** (n - 1) * (discounted + gamma**n * after)
        result[slot, start] = total - float(rollout.values[slot, start])
    return result


def random_scored(seed: int, num_slots: int, num_steps: int, end_rate: float) -> Scored:
    random = np.random.default_rng(seed)
    shape = (num_slots, num_steps)
    ends = np.where(random.random(shape) < end_rate, random.integers(1, 4, shape), 0)
    truncated = ends == 2
    rollout = make_rollout(
        num_slots,
        num_steps,
        values=random.normal(size=shape).astype(np.float32),
        last_values=random.normal(size=num_slots).astype(np.float32),
        terminated=ends == 1,
        truncated=truncated,
        errored=ends == 3,
        final_values=np.where(truncated, random.normal(size=shape), 0.0).astype(np.float32),
    )
    return scored(rollout, random.normal(size=shape))


@pytest.mark.parametrize("truncation", ["bootstrap", "terminal"])
@pytest.mark.parametrize(("gamma", "gae_lambda"), list(product(FRACTIONS, FRACTIONS)))
def test_equals_the_quadratic_reference(gamma: float, gae_lambda: float, truncation: Truncation) -> None:
    given = random_scored(seed=3, num_slots=4, num_steps=23, end_rate=0.2)
    assert given.rollout.terminated.any()
    assert given.rollout.truncated.any()
    assert given.rollout.errored.any()
    batch = advantages(given, gamma=gamma, gae_lambda=gae_lambda, truncation=truncation)
    expected = brute_force(given, gamma, gae_lambda, truncation)
    np.testing.assert_allclose(batch.advantages.reshape(4, 23), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(batch.returns.reshape(4, 23), expected + given.rollout.values, rtol=0, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_slots=st.integers(1, 3),
    num_steps=st.integers(1, 12),
    end_rate=st.floats(0, 1),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
    truncation=st.sampled_from(["bootstrap", "terminal"]),
)
def test_equals_the_reference_for_any_shape_and_any_ends(
    seed: int,
    num_slots: int,
    num_steps: int,
    end_rate: float,
    gamma: float,
    gae_lambda: float,
    truncation: Truncation,
) -> None:
    given = random_scored(seed, num_slots, num_steps, end_rate)
    batch = advantages(given, gamma=gamma, gae_lambda=gae_lambda, truncation=truncation)
    expected = brute_force(given, gamma, gae_lambda, truncation)
    np.testing.assert_allclose(batch.advantages.reshape(num_slots, num_steps), expected, rtol=0, atol=4e-6)


def by_hand(**ends: list[list[bool]]) -> Scored:
    """One slot of three steps; values 1, 2, 4; 8 after the horizon, 16 after the rollout; rewards 0, 1, 0."""
    fields = {name: np.array(flags) for name, flags in ends.items()}
    truncated = fields.get("truncated", np.zeros((1, 3), bool))
    rollout = make_rollout(
        1,
        3,
        values=np.array([[1.0, 2.0, 4.0]], np.float32),
        last_values=np.array([16.0], np.float32),
        final_values=np.where(truncated, 8.0, 0.0).astype(np.float32),
        **fields,
    )
    return scored(rollout, np.array([[0.0, 1.0, 0.0]]))


def halves(given: Scored, truncation: Truncation) -> list[float]:
    """Advantages at gamma = lambda = 1/2, where every number below is exact."""
    return list(advantages(given, gamma=0.5, gae_lambda=0.5, truncation=truncation).advantages)


def test_by_hand_bootstrap_adds_the_final_observations_value() -> None:
    # step 2: 0 + 16/2 - 4 = 4
    # step 1: the horizon. 1 + 8/2 - 2 = 3, and nothing comes from step 2
    # step 0: 0 + 2/2 - 1 = 0, plus 3/4
    assert halves(by_hand(truncated=[[False, True, False]]), "bootstrap") == [0.75, 3.0, 4.0]


def test_by_hand_terminal_takes_the_horizon_for_the_end() -> None:
    # step 1: 1 + 0 - 2 = -1; step 0: 0 - 1/4
    assert halves(by_hand(truncated=[[False, True, False]]), "terminal") == [-0.25, -1.0, 4.0]


@pytest.mark.parametrize("end", ["terminated", "errored"])
@pytest.mark.parametrize("truncation", ["bootstrap", "terminal"])
def test_by_hand_success_and_error_end_in_both_modes(end: str, truncation: Truncation) -> None:
    assert halves(by_hand(**{end: [[False, True, False]]}), truncation) == [-0.25, -1.0, 4.0]


@pytest.mark.parametrize("truncation", ["bootstrap", "terminal"])
def test_by_hand_a_slot_that_never_ends_uses_the_value_after_the_rollout(truncation: Truncation) -> None:
    # step 2: 0 + 16/2 - 4 = 4; step 1: 1 + 4/2 - 2 = 1, plus 4/4; step 0: 0, plus 2/4
    assert halves(by_hand(), truncation) == [0.5, 2.0, 4.0]


def test_by_hand_an_end_at_the_last_step_ignores_the_value_after_the_rollout() -> None:
    # step 2: 0 + 8/2 - 4 = 0, and with `terminal` 0 - 4
    assert halves(by_hand(truncated=[[False, False, True]]), "bootstrap")[2] == 0.0
    assert halves(by_hand(truncated=[[False, False, True]]), "terminal")[2] == -4.0


def test_slots_do_not_leak_into_each_other() -> None:
    given = random_scored(seed=5, num_slots=3, num_steps=9, end_rate=0.2)
    values = given.rollout.values.copy()
    values[0] += 100.0
    fields = {name: getattr(given.rollout, name) for name in ("terminated", "truncated", "errored", "final_values")}
    other = make_rollout(3, 9, values=values, last_values=given.rollout.last_values, **fields)
    before = advantages(given, gamma=0.9, gae_lambda=0.9, truncation="bootstrap").advantages.reshape(3, 9)
    after = advantages(scored(other, given.rewards), gamma=0.9, gae_lambda=0.9, truncation="bootstrap")
    assert np.array_equal(after.advantages.reshape(3, 9)[1:], before[1:])
    assert not np.array_equal(after.advantages.reshape(3, 9)[0], before[0])


def flattened(**fields: np.ndarray) -> Batch:
    rollout = make_rollout(2, 3, **fields)
    return advantages(scored(rollout, np.zeros((2, 3))), gamma=0.9, gae_lambda=0.9, truncation="terminal")


def test_the_batch_is_slot_major() -> None:
    number = np.arange(6).reshape(2, 3)
    batch = flattened(
        tasks=number.astype(np.int32),
        log_probs=number.astype(np.float32),
        values=number.astype(np.float32),
        tokens=np.repeat(number[..., None], 7, axis=2),
        images=np.broadcast_to(number[..., None, None, None], (2, 3, 1, 1, 3)).astype(np.uint8),
        features=np.repeat(number[..., None], 4, axis=2).astype(np.float32),
    )
    assert len(batch) == 6
    assert batch.features is not None
    assert batch.features.shape == (6, 4)
    columns = (batch.tokens[:, 6], batch.images[:, 0, 0, 2], batch.features[:, 3])
    for row in (batch.tasks, batch.old_log_probs, batch.old_values, *columns):
        assert row.tolist() == [0, 1, 2, 3, 4, 5]
    assert {batch.advantages.dtype, batch.returns.dtype} == {np.dtype(np.float32)}


def test_features_stay_absent() -> None:
    assert flattened().features is None


def test_normalising_changes_advantages_and_not_returns() -> None:
    given = random_scored(seed=1, num_slots=3, num_steps=20, end_rate=0.1)
    plain = advantages(given, gamma=0.9, gae_lambda=0.8, truncation="terminal")
    normal = advantages(given, gamma=0.9, gae_lambda=0.8, truncation="terminal", normalize=True)
    assert abs(float(normal.advantages.mean())) < 1e-6
    assert abs(float(normal.advantages.std()) - 1.0) < 1e-6
    assert np.array_equal(np.argsort(normal.advantages), np.argsort(plain.advantages))
    assert np.array_equal(normal.returns, plain.returns)


def test_normalising_a_constant_gives_zeros() -> None:
    assert np.abs(normalized(np.full(3018, 1.84))).max() < 1e-12, "the mean of equal numbers is off by rounding"


def test_normalising_by_hand() -> None:
    assert normalized(np.array([1.0, 3.0, 1.0, 3.0])).tolist() == [-1.0, 1.0, -1.0, 1.0]


def test_the_rollout_is_left_as_it_was() -> None:
    given = random_scored(seed=2, num_slots=2, num_steps=6, end_rate=0.3)
    before = (given.rewards.copy(), given.rollout.values.copy(), given.rollout.final_values.copy())
    advantages(given, gamma=0.9, gae_lambda=0.9, truncation="bootstrap", normalize=True)
    for now, then in zip((given.rewards, given.rollout.values, given.rollout.final_values), before, strict=True):
        assert np.array_equal(now, then)


# Chunks: a step lasts k control steps, and gamma^k stands for gamma.


def of_chunks(num_taken: list[list[int]], **fields: object) -> Rollout:
    taken = np.array(num_taken, np.int32)
    return make_rollout(*taken.shape, actions=np.zeros((*taken.shape, 21), np.float32), num_taken=taken, **fields)


def test_the_discount_counts_control_steps() -> None:
    """By hand: two full chunks of 3, success at the second control step of the third, then another episode."""
    rollout = of_chunks(
        [[3, 3, 2, 3]],
        values=np.array([[0.5, 0.4, 0.3, 0.2]], np.float32),
        last_values=np.array([0.1], np.float32),
        terminated=np.array([[False, False, True, False]]),
    )
    given = scored(rollout, np.array([[0.0, 0.25, 1.0, 0.0]]))
    found = advantages(given, gamma=0.9, gae_lambda=0.8, truncation="terminal")
    g = 0.9**3
    delta = [g * 0.4 - 0.5, 0.25 + g * 0.3 - 0.4, 1.0 - 0.3, g * 0.1 - 0.2]
    second = delta[1] + g * 0.8 * delta[2]
    expected = [delta[0] + g * 0.8 * second, second, delta[2], delta[3]]
    np.testing.assert_allclose(found.advantages, expected, atol=1e-6)
    np.testing.assert_allclose(found.returns - found.old_values, expected, atol=1e-6)


@pytest.mark.parametrize("truncation", ["bootstrap", "terminal"])
def test_a_horizon_within_a_chunk_discounts_by_what_was_taken(truncation: Truncation) -> None:
    rollout = of_chunks(
        [[3, 1]],
        truncated=np.array([[False, True]]),
        final_values=np.array([[0.0, 0.7]], np.float32),
    )
    found = advantages(scored(rollout, np.zeros((1, 2))), gamma=0.9, gae_lambda=1.0, truncation=truncation)
    last = 0.9 * 0.7 if truncation == "bootstrap" else 0.0
    np.testing.assert_allclose(found.advantages, [0.9**3 * last, last], atol=1e-6)


def test_without_values_a_return_discounts_success_by_the_control_steps_before_it() -> None:
    """Seven control steps to success, decided in chunks of 3, 1 or 7: rewards of a chunk are not discounted in it."""
    for taken, before in (([3, 3, 1], 6), ([1] * 7, 6), ([7], 0)):
        done = np.zeros((1, len(taken)), bool)
        done[0, -1] = True
        given = scored(of_chunks([taken], terminated=done), done.astype(np.float32))
        found = advantages(given, gamma=0.9, gae_lambda=1.0, truncation="terminal")
        assert found.advantages[0] == pytest.approx(0.9**before, rel=1e-6)


def test_chunks_of_one_are_single_steps() -> None:
    given = random_scored(seed=5, num_slots=4, num_steps=23, end_rate=0.2)
    ones = np.ones(given.rewards.shape, np.int32)
    other = Scored(
        rollout=replace(given.rollout, num_taken=ones), rewards=given.rewards, breakdown=dict(given.breakdown)
    )
    one, two = (advantages(each, gamma=0.95, gae_lambda=0.9, truncation="bootstrap") for each in (given, other))
    np.testing.assert_array_equal(one.advantages, two.advantages)
