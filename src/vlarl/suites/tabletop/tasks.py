"""The suites' tasks: scene, instruction, goals in order, horizon."""

from __future__ import annotations

from dataclasses import dataclass

from vlarl.suites.tabletop.goals import ButtonDown, DrawerOpen, Goal, InZone, Lifted, OnPlate, Reach, Stacked
from vlarl.suites.tabletop.scenes import Scene

PAIR = Scene("pair", cubes=("red", "green"), fixtures=("zone",))
PLATE = Scene("plate", cubes=("red", "green", "blue"), fixtures=("zone", "plate"))
CABINET = Scene("cabinet", cubes=("red", "green"), fixtures=("cabinet", "button"))


@dataclass(frozen=True)
class TaskRow:
    """One task. Its goals must all hold at once in the end; the expert sees to them in their order."""

    name: str
    instruction: str
    scene: Scene
    goals: tuple[Goal, ...]
    horizon: int


def _basic() -> tuple[TaskRow, ...]:
    def row(name: str, instruction: str, goal: Goal) -> TaskRow:
        return TaskRow(name, instruction, PAIR, (goal,), 40)

    return (
        row("reach_red", "reach the red cube", Reach("red")),
        row("reach_green", "reach the green cube", Reach("green")),
        row("lift_red", "pick up the red cube", Lifted("red")),
        row("lift_green", "pick up the green cube", Lifted("green")),
        row("push_red", "push the red cube into the purple zone", InZone("red")),
        row("push_green", "push the green cube into the purple zone", InZone("green")),
    )


def _ten() -> tuple[TaskRow, ...]:
    push = "push the green cube into the purple zone"
    plate = "put the {} cube on the plate"
    return (
        TaskRow("press_button", "press the button", CABINET, (ButtonDown(),), 40),
        TaskRow("open_drawer", "open the drawer", CABINET, (DrawerOpen(),), 50),
        TaskRow("lift_red", "pick up the red cube", PLATE, (Lifted("red"),), 40),
        TaskRow("lift_blue", "pick up the blue cube", PLATE, (Lifted("blue"),), 40),
        TaskRow("push_green", push, PLATE, (InZone("green"),), 60),
        TaskRow("plate_red", plate.format("red"), PLATE, (OnPlate("red"),), 60),
        TaskRow("plate_blue", plate.format("blue"), PLATE, (OnPlate("blue"),), 60),
        TaskRow("stack_red_green", "stack the red cube on the green cube", PLATE, (Stacked("red", "green"),), 60),
        TaskRow(
            "drawer_button",
            "open the drawer and then press the button",
            CABINET,
            (DrawerOpen(), ButtonDown()),
            90,
        ),
        TaskRow(
            "plate_red_push_green",
            f"{plate.format('red')} and then {push}",
            PLATE,
            (OnPlate("red"), InZone("green")),
            120,
        ),
    )


SUITES: dict[str, tuple[TaskRow, ...]] = {"tabletop_basic": _basic(), "tabletop_10": _ten()}
