"""Where to take hold of an object from above. Lengths in metres, angles in radians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vlarl.suites.libero.sight import Boxes, Sight

_USUAL_AXIS = math.pi / 2  # the fingers open along the world's y at the start of every episode
_WIDEST = 0.070
_PALM_HEIGHT = 0.026  # from the point between the finger tips up to the palm
_TIP_REACH = 0.008  # from that point down to the lowest point of a finger
_TURN_COST = 0.012  # metres of width that a quarter turn of the hand is worth
_EASY_REACH = 0.72
_CROWDED = 0.010  # wished distance between the open fingers and other things


def facing_down(axis: float) -> np.ndarray:
    """(3, 3) hand rotation: palm down, fingers opening along the horizontal direction ``axis``."""
    along = np.array((math.cos(axis), math.sin(axis), 0.0))
    down = np.array((0.0, 0.0, -1.0))
    return np.stack((along, np.cross(down, along), down), axis=1)


@dataclass(frozen=True)
class Hold:
    """A hand pose relative to a body's origin: offset (3,) in world directions and rotation (3, 3)."""

    offset: np.ndarray
    rotation: np.ndarray


class Grasp(Protocol):
    """How to hold one kind of object."""

    def hold(self, sight: Sight, body: str, attempt: int, destination: np.ndarray | None = None) -> Hold:
        """The hold for attempt 0, 1, ...; ``destination`` (3,) is where the body's origin shall go."""
        ...


def _crowding(around: Boxes, point: np.ndarray, axis: float) -> float:
    """How far the open hand at ``point`` comes too close to other things; 0 when it is free."""
    rotation = facing_down(axis)
    outline = ((0.040, 0.010), (0.054, 0.010), (0.066, -0.020), (0.042, -0.020))  # of one open finger
    fingers = [(side * x, y, z) for side in (-1, 1) for x, z in outline for y in (-0.01, 0.01)]
    palm = [(x, y, -_PALM_HEIGHT - 0.004) for x in (-0.1, -0.05, 0.0, 0.05, 0.1) for y in (-0.03, 0.03)]
    points = point + np.array(fingers + palm) @ rotation.T
    return max(0.0, _CROWDED - around.distance(points))


def _overreach(sight: Sight, point: np.ndarray) -> float:
    """How far ``point`` is beyond what the arm reaches with ease while the hand points down."""
    return max(0.0, float(np.linalg.norm((point - sight.base)[:2])) - _EASY_REACH)


def _turn(axis: float) -> float:
    """Angle (0 .. pi/2) between the finger axis and its usual direction."""
    return abs((axis - _USUAL_AXIS + math.pi / 2) % math.pi - math.pi / 2)


@dataclass(frozen=True)
class Around:
    """Fingers on both sides of the whole object, across its narrowest direction at the height of the fingers.

    ``depth``: how far below the object's top the finger tips go. ``shift`` (2,): moves the hold off the middle.
    """

    depth: float = 0.020
    axis: float | None = None  # a fixed finger direction instead of the narrowest
    shift: tuple[float, float] = (0.0, 0.0)

    def hold(self, sight: Sight, body: str, attempt: int, destination: np.ndarray | None = None) -> Hold:
        """The cheapest hold; later attempts go a little deeper."""
        corners = sight.boxes(body).corners()
        top, bottom = corners[..., 2].max(), corners[..., 2].min()
        height = max(top - self.depth - 0.004 * attempt, bottom + _TIP_REACH + 0.003)
        height = max(height, top - _PALM_HEIGHT + 0.001)
        crossing = (corners[..., 2].min(axis=1) < height + 0.004) & (corners[..., 2].max(axis=1) > height - 0.01)
        outline = corners[crossing if crossing.any() else slice(None)].reshape(-1, 3)[:, :2]
        around = sight.boxes_around(body)
        axes = [self.axis] if self.axis is not None else [math.radians(15 * k) for k in range(12)]
        best = min((self._judge(outline, height, axis, around) for axis in axes), key=lambda judged: judged[0])
        point = best[1] + np.array((*self.shift, 0.0))
        return Hold(point - sight.position(body), facing_down(best[2]))

    @staticmethod
    def _judge(outline: np.ndarray, height: float, axis: float, around: Boxes) -> tuple[float, np.ndarray, float]:
        along = np.array((math.cos(axis), math.sin(axis)))
        across = np.array((-along[1], along[0]))
        low, high = (outline @ along).min(), (outline @ along).max()
        left, right = (outline @ across).min(), (outline @ across).max()
        middle = along * (low + high) / 2 + across * (left + right) / 2
        point = np.array((middle[0], middle[1], height))
        cost = (high - low) + _TURN_COST * _turn(axis) + 5.0 * _crowding(around, point, axis)
        return cost + 10.0 * max(0.0, high - low - _WIDEST), point, axis


@dataclass(frozen=True)
class Rim:
    """One finger inside, one outside the wall of a bowl or mug.

    ``radius`` and ``height`` of the hold are relative to the body's origin; ``angles`` are the world directions
    (degrees) from the middle to the candidates, dearest last; all are tried in turn when a hold fails.
    """

    radius: float
    height: float
    angles: tuple[float, ...] = (90.0, 120.0, 60.0, -90.0, -120.0, -60.0, 150.0, 30.0, 0.0, 180.0)
    middle: tuple[float, float] = (0.0, 0.0)  # of the rim, in the body's own frame

    def hold(self, sight: Sight, body: str, attempt: int, destination: np.ndarray | None = None) -> Hold:
        """The freest hold in the order of ``angles``; later attempts skip the ones tried before."""
        around = sight.boxes_around(body)
        origin = sight.position(body)
        middle = (sight.rotation(body) @ np.array((*self.middle, 0.0))) * (1.0, 1.0, 0.0)
        holds = []
        for rank, degrees in enumerate(self.angles):
            angle = math.radians(degrees)
            offset = middle + np.array(
                (self.radius * math.cos(angle), self.radius * math.sin(angle), self.height - 0.003 * attempt)
            )
            far = max(_overreach(sight, place + offset) for place in (origin, destination) if place is not None)
            tight = max(_crowding(around, p + offset, angle) for p in (origin, destination) if p is not None)
            cost = far + 0.001 * rank + _TURN_COST * _turn(angle) + 5.0 * tight
            holds.append((cost, rank, Hold(offset, facing_down(angle % math.pi))))
        holds.sort(key=lambda judged: judged[:2])
        return holds[(attempt // 2) % len(holds)][2]
