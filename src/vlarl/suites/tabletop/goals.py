"""What tasks ask for, as predicates over the positions of things. All lengths in metres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vlarl.suites.tabletop.scenes import (
    BUTTON_TOP,
    BUTTON_TRAVEL,
    CUBE_HALF,
    DRAWER_TRAVEL,
    HANDLE_REACH,
    PLATE_HALF,
    PLATE_TOP,
    ZONE_HALF_WIDTH,
)

REACH_TOLERANCE = 0.025
LIFT_HEIGHT = 0.05
_RESTING = 0.008  # how far from its resting height a cube may be


class World(Protocol):
    """The positions that goals and experts read."""

    def tool(self) -> np.ndarray:
        """(3,) point between the fingertips."""
        ...

    def finger(self) -> float:
        """Half of the clear width between the fingers."""
        ...

    def cube(self, colour: str) -> np.ndarray:
        """(3,) centre of a cube."""
        ...

    def fixture(self, name: str) -> np.ndarray:
        """(3,) place of a fixture: zone, plate, cabinet or button."""
        ...

    def slide(self, name: str) -> float:
        """How far the drawer is out, or the button down."""
        ...


class Goal(Protocol):
    """One thing to bring about."""

    def holds(self, world: World) -> bool: ...

    def distance(self, world: World) -> float:
        """Metres still to go while the goal does not hold: of the tool to what it moves, and of that to its place."""
        ...


@dataclass(frozen=True)
class Reach:
    """The fingertips are at the cube: above it, or around it."""

    cube: str

    def holds(self, world: World) -> bool:
        offset = world.tool() - world.cube(self.cube)
        return bool(np.hypot(offset[0], offset[1]) < REACH_TOLERANCE and offset[2] < CUBE_HALF + REACH_TOLERANCE)

    def distance(self, world: World) -> float:
        return _apart(world.tool(), world.cube(self.cube))


@dataclass(frozen=True)
class Lifted:
    """The cube is clear of the table."""

    cube: str

    def holds(self, world: World) -> bool:
        return bool(world.cube(self.cube)[2] > CUBE_HALF + LIFT_HEIGHT)

    def distance(self, world: World) -> float:
        cube = world.cube(self.cube)
        return _apart(world.tool(), cube) + max(0.0, CUBE_HALF + LIFT_HEIGHT - float(cube[2]))


@dataclass(frozen=True)
class InZone:
    """The cube's centre is inside the marked strip, on the table."""

    cube: str

    def holds(self, world: World) -> bool:
        place = world.cube(self.cube)
        return bool(abs(place[1] - world.fixture("zone")[1]) < ZONE_HALF_WIDTH and place[2] < CUBE_HALF + 0.02)

    def distance(self, world: World) -> float:
        cube = world.cube(self.cube)
        beyond = abs(float(cube[1] - world.fixture("zone")[1])) - ZONE_HALF_WIDTH
        return _apart(world.tool(), cube) + max(0.0, beyond)


@dataclass(frozen=True)
class OnPlate:
    """The cube rests on the plate, let go."""

    cube: str

    def holds(self, world: World) -> bool:
        offset = world.cube(self.cube) - world.fixture("plate")
        inside = max(abs(offset[0]), abs(offset[1])) < PLATE_HALF - 0.005
        return bool(inside and abs(offset[2] - PLATE_TOP - CUBE_HALF) < _RESTING and _released(world, self.cube))

    def distance(self, world: World) -> float:
        place = world.fixture("plate") + np.array((0.0, 0.0, PLATE_TOP + CUBE_HALF))
        return _to_carry(world, self.cube, place)


@dataclass(frozen=True)
class Stacked:
    """One cube rests on another, let go."""

    cube: str
    base: str

    def holds(self, world: World) -> bool:
        base = world.cube(self.base)
        offset = world.cube(self.cube) - base
        supported = np.hypot(offset[0], offset[1]) < CUBE_HALF and abs(offset[2] - 2 * CUBE_HALF) < _RESTING
        return bool(supported and base[2] < CUBE_HALF + _RESTING and _released(world, self.cube))

    def distance(self, world: World) -> float:
        return _to_carry(world, self.cube, world.cube(self.base) + np.array((0.0, 0.0, 2 * CUBE_HALF)))


@dataclass(frozen=True)
class DrawerOpen:
    """The drawer is out by more than two thirds of its way."""

    def holds(self, world: World) -> bool:
        return world.slide("drawer") > DRAWER_TRAVEL * 0.7

    def distance(self, world: World) -> float:
        out = world.slide("drawer")
        handle = world.fixture("cabinet") + np.array((HANDLE_REACH + out, 0.0, 0.026))
        return _apart(world.tool(), handle) + max(0.0, DRAWER_TRAVEL * 0.7 - out)


@dataclass(frozen=True)
class ButtonDown:
    """The button is pressed by more than half of its way."""

    def holds(self, world: World) -> bool:
        return world.slide("button") > BUTTON_TRAVEL * 0.5

    def distance(self, world: World) -> float:
        return _apart(world.tool(), world.fixture("button") + np.array((0.0, 0.0, BUTTON_TOP - BUTTON_TRAVEL)))


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other))


def _to_carry(world: World, cube: str, place: np.ndarray) -> float:
    """To the cube and with it to ``place``; the fingers still have to open when it is there."""
    where = world.cube(cube)
    there = _apart(where, place)
    return there + (_apart(world.tool(), where) if there > CUBE_HALF else 0.0)


def _released(world: World, cube: str) -> bool:
    """The fingers are clear of the cube: open, or elsewhere."""
    away = float(np.linalg.norm(world.tool() - world.cube(cube)))
    return world.finger() > CUBE_HALF + 0.004 or away > 2 * CUBE_HALF
