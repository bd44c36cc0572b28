"""Suites: what is simulated, how many slots, how it is rendered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator

from vlarl.recipe.specs.base import PartSpec, PositiveInt


class SuiteSpec(PartSpec):
    """What every suite has."""

    unhashed: ClassVar[frozenset[str]] = frozenset({"num_workers", "models_per_worker", "renderer"})
    unhashed_at_default: ClassVar[frozenset[str]] = frozenset({"num_shards"})

    name: str = Field(description="Which set of tasks.")
    num_envs: PositiveInt = Field(32, description="Env slots stepped side by side; part of the recipe's identity.")
    num_shards: PositiveInt = Field(
        1,
        description="Equal shards of the env slots. Each training process runs whole shards, and each minibatch takes "
        "equally many steps from every shard, so that the number of processes changes no result.",
    )
    num_groups: PositiveInt = Field(
        2, description="Fixed groups of a shard's slots: while one group simulates, the policy decides for another."
    )
    num_workers: PositiveInt = Field(
        2, description="Simulator processes of each training process. Changes speed only, never a result."
    )
    models_per_worker: PositiveInt = Field(
        8, description="Compiled tasks a worker keeps, least recently used first out. Changes speed and memory only."
    )
    renderer: Literal["auto", "osmesa", "egl"] = Field(
        "auto",
        description="GL backend, chosen before the simulator is imported. `auto`: OSMesa if installed, else EGL.",
    )

    def slots_of_a_group(self, processes: int = 1) -> int:
        """Slots that are simulated together: the most simulator processes that a training process has work for.

        ``processes``: training processes, each with a shard of its own where the recipe has fewer.
        """
        shard = -(-self.num_envs // max(self.num_shards, processes))
        return -(-shard // min(self.num_groups, shard))

    def known_tasks(self) -> tuple[str, ...] | None:
        """Names of the suite's tasks where they are known without the simulator, else None."""
        return None


# The suite's own module defines the tasks but loads the simulator; a test keeps the names equal.
_TABLETOP_TASKS = {
    "tabletop_basic": ("reach_red", "reach_green", "lift_red", "lift_green", "push_red", "push_green"),
    "tabletop_10": (
        "press_button",
        "open_drawer",
        "lift_red",
        "lift_blue",
        "push_green",
        "plate_red",
        "plate_blue",
        "stack_red_green",
        "drawer_button",
        "plate_red_push_green",
    ),
}


class TabletopSpec(SuiteSpec):
    """The embedded MuJoCo suite: real physics and rendering, small enough for a laptop."""

    target: ClassVar[str] = "vlarl.suites.tabletop.suite:TabletopSuite"

    kind: Literal["tabletop"] = "tabletop"
    name: Literal["tabletop_basic", "tabletop_10"] = Field("tabletop_basic", description="Which set of tasks.")
    tasks: list[str] | None = Field(
        None, description="Task names to use; all of the suite's when absent.", min_length=1
    )
    image_size: Annotated[int, Field(ge=32, le=512, multiple_of=8)] = Field(
        64, description="Side of the square agentview image in pixels."
    )

    def known_tasks(self) -> tuple[str, ...]:
        return _TABLETOP_TASKS[self.name]


# Numbers become names while a recipe is read; editors are told that both may be written.
_NAME_OR_NUMBER = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}
TaskReference = Annotated[str, WithJsonSchema(_NAME_OR_NUMBER)]


class LiberoSpec(SuiteSpec):
    """LIBERO on robosuite 1.4 and MuJoCo 3.1.6: real tasks, official init states for evaluation."""

    target: ClassVar[str] = "vlarl.suites.libero.suite:LiberoSuite"

    kind: Literal["libero"] = "libero"
    name: Literal["libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"] = Field(
        "libero_goal", description="Which set of tasks."
    )
    tasks: list[TaskReference] | None = Field(
        None, description="Tasks to use, by name or by number in the suite; all when absent.", min_length=1
    )
    num_envs: PositiveInt = Field(16, description="Env slots stepped side by side; part of the recipe's identity.")
    models_per_worker: PositiveInt = Field(
        8, description="Compiled tasks a worker keeps, least recently used first out. Changes speed and memory only."
    )
    image_size: Annotated[int, Field(ge=32, le=512, multiple_of=8)] = Field(
        256, description="Side of the square agentview image in pixels."
    )
    init_states: Literal["sampled", "official"] = Field(
        "sampled",
        description="Where training episodes start: placements sampled from each task's own regions, or the 50 "
        "official states that evaluation uses, which marks every result `leaky`.",
    )
    fixtures: Literal["fixed", "official_sequence"] = Field(
        "fixed",
        description="Cabinets, stoves and racks of evaluation episodes: where seed 0 puts them, or where the official "
        "scripts' sequence of resets does, which differs from episode to episode.",
    )
    render_quality: Literal["exact", "fast", "coarse"] = Field(
        "exact",
        description="`exact`: LIBERO's pixels. `fast`: no multisampling and no reflections. `coarse`: besides, meshes "
        "without detail below half a pixel, for small pictures on a CPU.",
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _named(cls, tasks: Any, info: ValidationInfo) -> Any:
        """Numbers become names, so that a resolved recipe says what it runs; unknown ones are told apart later."""
        known = tuple(libero_tasks().get(info.data.get("name", ""), ()))
        if not isinstance(tasks, list):
            return tasks
        return [(known[task] if 0 <= task < len(known) else str(task)) if type(task) is int else task for task in tasks]

    def known_tasks(self) -> tuple[str, ...]:
        return tuple(libero_tasks()[self.name])


@cache
def libero_tasks() -> Mapping[str, Mapping[str, str]]:
    """Instruction of each task by suite and task name, in the benchmark's order; a test compares them with LIBERO's."""
    loaded: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("libero_tasks.json").read_text("utf-8"))
    return loaded
