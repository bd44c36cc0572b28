"""Small demonstration files whose cuts are known, for the tests of labels and reward models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vlarl.suites.demonstrations import DemonstrationWriter
from vlarl.types import Task, Trajectory

SIDE = 32
LENGTH = 24
COLOURS = {"pick up the red cube": 0, "pick up the green cube": 1}


def picture(step: int, channel: int) -> np.ndarray:
    """(SIDE, SIDE, 3): a square of the task's colour that comes to the right as the step grows."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[10:20, step : step + 6, channel] = 255
    return image


def trajectory(instruction: str = "pick up the red cube", *, success: bool = True, **fields: Any) -> Trajectory:
    """24 steps: 10 to the thing, 4 of rest while the gripper closes, 10 away with it."""
    moved = np.array([1.0] * 10 + [0.0] * 4 + [1.0] * 10) if success else np.full(LENGTH, 0.5)
    place = np.concatenate([[0.0], np.cumsum(moved[:-1])]) * 0.01
    finger = np.where(np.arange(LENGTH) < 12, 0.04, 0.02)
    values: dict[str, Any] = {
        "instruction": instruction,
        "images": np.stack([picture(step if success else 0, COLOURS[instruction]) for step in range(LENGTH)]),
        "actions": np.zeros((LENGTH, 7), np.float32),
        "executed": np.zeros((LENGTH, 7), np.float32),
        "signals": {
            "ee_pos": np.stack([place, np.zeros(LENGTH), np.zeros(LENGTH)], axis=1),
            "gripper_states": np.stack([finger, -finger], axis=1),
        },
        "spec": None,
        "success": success,
    }
    return Trajectory(**{**values, **fields})


def write(path: Path, *trajectories: Trajectory) -> Path:
    instruction = trajectories[0].instruction
    task = Task(suite="tabletop_basic", index=0, name=path.stem, instruction=instruction, horizon=40)
    writer = DemonstrationWriter(
        path,
        task,
        suite={"kind": "tabletop", "name": "tabletop_basic"},
        control_hz=20.0,
        image_size=trajectories[0].images.shape[1],
    )
    for each in trajectories:
        writer.add(each)
    writer.commit()
    return path


def two_tasks(folder: Path, *, successes: int = 4, failures: int = 2) -> Path:
    """A folder with one file a task."""
    for instruction in COLOURS:
        episodes = [trajectory(instruction) for _ in range(successes)]
        episodes += [trajectory(instruction, success=False) for _ in range(failures)]
        write(folder / f"{instruction.replace(' ', '_')}_demo.hdf5", *episodes)
    return folder
