"""Scripted experts: the next action as a function of the present state alone, so that they recover from any push.

Every skill heads for a point through a funnel: high above the table while far from it, lower as it comes
near. No skill waits: the gripper's phases overlap with motion. Lengths in metres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vlarl.suites.tabletop.goals import ButtonDown, DrawerOpen, Goal, InZone, Lifted, OnPlate, Reach, Stacked, World
from vlarl.suites.tabletop.scenes import (
    BUTTON_TOP,
    CUBE_HALF,
    FINGER_OPEN,
    HANDLE_GAP,
    HANDLE_REACH,
    PLATE_TOP,
    STEP_REACH,
)
from vlarl.suites.tabletop.simulation import TabletopSimulation

OPEN, CLOSE = -1.0, 1.0
_TRAVEL_HEIGHT = 0.10  # the tool point passes over a cube with another in its fingers
_GRASP_HEIGHT = 0.018
_NEAR = 0.012
# Approach at half the distance a step. An expert that jumps onto its target labels most steps with exactly -1, 0
# or 1; clones learn those modes, and greedy decoding then never takes the fine steps in between.
_GAIN = 0.5

Move = tuple[np.ndarray, float]  # wanted motion (3,), gripper command


class TabletopExpert:
    """Does the first goal that does not hold yet."""

    def __init__(self, simulation: TabletopSimulation) -> None:
        self._simulation = simulation

    def act(self) -> np.ndarray:
        """Next action (7,) float32."""
        goals = self._simulation.row.goals
        goal = goals[min(self._simulation.reached(), len(goals) - 1)]
        motion, grip = _SKILLS[type(goal)](self._simulation, goal)
        action = np.zeros(7, dtype=np.float32)
        action[:3] = np.clip(motion / STEP_REACH, -1.0, 1.0)
        action[6] = grip
        return action


def _above(point: np.ndarray, height: float) -> np.ndarray:
    return point + np.array((0.0, 0.0, height))


def _funnel(tool: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Motion towards ``target`` from above: sideways only while high enough, down only while near."""
    motion = target - tool
    far = max(abs(motion[0]), abs(motion[1]))
    height = max(target[2], min(_TRAVEL_HEIGHT, target[2] + 2.0 * max(0.0, far - _NEAR)))
    motion[2] = height - tool[2]
    motion[:2] *= np.clip((0.03 - motion[2]) / 0.02, 0.0, 1.0)
    return _GAIN * motion


def _gripped(world: World, cube: np.ndarray) -> bool:
    offset = np.abs(cube - world.tool())
    return bool(offset[0] < 0.025 and offset[1] < 0.012 and offset[2] < 0.025 and world.finger() < CUBE_HALF + 0.004)


def _around(world: World, cube: np.ndarray) -> bool:
    """The open fingers have the cube between them; looser once they close, so that they do not let go again."""
    offset = cube - world.tool()
    slack = 0.008 if world.finger() < 0.8 * FINGER_OPEN else 0.0
    return bool(np.abs(offset[:2]).max() < _NEAR + slack and -offset[2] < 0.008 + slack)


def _grasp(world: World, cube: np.ndarray) -> Move:
    motion = _funnel(world.tool(), np.array((cube[0], cube[1], cube[2] - CUBE_HALF + _GRASP_HEIGHT)))
    if _around(world, cube):
        motion[2] = 0.004
        return motion, CLOSE
    return motion, OPEN


def _put(world: World, cube: np.ndarray, support: np.ndarray) -> Move:
    """Bring the cube onto ``support`` (3,), the middle of the face it shall rest on."""
    if not _gripped(world, cube):
        return _grasp(world, cube)
    tool = world.tool()
    target = _above(support, CUBE_HALF) + (tool - cube)
    motion = _funnel(tool, target)
    arrived = np.abs(target - tool)[:2].max() < 0.01 and tool[2] - target[2] < 0.005
    return motion, OPEN if arrived else CLOSE


def _reach(world: World, goal: Reach) -> Move:
    return _funnel(world.tool(), _above(world.cube(goal.cube), 0.02)), OPEN


def _lift(world: World, goal: Lifted) -> Move:
    cube = world.cube(goal.cube)
    if _gripped(world, cube):
        return np.array((0.0, 0.0, STEP_REACH)), CLOSE
    return _grasp(world, cube)


def _place(world: World, goal: OnPlate) -> Move:
    return _put(world, world.cube(goal.cube), _above(world.fixture("plate"), PLATE_TOP))


def _stack(world: World, goal: Stacked) -> Move:
    return _put(world, world.cube(goal.cube), _above(world.cube(goal.base), CUBE_HALF))


def _push(world: World, goal: InZone) -> Move:
    """Push along y with the closed fingers, from the side away from the zone."""
    tool, cube = world.tool(), world.cube(goal.cube)
    side = 1.0 if world.fixture("zone")[1] > cube[1] else -1.0
    behind = side * (cube[1] - tool[1])
    in_lane = CUBE_HALF + 0.004 < behind < CUBE_HALF + 0.04 and abs(cube[0] - tool[0]) < 0.014
    if in_lane and tool[2] < CUBE_HALF + 0.012:
        return np.array((cube[0] - tool[0], side * 0.8 * STEP_REACH, _GRASP_HEIGHT - tool[2])), CLOSE
    start = np.array((cube[0], cube[1] - side * (CUBE_HALF + 0.03), _GRASP_HEIGHT))
    motion = _funnel(tool, start)
    # Fingers that just let go of a cube close only when above it.
    still_around = world.finger() > CUBE_HALF and motion[2] > 0.02
    return motion, OPEN if still_around else CLOSE


def _press(world: World, goal: ButtonDown) -> Move:
    return _funnel(world.tool(), _above(world.fixture("button"), BUTTON_TOP - 0.01)), CLOSE


def _open_drawer(world: World, goal: DrawerOpen) -> Move:
    """Hook the closed fingers behind the handle's bar and pull."""
    tool = world.tool()
    gap = _above(world.fixture("cabinet"), _GRASP_HEIGHT + 0.004)
    gap[0] += HANDLE_REACH + world.slide("drawer") - HANDLE_GAP
    offset = gap - tool
    if abs(offset[1]) < 0.03 and abs(offset[0]) < 0.02 and tool[2] < gap[2] + 0.008:
        return np.array((0.8 * STEP_REACH, offset[1], offset[2])), CLOSE
    return _funnel(tool, gap), CLOSE


_SKILLS: dict[type[Goal], Callable[[World, Any], Move]] = {
    Reach: _reach,
    Lifted: _lift,
    OnPlate: _place,
    Stacked: _stack,
    InZone: _push,
    ButtonDown: _press,
    DrawerOpen: _open_drawer,
}
