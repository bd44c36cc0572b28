"""Init states: where things stand when an episode begins, as a pure function of suite, task, split and number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vlarl import seeding
from vlarl.suites.tabletop.goals import InZone
from vlarl.suites.tabletop.scenes import CUBE_HALF, GRIPPER_HOME
from vlarl.suites.tabletop.tasks import TaskRow
from vlarl.types import Split

NUM_INITS: Mapping[Split, int] = {"train": 10_000, "eval": 1_000, "sampled": 1_000}

_CLEARANCE = 0.105  # between centres, so that the open gripper fits around one thing alone
_ARM_SPREAD = 0.02
_NUM_CANDIDATES = 64


@dataclass(frozen=True)
class Placement:
    """Planar places (x, y) of cubes and fixtures in metres, and the cubes' turn about the vertical in radians."""

    cubes: Mapping[str, tuple[float, float]]
    turns: Mapping[str, float]
    fixtures: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class _Layout:
    """Where the things of a scene may stand when its big fixture is on the right; mirrored when on the left."""

    big: str  # the fixture at the side
    big_low: tuple[float, float]
    big_high: tuple[float, float]
    low: tuple[float, float]  # of everything else
    high: tuple[float, float]
    changes_side: bool
    turn: float  # cubes are turned by up to this much


_LAYOUTS = {
    "pair": _Layout("zone", (0.0, 0.165), (0.0, 0.165), (-0.11, -0.16), (0.11, 0.07), False, 0.0),
    "plate": _Layout("zone", (0.0, 0.165), (0.0, 0.165), (-0.12, -0.155), (0.12, 0.07), True, 0.3),
    "cabinet": _Layout("cabinet", (-0.13, 0.1), (-0.12, 0.13), (-0.11, -0.17), (0.12, 0.0), True, 0.3),
}


def place(suite: str, row: TaskRow, split: Split, init: int) -> Placement:
    """Init state ``init`` of a task; the two splits draw from different seeds."""
    assert 0 <= init < NUM_INITS[split], f"init {init} of split {split}"
    rng = seeding.generator(0, "tabletop-init", suite, row.name, split, init)
    layout = _LAYOUTS[row.scene.name]
    small = tuple(name for name in row.scene.fixtures if name != layout.big)
    names = row.scene.cubes + small
    while True:
        candidates = rng.uniform(layout.low, layout.high, size=(_NUM_CANDIDATES, len(names), 2))
        fits = _spaced(candidates) & _lane_is_free(row, names, candidates)
        if fits.any():
            places = candidates[int(fits.argmax())]
            break
    side = -1.0 if layout.changes_side and rng.random() < 0.5 else 1.0
    big = rng.uniform(layout.big_low, layout.big_high)
    turns = rng.uniform(-layout.turn, layout.turn, size=len(row.scene.cubes))
    planar = {name: (float(x), float(side * y)) for name, (x, y) in zip(names, places, strict=True)}
    return Placement(
        cubes={colour: planar[colour] for colour in row.scene.cubes},
        turns={colour: float(turn) for colour, turn in zip(row.scene.cubes, turns, strict=True)},
        fixtures={layout.big: (float(big[0]), float(side * big[1])), **{name: planar[name] for name in small}},
    )


def arm_start(fixture_seed: int) -> np.ndarray:
    """(3,) tool point at the start of an episode."""
    rng = seeding.generator(fixture_seed, "tabletop-arm")
    return np.asarray(GRIPPER_HOME) + rng.uniform(-_ARM_SPREAD, _ARM_SPREAD, size=3)


def _spaced(places: np.ndarray) -> np.ndarray:
    """(C,) which of C candidates (C, things, 2) keep all things apart."""
    gaps = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
    first, second = np.triu_indices(places.shape[1], 1)
    return np.asarray((gaps[:, first, second] > _CLEARANCE).all(axis=1))


def _lane_is_free(row: TaskRow, names: tuple[str, ...], places: np.ndarray) -> np.ndarray:
    """(C,) in which of C candidates nothing stands between a cube to be pushed and the zone."""
    free = np.ones(len(places), dtype=bool)
    for goal in row.goals:
        if isinstance(goal, InZone):
            own = places[:, names.index(goal.cube)]
            for k, name in enumerate(names):
                # A cube in the way is pushed along; the plate stands fast.
                width = 2.5 * CUBE_HALF if name in row.scene.cubes else 4.3 * CUBE_HALF
                in_lane = (np.abs(places[:, k, 0] - own[:, 0]) < width) & (places[:, k, 1] > own[:, 1])
                free &= ~in_lane
    return free
