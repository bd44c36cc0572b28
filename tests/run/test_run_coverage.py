"""How much of the plane of actions a policy uses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from builders import make_rollout
from vlarl.run.coverage import SIDE, Coverage, before_and_after, cells_of, count_actions

_COMMANDS = np.random.default_rng(0).uniform(-1, 1, (3, 5, 7)).astype(np.float32)


def record(counts: np.ndarray, *, updated: bool) -> dict[str, Any]:
    return {"action_counts": counts.tolist(), "stats": {"policy_updated": updated}}


def counts_of(x: int, y: int, number: int = 4) -> np.ndarray:
    counts = np.zeros((SIDE, SIDE), np.int64)
    counts[x, y] = number
    return counts


def test_the_share_is_one_when_all_cells_are_used_alike_and_one_cell_when_one_is() -> None:
    assert Coverage(np.full((SIDE, SIDE), 3)).share == pytest.approx(1.0)
    assert Coverage(counts_of(2, 5)).share == pytest.approx(1 / 256)
    assert Coverage(np.zeros((SIDE, SIDE), np.int64)).share == 0.0


def test_the_share_of_unequal_counts_is_the_exponential_of_the_entropy() -> None:
    counts = counts_of(0, 0, 3) + counts_of(7, 7, 1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert Coverage(counts).share == pytest.approx(math.exp(entropy) / 256)


def test_the_ends_of_the_range_are_in_the_first_and_the_last_cell() -> None:
    commands = np.array([[-1.0, 1.0], [0.0, -1e-6], [0.124, 0.126]])
    assert cells_of(commands).tolist() == [[0, 15], [8, 7], [8, 9]]


def test_every_control_step_taken_is_counted_once() -> None:
    rollout = make_rollout(3, 5, actions=_COMMANDS)
    n, t = rollout.tokens.shape[:2]
    counts = np.array(count_actions(rollout))
    assert counts.sum() == n * t
    cells = cells_of(rollout.actions[..., :2])
    for x, y in cells.reshape(-1, 2):
        counts[x, y] -= 1
    assert not counts.any()


def test_steps_of_idle_slots_and_control_steps_not_taken_do_not_count() -> None:
    rollout = make_rollout(3, 5, actions=_COMMANDS)
    n, t = rollout.tokens.shape[:2]
    active = np.zeros((n, t), bool)
    active[0] = True
    assert np.sum(count_actions(replace(rollout, active=active))) == t
    chunks = replace(
        rollout, actions=np.tile(rollout.actions, (1, 1, 3)), num_taken=np.full((n, t), 2, np.int32), active=active
    )
    assert np.sum(count_actions(chunks)) == 2 * t


def test_before_is_what_the_first_policy_did_and_after_as_many_iterations_at_the_end() -> None:
    records = [record(counts_of(0, at), updated=at >= 2) for at in range(7)]  # the critic alone learns in two of them
    found = before_and_after(records)
    assert found is not None
    assert found.iterations == 3
    assert np.argwhere(found.before.counts).tolist() == [[0, 0], [0, 1], [0, 2]]
    assert np.argwhere(found.after.counts).tolist() == [[0, 4], [0, 5], [0, 6]]


def test_a_short_run_shares_no_iteration_between_before_and_after() -> None:
    found = before_and_after([record(counts_of(0, at), updated=at >= 2) for at in range(5)])
    assert found is not None
    assert found.iterations == 2


def test_without_an_update_or_without_counts_there_is_nothing_to_compare() -> None:
    assert before_and_after([]) is None
    assert before_and_after([record(counts_of(0, 0), updated=False)] * 3) is None
    assert before_and_after([record(counts_of(0, 0), updated=True)]) is None
    assert before_and_after([{"stats": {"policy_updated": True}}] * 3) is None
