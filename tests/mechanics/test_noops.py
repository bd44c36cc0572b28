"""Which steps behaviour cloning leaves out: OpenVLA's rule, step by step and in general."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vlarl.suites.demonstration_steps import NOOP_NORM, without_noops

MOVE = 0.5


def action(motion: float, gripper: float) -> np.ndarray:
    return np.array([motion, 0.0, 0.0, 0.0, 0.0, 0.0, gripper], dtype=np.float32)


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        ([(MOVE, -1), (0, -1), (MOVE, -1)], [True, False, True]),
        ([(MOVE, -1), (0, 1), (0, 1), (0, 1)], [True, True, False, False]),  # only the change of the gripper
        ([(0, 1), (0, -1), (MOVE, -1)], [False, False, True]),  # nothing kept yet: motion alone decides
        ([(MOVE, -1), (0, 1), (0, -1), (0, 1)], [True] * 4),
        ([(0, -1)] * 3, [False] * 3),
        ([(1.01e-4, 1), (0.99e-4, 1), (1.01e-4, 1)], [True, False, True]),
    ],
)
def test_the_rule(steps: list[tuple[float, float]], kept: list[bool]) -> None:
    assert without_noops(np.stack([action(*step) for step in steps])).tolist() == kept


def test_rotation_is_motion_and_numbers_count_together() -> None:
    actions = np.zeros((3, 7))
    actions[0, 4], actions[1, :6], actions[2, :6] = 2e-4, 0.3e-4, 0.5e-4
    assert without_noops(actions).tolist() == [True, False, True]


ACTIONS = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 12), st.just(7)),
    elements=st.sampled_from([-1.0, 0.0, 0.5e-4, 1.0]),
)


@given(ACTIONS)
def test_what_moves_is_kept_and_filtering_again_changes_nothing(actions: np.ndarray) -> None:
    kept = without_noops(actions)
    moves = np.linalg.norm(actions[:, :6], axis=1) >= NOOP_NORM
    assert kept[moves].all()
    assert without_noops(actions[kept]).all()


@given(ACTIONS)
def test_commands_of_the_gripper_survive_in_their_order(actions: np.ndarray) -> None:
    """From the first kept step on, the sequence of changes is the same with and without no-ops."""
    kept = without_noops(actions)
    if kept.any():
        assert _changes(actions[np.argmax(kept) :, 6]) == _changes(actions[kept, 6])


def _changes(commands: np.ndarray) -> list[float]:
    return [float(c) for i, c in enumerate(commands) if i == 0 or c != commands[i - 1]]
