"""Cuts of synthetic trajectories whose segments are known, and what must not move them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlarl.prm.segments import distance_to_keyframe, find_milestones, leading_steps, running_median, segment
from vlarl.recipe.specs.prm import LabelsSpec

SPEC = LabelsSpec()
# Reach 12 steps, rest 6 while the gripper closes, carry 14, rest 6 while it opens, draw back 10, rest 4.
PHASES = ((12, 1.0), (6, 0.0), (14, 0.8), (6, 0.0), (10, 0.9), (4, 0.0))
CLOSED = slice(14, 34)


def pick_and_place() -> tuple[np.ndarray, np.ndarray]:
    speed = np.concatenate([np.full(count, value) for count, value in PHASES])
    gripper = np.full(len(speed), 0.08)
    gripper[CLOSED] = 0.04
    return gripper, speed


def test_cuts_and_keyframes_of_a_known_trajectory_are_exact() -> None:
    cut = segment(*pick_and_place(), SPEC)
    assert cut.milestones == (14, 34)
    assert cut.keyframes == (12, 32, 48)
    assert (cut.start, cut.end) == (0, 48)
    assert cut.progress[[0, 12, 32, 48, 51]] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert (np.diff(cut.progress) >= 0).all()


def test_a_segment_without_a_rest_ends_in_its_milestone_and_the_last_in_the_end() -> None:
    gripper = np.where(np.arange(40) < 20, 0.08, 0.0)
    cut = segment(gripper, np.full(40, 0.5), SPEC)
    assert cut.milestones == (20,)
    assert cut.keyframes == (20, 40)


def test_a_gripper_closed_to_begin_with_ends_no_segment() -> None:
    gripper = np.where(np.arange(40) < 2, 0.08, 0.0)
    cut = segment(gripper, np.full(40, 0.5), SPEC)
    assert (cut.milestones, cut.keyframes) == ((), (40,))


def test_a_state_that_is_too_short_is_no_milestone() -> None:
    gripper, speed = pick_and_place()
    gripper[25:28] = 0.08
    assert segment(gripper, speed, SPEC).milestones == (14, 34)


def test_values_inside_the_hysteresis_keep_the_state() -> None:
    gripper = np.array([1.0] * 8 + [0.55, 0.45] * 4 + [0.0] * 8 + [0.45, 0.55] * 4 + [1.0] * 8)
    assert find_milestones(gripper, SPEC) == [16, 32]


def test_a_slow_down_that_is_no_rest_is_no_keyframe() -> None:
    gripper, speed = pick_and_place()
    speed[4:8] = 0.3
    assert segment(gripper, speed, SPEC).keyframes == (12, 32, 48)


def test_the_first_of_two_close_keyframes_stays() -> None:
    speed = np.array([1.0] * 10 + [0.0] * 2 + [1.0] * 2 + [0.0] * 2 + [1.0] * 10 + [0.0] * 4)
    cut = segment(np.zeros(len(speed)), speed, LabelsSpec(smoothing=1))
    assert cut.keyframes == (10, 26)


def test_the_median_keeps_edges_and_takes_out_single_steps() -> None:
    assert running_median(np.array([1.0, 1, 0, 1, 1, 0, 0, 1, 0]), 3).tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]


def test_steps_that_lead_to_a_keyframe() -> None:
    cut = segment(*pick_and_place(), SPEC)
    leading = np.flatnonzero(leading_steps(cut, 52, 3))
    assert leading.tolist() == [9, 10, 11, 29, 30, 31, 45, 46, 47]
    ahead = distance_to_keyframe(cut, 52)
    assert (ahead[0], ahead[11], ahead[12], ahead[47], ahead[48]) == (12, 1, 20, 1, 0)


@settings(max_examples=60, deadline=None)
@given(before=st.integers(0, 30), after=st.integers(0, 30))
def test_idle_before_and_after_changes_the_numbering_alone(before: int, after: int) -> None:
    gripper, speed = pick_and_place()
    cut = segment(gripper, speed, SPEC)
    shifted = segment(
        np.concatenate([np.full(before, gripper[0]), gripper, np.full(after, gripper[-1])]),
        np.pad(speed, (before, after)),
        SPEC,
    )
    assert shifted.milestones == tuple(step + before for step in cut.milestones)
    assert shifted.keyframes == tuple(step + before for step in cut.keyframes)
    assert np.array_equal(shifted.progress[before : before + len(speed)], cut.progress)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), level=st.floats(0.0, 0.12))
def test_noise_below_the_thresholds_moves_nothing(seed: int, level: float) -> None:
    gripper, speed = pick_and_place()
    random = np.random.default_rng(seed)
    noisy_speed = np.abs(speed + random.uniform(-level, level, len(speed)))
    noisy_gripper = gripper + random.uniform(-level, level, len(speed)) * 0.04
    cut, noisy = segment(gripper, speed, SPEC), segment(noisy_gripper, noisy_speed, SPEC)
    assert (noisy.milestones, noisy.keyframes) == (cut.milestones, cut.keyframes)


@settings(max_examples=60, deadline=None)
@given(
    states=st.lists(st.integers(5, 20), min_size=2, max_size=6), factor=st.floats(0.1, 100.0), offset=st.floats(-1, 1)
)
def test_sign_unit_and_offset_of_the_gripper_do_not_matter(states: list[int], factor: float, offset: float) -> None:
    gripper = np.concatenate([np.full(count, float(number % 2)) for number, count in enumerate(states)])
    speed = np.random.default_rng(len(gripper)).uniform(0.2, 1.0, len(gripper))
    cut = segment(gripper, speed, SPEC)
    other = segment(offset - factor * gripper, speed, SPEC)
    assert cut.milestones == other.milestones == tuple(np.cumsum(states)[:-1].tolist())
    assert cut.keyframes == other.keyframes
    faster = segment(gripper, speed * factor, SPEC)
    assert faster.keyframes == cut.keyframes
