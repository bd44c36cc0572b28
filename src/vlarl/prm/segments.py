"""Where a trajectory is cut: milestones, keyframes and progress, from two curves alone.

A *milestone* is a step at which the gripper has changed between open and closed; milestones bound segments. A
*keyframe* is the first step at which the arm is at rest after it had been moving, so the steps before it lead to it.
A segment without one ends in its milestone, the last in the end of the motion. Step t is the control step that
starts at observation t; a keyframe may be T, the end of a trajectory of T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vlarl.recipe.specs.prm import LabelsSpec


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The cuts of one trajectory of T steps."""

    milestones: tuple[int, ...]  # ascending, in (0, T)
    keyframes: tuple[int, ...]  # ascending, in (0, T]; at least one
    start: int  # first step of motion
    end: int  # after the last step of motion
    progress: np.ndarray  # (T,) float32, 0 at the start .. 1 at the last keyframe, before each step


def segment(gripper: np.ndarray, speed: np.ndarray, spec: LabelsSpec) -> Segmentation:
    """Cut a trajectory by its gripper opening (T,), of either sign, and its end-effector speed (T,), both finite.

    Speeds count relative to their peak and openings relative to their range, so units do not matter. Idle steps
    before or after the motion change nothing but the numbering.
    """
    assert gripper.shape == speed.shape, (gripper.shape, speed.shape)
    assert gripper.ndim == 1 and len(gripper) >= 2, gripper.shape  # noqa: PT018
    smooth = running_median(speed, spec.smoothing)
    peak = float(smooth.max())
    moving = np.flatnonzero(smooth > spec.keyframe_speed * peak).tolist()
    # A gripper set before the arm has gone anywhere, open or closed to begin with, ends no segment.
    first = moving[0] + spec.min_segment if moving else 1
    milestones = [step for step in find_milestones(gripper, spec) if step >= first]
    events = [*moving, *milestones]
    start, end = (min(events), max(events) + 1) if events else (0, len(speed))
    keyframes = _keyframes(smooth, peak, milestones, end, spec)
    anchors = np.array([start, *keyframes])
    shares = np.arange(len(anchors)) / len(keyframes)
    progress = np.interp(np.arange(len(speed)), anchors, shares).astype(np.float32)
    return Segmentation(
        milestones=tuple(milestones), keyframes=tuple(keyframes), start=start, end=end, progress=progress
    )


def is_constant(gripper: np.ndarray, spec: LabelsSpec) -> bool:
    return bool(np.ptp(gripper) < spec.min_gripper_range)


def find_milestones(gripper: np.ndarray, spec: LabelsSpec) -> list[int]:
    """Steps at which the gripper's state differs from that of the step before; none for a constant gripper."""
    if is_constant(gripper, spec):
        return []
    opening = (gripper - gripper.min()) / np.ptp(gripper)
    above, below = opening >= 0.5 + spec.gripper_hysteresis / 2, opening <= 0.5 - spec.gripper_hysteresis / 2
    decided = np.where(above, 1, np.where(below, 0, -1))
    known = np.flatnonzero(decided >= 0)
    # Undecided steps keep the state before them; those before the first decided one have its state.
    latest = np.maximum.accumulate(np.where(decided >= 0, np.arange(len(decided)), known[0]))
    flips = (np.flatnonzero(np.diff(decided[latest])) + 1).tolist()
    kept: list[int] = []
    for flip in flips:
        if kept and flip - kept[-1] < spec.min_segment:
            kept.pop()  # a state that short was none, and neither was the change back
        else:
            kept.append(flip)
    return kept


def running_median(values: np.ndarray, width: int) -> np.ndarray:
    """(T,) median over ``width`` (odd) steps around each; beyond both ends the arm is at rest."""
    assert width % 2 == 1, width
    padded = np.pad(values.astype(np.float64), width // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)


def _keyframes(smooth: np.ndarray, peak: float, milestones: list[int], end: int, spec: LabelsSpec) -> list[int]:
    rests = _rests(smooth, peak, spec)
    keyframes: list[int] = []
    bounds = [0, *milestones, end]
    for first, last in pairwise(bounds):
        inside = [step for step in rests if first < step <= last]
        near_end = any(last - step < spec.min_gap for step in inside)
        for step in inside if near_end else [*inside, last]:
            if not keyframes or step - keyframes[-1] >= spec.min_gap:
                keyframes.append(step)
    return keyframes


def _rests(smooth: np.ndarray, peak: float, spec: LabelsSpec) -> list[int]:
    """Steps at which the arm has just come to rest."""
    rests, moving = [], False
    for step, speed in enumerate(smooth.tolist()):
        if peak > 0.0 and speed >= spec.rearm_speed * peak:
            moving = True
        elif moving and speed <= spec.keyframe_speed * peak:
            rests.append(step)
            moving = False
    return rests


def leading_steps(segmentation: Segmentation, num_steps: int, window: int) -> np.ndarray:
    """(T,) bool: the ``window`` steps that lead to each keyframe."""
    ahead = distance_to_keyframe(segmentation, num_steps)
    return (ahead >= 1) & (ahead <= window)


def distance_to_keyframe(segmentation: Segmentation, num_steps: int) -> np.ndarray:
    """(T,) int64 steps from each step to the next keyframe; 0 where none is left."""
    steps = np.arange(num_steps)
    keyframes = np.array(segmentation.keyframes)
    following = np.searchsorted(keyframes, steps, side="right")
    return np.where(following < len(keyframes), keyframes[np.minimum(following, len(keyframes) - 1)] - steps, 0)
