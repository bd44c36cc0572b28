"""What a page of several runs shows: those of a study, or some that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlarl.recipe.specs.study import StudySpec
from vlarl.results_study import RESULTS, RunResult, read_results, runs_of
from vlarl.results_study_table import Table, make_table


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Rows of a table, which are cells of a study or groups of runs that differ in their seed alone, and their runs."""

    kind: str  # "study" or "comparison"
    name: str
    cells: tuple[str, ...]
    baseline: str
    table: Table
    runs: tuple[RunResult, ...]  # those of state "done" count
    states: Mapping[str, str] = field(default_factory=dict)  # place of a run -> its state, where it is another one
    num_wanted: int
    missing: int = 0  # runs that have not begun
    shared: tuple[str, ...] = ()  # values of the recipe that all cells change alike
    changes: Mapping[str, tuple[str, ...]]  # cell -> those that it changes beside
    sources: tuple[tuple[str, str], ...]  # (name, text) for the provenance
    folder: Path  # that the places of runs are relative to

    @property
    def num_done(self) -> int:
        return sum(self.state(run) == "done" for run in self.runs)

    def state(self, run: RunResult) -> str:
        return self.states.get(run.run, run.state)

    def counted(self, cell: str) -> list[RunResult]:
        """Runs of a cell whose last evaluation is in the table."""
        return [run for run in self.runs if run.cell == cell and run.state == "done"]


def is_study(folder: Path) -> bool:
    return (folder / RESULTS).is_file()


def study_findings(folder: Path) -> Findings:
    """Of the study in ``folder``; AssetError (R360) for damaged results."""
    document = read_results(folder / RESULTS)
    runs = runs_of(document)
    begun = {(run.cell, run.seed) for run in runs}
    overrides = {name: tuple(cell["overrides"]) for name, cell in document["cells"].items()}
    shared = _shared(list(overrides.values()))
    wanted = [(name, seed) for name, cell in document["cells"].items() for seed in cell["seeds"]]
    return Findings(
        kind="study",
        name=document["name"],
        cells=tuple(document["cells"]),
        baseline=document["baseline"],
        table=make_table(spec_of(document), runs),
        runs=runs,
        num_wanted=len(wanted),
        missing=sum(each not in begun for each in wanted),
        shared=shared,
        changes={name: tuple(one for one in own if one not in shared) for name, own in overrides.items()},
        sources=(("recipe", document["recipe"]), ("study file", f"sha256 {document['study_sha256']}")),
        folder=folder,
    )


def _shared(overrides: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What all have; nothing where there is one alone."""
    if len(overrides) < 2:
        return ()
    return tuple(one for one in overrides[0] if all(one in other for other in overrides[1:]))


def spec_of(document: Mapping[str, Any]) -> StudySpec:
    """What the results say of the study they belong to."""
    cells = {
        name: {"seeds": list(cell["seeds"]), "paper": cell["paper"], "note": cell["note"]}
        for name, cell in document["cells"].items()
    }
    every = list(dict.fromkeys(seed for cell in cells.values() for seed in cell["seeds"]))
    shared = {name: document[name] for name in ("name", "recipe", "baseline", "threshold")}
    return StudySpec.model_validate({**shared, "seeds": every, "cells": cells})
