"""Scripted experts for LIBERO: which skills solve which task."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from vlarl.errors import UsageError
from vlarl.suites.libero.fixtures import close_drawer, drag, open_drawer, turn_knob
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
# Along the drawer's wider side. Over the rim itself the outer finger would come down on the drawer's wall: hold nearer
# to the middle and let the closing fingers slide the bowl between them. From 180 on the hand would turn half around.
BOWL_IN_DRAWER = Rim(radius=0.038, height=0.033, angles=(156.0, 150.0, 162.0, -24.0, -30.0))
BOWL_FOR_DRAWER = Rim(radius=0.052, height=0.035, angles=(180.0, 0.0, 170.0, -170.0, 10.0, -10.0))
PLATE = Rim(radius=0.062, height=0.018)
# Away from the handles.
WHITE_MUG = Rim(radius=0.046, height=0.090, angles=(-90.0, -60.0, -120.0, 180.0, 0.0), middle=(0.012, 0.0))
YELLOW_MUG = Rim(radius=0.049, height=0.086, angles=(90.0, 60.0, 120.0, 180.0, 0.0), middle=(-0.018, 0.0))
_STEP_BACK = np.array((0.0, 0.0, 0.01))
_BASKET_HALF = 0.058


def _into_basket(
    name: str, grasp: Grasp | None = None, *, basket: str = "basket_1", dive: float = float("inf")
) -> Stage:
    """``dive``: how near the object the hand stays high, so as not to hook the basket on its way out of it."""
    body, region = f"{name}_main", f"{basket}_contain_region"

    def done(sight: Sight) -> bool:
        gap = np.abs(sight.position(body) - sight.site(region))
        return bool(gap.max() < _BASKET_HALF)

    def run(arm: Arm) -> Skill:
        sight = arm.sight
        if not (yield from pick(arm, body, grasp or Around(), dive=dive)):
            return False
        half = sight.position(body)[2] - sight.boxes(body).corners()[..., 2].min()

        def target() -> np.ndarray:
            goal: np.ndarray = sight.site(region) + np.array((0.0, 0.0, min(half - 0.02, 0.055)))
            return goal

        return (yield from put(arm, body, target, clearance=0.13, width=0.02, tolerance=0.014, low_speed=0.9))

    return Stage(done, run)


def _released(sight: Sight, body: str) -> bool:
    return sight.opening > 0.05 or float(np.linalg.norm(sight.hand - sight.position(body))) > 0.15


def _origin(sight: Sight, place: str) -> np.ndarray:
    return sight.position(place) if place.endswith("_main") else sight.site(place)


def _onto(
    name: str,
    support: str,
    height: float,
    *,
    grasp: Grasp = BOWL,
    lift: float = 0.06,
    aside: tuple[float, float] = (0.0, 0.0),
    slack: float = 0.025,
) -> Stage:
    """Put an object's origin ``height`` above (and ``aside``) the origin of the body or region it shall stand on."""
    body = f"{name}_main"

    def place(sight: Sight) -> np.ndarray:
        goal: np.ndarray = _origin(sight, support) + np.array((*aside, height))
        return goal

    def done(sight: Sight) -> bool:
        gap = sight.position(body) - place(sight)
        return bool(np.linalg.norm(gap[:2]) < slack and abs(gap[2]) < 0.02 and _released(sight, body))

    def run(arm: Arm) -> Skill:
        if not (yield from pick(arm, body, grasp, lift=lift, destination=place(arm.sight))):
            return False
        return (yield from put(arm, body, lambda: place(arm.sight)))

    return Stage(done, run)


def _drawer(cabinet: str, level: str, *, enough: float = -0.142) -> Stage:
    joint = f"{cabinet}_{level}_level"
    return Stage(
        lambda sight: sight.joint(joint) < enough,
        lambda arm: open_drawer(arm, f"{cabinet}_cabinet_{level}", joint),
    )


def _drawer_closed(cabinet: str, level: str) -> Stage:
    joint = f"{cabinet}_{level}_level"
    return Stage(
        lambda sight: sight.joint(joint) > 0.0,
        lambda arm: close_drawer(arm, f"{cabinet}_cabinet_{level}", joint),
    )


def _stove_on(stove: str) -> Stage:
    joint = f"{stove}_button"
    return Stage(lambda sight: sight.joint(joint) > 0.55, lambda arm: turn_knob(arm, f"{stove}_button", joint))


def _dragged(name: str, region: str) -> Stage:
    body = f"{name}_main"

    def done(sight: Sight) -> bool:
        return bool(np.abs(sight.position(body) - sight.site(region))[:2].max() < 0.03)

    return Stage(done, lambda arm: drag(arm, body, PLATE, lambda: arm.sight.site(region)))


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

