"""Suites: what is simulated, how many slots, how it is rendered."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vlarl.recipe.specs.base import PartSpec, PositiveInt


class SuiteSpec(PartSpec):
    """What every suite has."""

    num_envs: PositiveInt = Field(32, description="Env slots stepped side by side; part of the recipe's identity.")
    num_groups: PositiveInt = Field(
        2, description="Fixed groups of slots: while one group simulates, the policy decides for another."
    )
    num_workers: PositiveInt = Field(
        2, description="Simulator processes. Changes speed only, never a result; not hashed."
    )
    models_per_worker: PositiveInt = Field(
        8, description="Compiled tasks a worker keeps, least recently used first out. Changes speed and memory only; not hashed."
    )
    renderer: Literal["auto", "osmesa", "egl"] = Field(
        "auto", description="GL backend, chosen before the simulator is imported. `auto` takes OSMesa where it is installed, else EGL."
    )


class TabletopSpec(SuiteSpec):
    """The embedded MuJoCo suite: real physics and rendering, small enough for a laptop."""

    target: ClassVar[str] = "vlarl.suites.tabletop.suite:TabletopSuite"

    kind: Literal["tabletop"] = "tabletop"
    name: Literal["tabletop_basic", "tabletop_10"] = Field("tabletop_basic", description="Which set of tasks.")
    tasks: list[str] | None = Field(None, description="Task names to use; all of the suite's when absent.", min_length=1)
    image_size: Annotated[int, Field(ge=32, le=512, multiple_of=8)] = Field(
        64, description="Side of the square agentview image in pixels."
    )
