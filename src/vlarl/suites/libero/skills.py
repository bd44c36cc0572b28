"""Skills of the scripted LIBERO experts: generators that yield one action a control step.

No skill waits: fingers close while the hand rises a little, and every motion slows down in proportion to the
distance left. A skill that fails ends early; its caller looks at the state and tries again. Lengths in metres.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from vlarl.suites.libero.grasps import Grasp, Hold, facing_down
from vlarl.suites.libero.sight import Sight

OPEN, CLOSE = -1.0, 1.0
_REACH = 0.05  # metres that an action of 1 asks for
_TURN = 0.5  # radians that an action of 1 asks for
_GAIN = 1.0  # more overshoots: the arm lags a step and a half behind what it is told
_CREEP = 0.0015
_SLIPPED = 0.035
_MAX_ATTEMPTS = 8
_PATIENCE = 7  # steps
_NEAR_ENOUGH = 0.02  # to try a grip where the hand got stuck

Skill = Generator[np.ndarray, None, bool]
Point = Callable[[], np.ndarray]


def turn_between(wanted: np.ndarray, present: np.ndarray) -> np.ndarray:
    """(3,) rotation vector, in world directions, that takes ``present`` to ``wanted`` (3, 3 each)."""
    change = wanted @ present.T
    cosine = np.clip((np.trace(change) - 1.0) / 2.0, -1.0, 1.0)
    angle = float(np.arccos(cosine))
    axis = np.array((change[2, 1] - change[1, 2], change[0, 2] - change[2, 0], change[1, 0] - change[0, 1]))
    length = float(np.linalg.norm(axis))
    if length < 1e-6:  # no turn, or half a turn, whose direction does not matter here
        return np.zeros(3) if angle < 1.0 else np.array((0.0, 0.0, angle))
    return axis / length * angle


class _Track:
    """Notices that the hand does not get on."""

    def __init__(self) -> None:
        self._past: list[np.ndarray] = []

    def stuck(self, hand: np.ndarray) -> bool:
        self._past.append(hand)
        recent = self._past[-_PATIENCE:]
        return len(recent) == _PATIENCE and float(np.ptp(np.array(recent), axis=0).max()) < 0.004


class Arm:
    """The hand as a skill drives it: remembers the gripper's command and the rotation to keep."""

    def __init__(self, sight: Sight) -> None:
        self.sight = sight
        self.grip = OPEN
        self.rotation = facing_down(np.pi / 2)

    def action(self, motion: np.ndarray, speed: float = 1.0) -> np.ndarray:
        """(7,) float32 action that heads along ``motion`` (3,), at most ``speed`` of the arm's fastest."""
        push = _GAIN * motion / _REACH
        push /= max(1.0, float(np.abs(push).max()) / speed)
        turn = turn_between(self.rotation, self.sight.hand_rotation) / _TURN
        turn /= max(1.0, float(np.abs(turn).max()))
        return np.concatenate((push, turn, (self.grip,))).astype(np.float32)

    def misturned(self) -> float:
        """Angle between the hand and the rotation it shall keep."""
        return float(np.linalg.norm(turn_between(self.rotation, self.sight.hand_rotation)))

    def reach(self, point: Point, *, tolerance: float = 0.006, speed: float = 1.0, limit: int = 60) -> Skill:
        """Go straight to ``point``; true on arrival, false after ``limit`` steps."""
        for _ in range(limit):
            motion = point() - self.sight.hand
            if np.linalg.norm(motion) < tolerance and self.misturned() < 0.12:
                return True
            yield self.action(motion, speed)
        return False

    def descend(
        self,
        point: Point,
        *,
        clearance: float,
        width: float = 0.06,
        tolerance: float = 0.006,
        low_speed: float = 0.7,
        dive: float = float("inf"),
        limit: int = 110,
        keep: Callable[[], bool] = lambda: True,
    ) -> Skill:
        """Go to ``point`` through a funnel: ``clearance`` above it while far, down over the last ``width``.

        Sideways motion waits until the hand is high enough; it does not sink before it is within ``dive``.
        Ends early, with false, when ``keep`` fails or the hand is stuck.
        """
        track = _Track()
        for _ in range(limit):
            hand = self.sight.hand
            if track.stuck(hand):
                return False
            motion = point() - hand
            if np.linalg.norm(motion) < tolerance and self.misturned() < 0.12:
                return True
            if not keep():
                return False
            aside = float(np.linalg.norm(motion[:2])) + 0.08 * max(0.0, self.misturned() - 0.1)
            height = clearance * float(np.clip((aside - 0.008) / width, 0.0, 1.0))
            below = motion[2] + height
            motion[2] = max(below, 0.0) if aside > dive else below
            motion[:2] *= float(np.clip(1.0 - (below - 0.02) / 0.04, 0.0, 1.0))
            yield self.action(motion, low_speed if aside < 0.02 else 1.0)
        return False