_BOWL_NAME, _CABINET, _STOVE = "akita_black_bowl_1", "wooden_cabinet_1", "flat_stove_1"
_GOAL_PLANS: dict[str, Plan] = {
    "open_the_middle_drawer_of_the_cabinet": (_drawer(_CABINET, "middle"),),
    "put_the_bowl_on_the_stove": (_onto(_BOWL_NAME, f"{_STOVE}_cook_region", 0.026),),
    "put_the_wine_bottle_on_top_of_the_cabinet": (
        _onto("wine_bottle_1", f"{_CABINET}_top_side", 0.006, grasp=Around(), aside=(0.0, 0.04), slack=0.05),
    ),
    "open_the_top_drawer_and_put_the_bowl_inside": (
        _drawer(_CABINET, "top", enough=-0.11),
        _onto(_BOWL_NAME, f"{_CABINET}_top_region", -0.02, grasp=BOWL_FOR_DRAWER, slack=0.05),
    ),
    "put_the_bowl_on_top_of_the_cabinet": (
        _onto(_BOWL_NAME, f"{_CABINET}_top_side", 0.006, aside=(0.0, 0.03), slack=0.05),
    ),
    "push_the_plate_to_the_front_of_the_stove": (_dragged("plate_1", "main_table_stove_front_region"),),
    "put_the_cream_cheese_in_the_bowl": (_onto("cream_cheese_1", "akita_black_bowl_1_main", 0.03, grasp=Around()),),
    "turn_on_the_stove": (_stove_on(_STOVE),),
    "put_the_bowl_on_the_plate": (_onto(_BOWL_NAME, "plate_1_main", 0.008),),
    "put_the_wine_bottle_on_the_rack": (
        _onto("wine_bottle_1", "wine_rack_1_top_region", 0.01, grasp=Around(), slack=0.02),
    ),
}

_COOK = "flat_stove_1_cook_region"
_LONG_PLANS: dict[str, Plan] = {
    "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket": (
        _into_basket("alphabet_soup_1"),
        _into_basket("tomato_sauce_1"),
    ),
    "LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket": (
        _into_basket("butter_1"),
        _into_basket("cream_cheese_1", Around(shift=(0.03, 0.0)), dive=0.08),  # off the middle: clear of the milk
    ),
    "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it": (
        _stove_on(_STOVE),
        _onto("moka_pot_1", _COOK, 0.095, grasp=Around(), slack=0.05),
    ),
    "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it": (
        _onto(_BOWL_NAME, "white_cabinet_1_bottom_region", -0.02, grasp=BOWL_FOR_DRAWER, slack=0.05),
        _drawer_closed("white_cabinet_1", "bottom"),
    ),
    "LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate": (
        _onto("porcelain_mug_1", "plate_1_main", 0.008, grasp=WHITE_MUG),
        _onto("white_yellow_mug_1", "plate_2_main", 0.008, grasp=YELLOW_MUG),
    ),
    "LIVING_ROOM_SCENE6_put_the_white_mug_on_the_plate_and_put_the_chocolate_pudding_to_the_right_of_the_plate": (
        _onto("porcelain_mug_1", "plate_1_main", 0.008, grasp=WHITE_MUG),
        _onto("chocolate_pudding_1", "living_room_table_plate_right_region", 0.045, grasp=Around()),
    ),
    "LIVING_ROOM_SCENE1_put_both_the_alphabet_soup_and_the_cream_cheese_box_in_the_basket": (
        _into_basket("alphabet_soup_1"),
        _into_basket("cream_cheese_1", dive=0.12),
    ),
    "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove": (
        _onto("moka_pot_2", _COOK, 0.095, grasp=Around(), aside=(0.042, 0.0), slack=0.03),
        _onto("moka_pot_1", _COOK, 0.095, grasp=Around(), aside=(-0.042, 0.0), slack=0.03),
        _stove_on(_STOVE),
    ),
}

_PLANS: dict[str, dict[str, Plan]] = {
    "libero_object": {
        f"pick_up_the_{name}_and_place_it_in_the_basket": (_into_basket(f"{name}_1"),) for name in _OBJECT_NAMES
    },
    "libero_spatial": {
        f"pick_up_the_black_bowl_{where}_and_place_it_on_the_plate": (
            _onto(
                "akita_black_bowl_1",
                "plate_1_main",
                0.008,
                grasp=BOWL_IN_DRAWER if "drawer" in where else BOWL,
                lift=0.10 if "drawer" in where else 0.06,
            ),
        )
        for where in _SPATIAL_NAMES
    },
    "libero_goal": _GOAL_PLANS,
    "libero_10": _LONG_PLANS,
}


def has_expert(suite: str, task_name: str) -> bool:
    """Whether a scripted expert exists for this task (the benchmark's ``task.name``)."""
    return task_name in _PLANS.get(suite, {})


def tasks_with_expert(suite: str) -> tuple[str, ...]:
    """Names of the tasks of ``suite`` that have a scripted expert."""
    return tuple(_PLANS.get(suite, {}))


class LiberoExpert:
    """Runs the first unfinished stage of its task; starts it again when it ended without success."""

    def __init__(self, sight: Sight, suite: str, task_name: str) -> None:
        """``suite`` as in "libero_goal"; raises UsageError (U230) for a task without an expert."""
        if not has_expert(suite, task_name):
            known = ", ".join(tasks_with_expert(suite)) or "none"
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
                yield arm.action(_STEP_BACK)  # so that a skill that gives up at once cannot go on for ever
