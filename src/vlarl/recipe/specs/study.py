"""A study: one recipe, changed in several ways, each with several seeds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from vlarl.recipe.specs.base import Fraction, PositiveInt, Section

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class ThresholdSpec(Section):
    """How many env steps a run takes to reach a success rate.

    A run's time is the first mean of `window` evaluations in a row that is at or above the threshold; a run that
    never gets there is censored at its budget.
    """

    window: PositiveInt = Field(3, description="Evaluations in a row whose mean counts.")
    success: Fraction | None = Field(
        None, description="The threshold; null: the mean of the baseline's last `window` evaluations, over its seeds."
    )


class CellSpec(Section):
    """A row of the study's table: what is changed in the recipe."""

    overrides: dict[str, Any] = Field(
        {}, description="Dotted path, as of `--set`, to value, which may be a list or a mapping; over the study's own."
    )
    seeds: list[Seed] | None = Field(
        None, min_length=1, description="Seeds of this cell, where it needs others than the study's."
    )
    paper: float | str | None = Field(
        None, description="The published number for this row, in per cent where it is a number; shown beside ours."
    )
    note: str | None = Field(None, description="A remark for the table.")


class StudySpec(Section):
    """A matrix of recipe overrides x seeds; each cell and seed is one run."""

    name: str = Field("unnamed", description="Name of the study. Absent: the file's name.")
    recipe: str = Field(description="The recipe that all cells begin with, relative to this file.")
    overrides: dict[str, Any] = Field({}, description="Dotted path, as of `--set`, to value: common to all cells.")
    seeds: list[Seed] = Field(min_length=1, description="Seeds of every cell; runs of one seed are paired.")
    baseline: str = Field(description="The cell that the others are compared with.")
    cells: dict[str, CellSpec] = Field(min_length=1, description="Name to cell, in the order of the table.")
    threshold: ThresholdSpec | None = Field(
        None, description="Also compare env steps until a success rate is reached; null: do not."
    )