def pick(
    arm: Arm,
    body: str,
    grasp: Grasp,
    *,
    clearance: float = 0.08,
    lift: float = 0.06,
    destination: np.ndarray | None = None,
    dive: float = float("inf"),
) -> Skill:
    """Take hold of ``body`` and lift it; tries again when it slips. ``destination`` (3,): where it goes next."""
    sight = arm.sight
    for attempt in range(_MAX_ATTEMPTS):
        hold = grasp.hold(sight, body, attempt, destination)
        arm.grip, arm.rotation = OPEN, hold.rotation
        at = _hold_point(sight, body, hold)
        arrived = yield from arm.descend(at, clearance=clearance, dive=dive)
        if not arrived and np.linalg.norm(at() - sight.hand) > _NEAR_ENOUGH:
            yield from rise(arm, 0.05)
            continue
        yield from close(arm)
        offset = sight.hand - sight.position(body)
        bottom = sight.hand
        for step in range(30):
            if sight.hand[2] - bottom[2] > lift - 0.01:
                break
            above = np.array((bottom[0], bottom[1], bottom[2] + lift + 0.02))
            yield arm.action(above - sight.hand, min(1.0, 0.4 + 0.15 * step))
        if np.linalg.norm(sight.hand - sight.position(body) - offset) < _SLIPPED:
            return True
    return False


def _hold_point(sight: Sight, body: str, hold: Hold) -> Point:
    return lambda: sight.position(body) + hold.offset


def close(arm: Arm) -> Skill:
    """Close the fingers while the hand creeps upwards, until they no longer move."""
    arm.grip = CLOSE
    start = arm.sight.hand
    before = arm.sight.opening
    for step in range(12):
        yield arm.action(start + np.array((0.0, 0.0, _CREEP * (1 + step / 4))) - arm.sight.hand)
        opening = arm.sight.opening
        if step >= 4 and abs(before - opening) < 0.0006:
            break
        before = opening
    return True


def rise(arm: Arm, height: float) -> Skill:
    """Go straight up, most of ``height``."""
    start = arm.sight.hand
    for _ in range(12):
        if arm.sight.hand[2] > start[2] + 0.8 * height:
            break
        yield arm.action(start + np.array((0.0, 0.0, height + 0.01)) - arm.sight.hand)
    return True


def release(arm: Arm, height: float = 0.10) -> Skill:
    """Open the fingers while creeping upwards, then rise."""
    arm.grip = OPEN
    start, before = arm.sight.hand, arm.sight.opening
    for step in range(6):
        if arm.sight.opening > before + 0.02 or arm.sight.opening > 0.07:
            break
        yield arm.action(start + np.array((0.0, 0.0, _CREEP * (1 + step / 2))) - arm.sight.hand)
    yield from rise(arm, height)
    return True


def put(
    arm: Arm,
    body: str,
    target: Point,
    *,
    clearance: float = 0.10,
    width: float = 0.05,
    tolerance: float = 0.010,
    low_speed: float = 0.6,
    retreat: float = 0.10,
) -> Skill:
    """Carry the held ``body`` until its origin is at ``target``, let go and rise; false when it slips."""
    sight = arm.sight
    offset = sight.hand - sight.position(body)

    def held() -> bool:
        return bool(np.linalg.norm(sight.hand - sight.position(body) - offset) < 1.6 * _SLIPPED)

    for _ in range(3):
        arrived = yield from arm.descend(
            lambda: target() + sight.hand - sight.position(body),
            clearance=clearance,
            width=width,
            tolerance=tolerance,
            low_speed=low_speed,
            dive=0.14,
            limit=140,
            keep=held,
        )
        if not held():
            arm.grip = OPEN
            return False
        if arrived or np.linalg.norm((target() - sight.position(body))[:2]) < 2 * tolerance:
            break
        yield from rise(arm, 0.06)
    yield from release(arm, retreat)
    return True
