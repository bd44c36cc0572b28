"""How much of the plane of actions a policy uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import make_rollout
from vlarl.errors import AssetError
from vlarl.results import Evaluated, document, protocol_block, read_document, write
from vlarl.run.coverage import SIDE, Coverage, before_and_after, cells_of, count_actions, coverage_of, is_trained
from vlarl.types import EpisodeSpec, Task, Trial

_COMMANDS = np.random.default_rng(0).uniform(-1, 1, (3, 5, 7)).astype(np.float32)
_TASK = Task(suite="s", index=0, name="reach", instruction="reach", horizon=9)


def evaluate(folder: Path, iteration: int, episodes: Sequence[np.ndarray], name: str | None = None) -> dict[str, Any]:
    """Write an evaluation whose episodes took these actions, (length, 7) each, and read its document."""
    trials = [
        Trial(spec=EpisodeSpec(0, "eval", at, 0), success=False, errored=False, length=len(one), actions=one)
        for at, one in enumerate(episodes)
    ]
    protocol = protocol_block([_TASK], [t.spec for t in trials], suite="s", conventions={}, renderer=None)
    evaluated = Evaluated(iteration=iteration, decoding="greedy")
    return read_document(write(document(trials, [_TASK], protocol=protocol, evaluated=evaluated), trials, folder, name))


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


def test_the_first_two_dimensions_of_actions_count() -> None:
    actions = np.zeros((3, 7), np.float32)
    actions[:, 0], actions[:, 1], actions[:, 2] = (-1, -1, 1), (0, 0, 1), (1, -1, 0)
    counts = coverage_of(actions).counts
    assert {(x, y): counts[x, y] for x, y in np.argwhere(counts).tolist()} == {(0, 8): 2, (15, 15): 1}
    assert coverage_of(actions[:0]).share == 0.0


def test_the_first_and_the_last_evaluation_are_compared(tmp_path: Path) -> None:
    still, left = np.zeros((4, 7), np.float32), np.full((2, 7), -1.0, np.float32)
    episodes = {0: [still, still], 5: [left, left], 9: [still, left]}
    documents = [evaluate(tmp_path, iteration, actions) for iteration, actions in episodes.items()]
    found = before_and_after(tmp_path, documents)
    assert found is not None
    assert (found.episodes, found.iteration, found.temperature) == (2, 9, None)
    assert (found.before.num_actions, found.after.num_actions) == (8, 6)
    assert np.argwhere(found.before.counts).tolist() == [[8, 8]]
    assert found.after.counts[8, 8] == 4
    assert found.after.counts[0, 0] == 2


def test_without_a_later_evaluation_there_is_nothing_to_compare(tmp_path: Path) -> None:
    first, later = (evaluate(tmp_path, iteration, [_COMMANDS[0]]) for iteration in (0, 3))
    assert is_trained([first, later])
    for documents in ([], [first], [later], [later, later]):
        assert not is_trained(documents)
        assert before_and_after(tmp_path, documents) is None


def test_actions_that_are_not_there_are_not_known(tmp_path: Path) -> None:
    documents = [evaluate(tmp_path, iteration, [_COMMANDS[iteration]]) for iteration in (0, 1)]
    assert before_and_after(tmp_path / "elsewhere", documents) is None
    evaluate(tmp_path, 1, [_COMMANDS[2][:3]])  # another evaluation of that name
    assert before_and_after(tmp_path, documents) is None
    (tmp_path / "s-000001.safetensors").unlink()
    assert before_and_after(tmp_path, documents) is None


def test_damaged_actions_are_told(tmp_path: Path) -> None:
    documents = [evaluate(tmp_path, iteration, [_COMMANDS[iteration]]) for iteration in (0, 1)]
    (tmp_path / "s-000001.safetensors").write_bytes(b"no")
    with pytest.raises(AssetError) as caught:
        before_and_after(tmp_path, documents)
    assert caught.value.code == "R360"
