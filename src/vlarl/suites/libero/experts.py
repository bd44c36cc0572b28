"""Scripted experts for LIBERO: which skills solve which task."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from vlarl.errors import UsageError
from vlarl.suites.libero.grasps import Around, Grasp, Rim
from vlarl.suites.libero.sight import Sight
from vlarl.suites.libero.skills import Arm, Skill, pick, put


@dataclass(frozen=True)
class Stage:
    """One part of a task: a skill to run until ``done`` holds."""

    done: Callable[[Sight], bool]
    run: Callable[[Arm], Skill]


Plan = tuple[Stage, ...]

BOWL = Rim(radius=0.052, height=0.035)
_BASKET_HALF = 0.058


def _into_basket(name: str, grasp: Grasp | None = None, *, basket: str = "basket_1") -> Stage:
    body, region = f"{name}_main", f"{basket}_contain_region"

    def done(sight: Sight) -> bool:
        gap = np.abs(sight.position(body) - sight.site(region))
        return bool(gap.max() < _BASKET_HALF)

    def run(arm: Arm) -> Skill:
        sight = arm.sight
        if not (yield from pick(arm, body, grasp or Around())):
            return False
        half = sight.position(body)[2] - sight.boxes(body).corners()[..., 2].min()

        def target() -> np.ndarray:
            return sight.site(region) + np.array((0.0, 0.0, min(half - 0.02, 0.055)))

        return (yield from put(arm, body, target, clearance=0.13, width=0.02, tolerance=0.014, low_speed=0.9))

    return Stage(done, run)


def _onto(name: str, support: str, height: float, *, grasp: Grasp = BOWL, lift: float = 0.06) -> Stage:
    """Put an object's origin ``height`` above the origin of the body or region it shall stand on."""
    body = f"{name}_main"

    def place(sight: Sight) -> np.ndarray:
        return sight.position(support) + np.array((0.0, 0.0, height))

    def done(sight: Sight) -> bool:
        gap = sight.position(body) - place(sight)
        return bool(np.linalg.norm(gap[:2]) < 0.025 and abs(gap[2]) < 0.02 and sight.opening > 0.05)

    def run(arm: Arm) -> Skill:
        if not (yield from pick(arm, body, grasp, lift=lift)):
            return False
        return (yield from put(arm, body, lambda: place(arm.sight)))

    return Stage(done, run)


_OBJECT_NAMES = (
    "alphabet_soup",
    "cream_cheese",
    "salad_dressing",
    "bbq_sauce",
    "ketchup",
    "tomato_sauce",
    "butter",
    "milk",
    "chocolate_pudding",
    "orange_juice",
)

_SPATIAL_NAMES = (
    "between_the_plate_and_the_ramekin",
    "next_to_the_ramekin",
    "from_table_center",
    "on_the_cookie_box",
    "in_the_top_drawer_of_the_wooden_cabinet",
    "on_the_ramekin",
    "next_to_the_cookie_box",
    "on_the_stove",
    "next_to_the_plate",
    "on_the_wooden_cabinet",
)

_PLANS: dict[str, dict[str, Plan]] = {
    "libero_object": {
        f"pick_up_the_{name}_and_place_it_in_the_basket": (_into_basket(f"{name}_1"),) for name in _OBJECT_NAMES
    },
    "libero_spatial": {
        f"pick_up_the_black_bowl_{where}_and_place_it_on_the_plate": (
            _onto("akita_black_bowl_1", "plate_1_main", 0.008, lift=0.10 if "drawer" in where else 0.06),
        )
        for where in _SPATIAL_NAMES
    },
}


def has_expert(suite: str, task_name: str) -> bool:
    """Whether a scripted expert exists for this task (the benchmark's ``task.name``)."""
    return task_name in _PLANS.get(suite, {})


class LiberoExpert:
    """Runs the first unfinished stage of its task; starts it again when it ended without success."""

    def __init__(self, sight: Sight, suite: str, task_name: str) -> None:
        """``suite`` as in "libero_goal"; raises UsageError (U230) for a task without an expert."""
        if not has_expert(suite, task_name):
            known = ", ".join(sorted(_PLANS.get(suite, {}))) or "none"
            raise UsageError(
                f"no scripted expert for task {task_name!r} of {suite}",
                code="U230",
                hint=f"tasks of {suite} with an expert: {known}",
            )
        self._sight = sight
        self._plan = _PLANS[suite][task_name]
        self._actions = self._run()

    def act(self) -> np.ndarray:
        """Next action (7,) float32 in [-1, 1]."""
        return next(self._actions)

    def _run(self) -> Generator[np.ndarray, None, None]:
        arm = Arm(self._sight)
        home = self._sight.hand
        while True:
            stage = next((stage for stage in self._plan if not stage.done(self._sight)), None)
            if stage is None:
                yield arm.action(home - self._sight.hand)
            else:
                yield from stage.run(arm)
