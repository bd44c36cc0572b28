"""The two curves of a stored trajectory, and what is off when there are none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlarl.errors import AssetError
from vlarl.prm.segments import Segmentation, is_constant, segment
from vlarl.recipe.specs.prm import LabelsSpec
from vlarl.types import Trajectory


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What a trajectory of T steps is cut by."""

    gripper: np.ndarray  # (T,) float64, distance between the fingers as stored, metres for LIBERO's robot
    speed: np.ndarray  # (T,) float64, metres a step, of the end effector during each step


def curves_of(trajectory: Trajectory, place: str) -> Curves:
    """AssetError R391 without gripper or position channel, R393 for a trajectory too short to have a speed."""
    signals = trajectory.signals
    states, position = signals.get("gripper_states"), signals.get("ee_pos")
    if position is None and "ee_states" in signals:
        position = signals["ee_states"][..., :3]
    for name, values in (("gripper_states", states), ("ee_pos", position)):
        if values is None:
            raise AssetError(
                f"{place} has no channel `{name}`, which segmentation needs; "
                f"it has {', '.join(sorted(signals)) or 'none'}",
                code="R391",
                place=place,
                hint="record it again with `vlarl collect`, or use LIBERO's own files, which have it",
            )
    assert states is not None
    assert position is not None
    length = len(trajectory.actions)
    if length < 2:
        raise AssetError(
            f"{place} is one step long: nothing moves in it",
            code="R393",
            place=place,
            hint="remove the episode from the file, or record it again",
        )
    for name, values in (("gripper_states", states), ("ee_pos", position)):
        if values.ndim > 2 or values.dtype.kind not in "fiu" or (name == "ee_pos" and values.shape != (length, 3)):
            raise AssetError(
                f"{place} has a channel `{name}` of shape {values.shape} and type {values.dtype}",
                code="R391",
                place=place,
                hint="record it again with `vlarl collect`, or use LIBERO's own files",
            )
    widths = states.reshape(length, -1).astype(np.float64)
    gripper = widths[:, 0] - widths[:, 1] if widths.shape[1] == 2 else widths.mean(axis=1)
    if not (np.isfinite(gripper).all() and np.isfinite(position).all()):
        raise AssetError(
            f"{place} has a gripper or end-effector position that is not a number",
            code="R391",
            place=place,
            hint="remove the episode from the file, or record it again",
        )
    moved = np.linalg.norm(np.diff(position.astype(np.float64), axis=0), axis=1)
    return Curves(gripper=gripper, speed=np.append(moved, moved[-1]))


def cut(curves: Curves, spec: LabelsSpec, place: str) -> Segmentation:
    """AssetError R392 for a constant gripper where ``spec`` refuses it."""
    if spec.constant_gripper == "refuse" and is_constant(curves.gripper, spec):
        spread = float(np.ptp(curves.gripper))
        raise AssetError(
            f"the gripper of {place} never changes: its opening varies by {spread:.2g}, less than "
            f"labels.min_gripper_range ({spec.min_gripper_range:g})",
            code="R392",
            place=place,
            hint="for tasks that need no gripper: --set labels.constant_gripper=one_segment",
        )
    return segment(curves.gripper, curves.speed, spec)


def place_of(path: Path, number: int) -> str:
    return f"{path}, demo {number}"
