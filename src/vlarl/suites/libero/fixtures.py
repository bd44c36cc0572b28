"""Skills that move parts of fixtures: drawers, knobs, doors, and plates that are dragged. Lengths in metres."""

from __future__ import annotations

import math

import numpy as np

from vlarl.suites.libero.grasps import Grasp, facing_down
from vlarl.suites.libero.sight import Sight
from vlarl.suites.libero.skills import CLOSE, OPEN, Arm, Point, Skill, close, release, rise

_UP = np.array((0.0, 0.0, 1.0))


def facing(direction: np.ndarray) -> np.ndarray:
    """(3, 3) hand rotation: the hand points along the horizontal ``direction``, one finger above the other."""
    along = -_UP
    return np.stack((along, np.cross(direction, along), direction), axis=1)


def _handle(sight: Sight, body: str, outward: np.ndarray) -> np.ndarray:
    """(3,) middle of the box of ``body`` that stands out farthest."""
    centres = sight.boxes(body).centres
    return np.array(centres[int(np.argmax(centres @ outward))])


def open_drawer(arm: Arm, body: str, joint: str, *, until: float = -0.15) -> Skill:
    """Take the drawer's bar with a level hand, pull, let go and back off."""
    sight = arm.sight
    outward = -sight.axis(joint)
    arm.grip, arm.rotation = OPEN, facing(-outward)

    def before(gap: float, height: float = 0.0) -> Point:
        return lambda: _handle(sight, body, outward) + gap * outward + height * _UP

    yield from arm.reach(before(0.12, 0.05), tolerance=0.05, limit=60)
    yield from arm.reach(before(0.09), tolerance=0.012, limit=40)
    # The fingers may touch the bars above and below before they are all the way in: grip then, and see.
    yield from arm.reach(before(0.003), tolerance=0.009, speed=0.7, limit=28)
    arm.grip = CLOSE
    for _ in range(7):
        yield arm.action(before(-0.002)() - sight.hand)
    for _ in range(60):
        if sight.joint(joint) < until:
            break
        if np.linalg.norm(_handle(sight, body, outward) - sight.hand) > 0.04:
            break
        yield arm.action(_handle(sight, body, outward) + 0.06 * outward - sight.hand)
    arm.grip = OPEN
    hand = sight.hand
    for step in range(6):
        yield arm.action(hand + 0.002 * step * outward - sight.hand)
    yield from arm.reach(before(0.08), tolerance=0.03, limit=20)
    return sight.joint(joint) < until + 0.01


def turn_knob(arm: Arm, body: str, joint: str, *, until: float = 0.9) -> Skill:
    """Take the knob's bar from above and turn it with the wrist."""
    sight = arm.sight
    start = sight.joint(joint)
    arm.grip = OPEN
    arm.rotation = facing_down(math.pi / 2 + start)

    def hold() -> np.ndarray:
        top = sight.boxes(body).corners()[..., 2].max()
        return np.array((*sight.position(body)[:2], top - 0.018))

    if not (yield from arm.descend(hold, clearance=0.07, tolerance=0.008)):
        yield from rise(arm, 0.05)
        return False
    yield from close(arm)
    height = sight.hand[2]
    for _ in range(40):
        angle = sight.joint(joint)
        if angle > until:
            break
        arm.rotation = facing_down(math.pi / 2 + min(angle + 0.5, until + 0.2))
        yield arm.action(np.array((*sight.position(body)[:2], height)) - sight.hand)
    yield from release(arm)
    return sight.joint(joint) > until


def drag(arm: Arm, body: str, grasp: Grasp, target: Point) -> Skill:
    """Take ``body`` by its rim and slide it over the table until its origin is at ``target``."""
    sight = arm.sight
    hold = grasp.hold(sight, body, 0, target())
    arm.grip, arm.rotation = OPEN, hold.rotation
    yield from arm.descend(lambda: sight.position(body) + hold.offset, clearance=0.06, tolerance=0.01)
    arm.grip = CLOSE
    pressed = hold.offset - 0.012 * _UP  # a low rim slips out of fingers that do not press on the table
    for _ in range(7):
        yield arm.action(sight.position(body) + pressed - sight.hand)
    for _ in range(90):
        gap = target() - sight.position(body)
        if np.linalg.norm(gap[:2]) < 0.01 or np.linalg.norm((sight.hand - sight.position(body))[:2]) > 0.1:
            break
        yield arm.action(np.array((gap[0], gap[1], sight.position(body)[2] + pressed[2] - sight.hand[2])), 0.7)
    yield from release(arm)
    return True


def close_drawer(arm: Arm, body: str, joint: str, *, until: float = 0.002) -> Skill:
    """Push the drawer's bar with the closed fingers, the hand leaning back so that it stays clear of what is above."""
    sight = arm.sight
    outward = -sight.axis(joint)
    side = np.cross(_UP, outward)
    down = (-outward - _UP) / math.sqrt(2.0)
    side *= np.sign(side @ sight.hand_rotation[:, 0]) or 1.0
    arm.grip, arm.rotation = CLOSE, np.stack((side, np.cross(down, side), down), axis=1)

    def before(gap: float, height: float) -> Point:
        return lambda: _handle(sight, body, outward) + gap * outward + height * _UP

    yield from arm.reach(before(0.08, 0.12), tolerance=0.06, limit=50)
    yield from arm.reach(before(0.05, 0.005), tolerance=0.02, limit=40)
    for _ in range(60):
        if sight.joint(joint) > until:
            break
        yield arm.action(before(-0.03, 0.005)() - sight.hand, 0.8)
    yield from arm.reach(before(0.06, 0.05), tolerance=0.03, limit=15)
    return sight.joint(joint) > 0.0
