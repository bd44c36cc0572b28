"""Runs that are compared with each other: those that differ in their seed alone are one row."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlarl.digest import json_digest
from vlarl.errors import AssetError
from vlarl.recipe.load import load_recipe
from vlarl.recipe.schema import Recipe, hashed_values, leaves
from vlarl.recipe.specs.study import StudySpec
from vlarl.recipe.write import scalar_text
from vlarl.report_findings import Findings
from vlarl.results import Document, comparable, differences, read_document
from vlarl.results_study import RunResult, run_result
from vlarl.results_study_table import Table, make_table
from vlarl.run import manifest
from vlarl.run.folder import RunFolder

_MANY = 3  # values in the name of a row


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A run with its comparable evaluations, by iteration."""

    run: RunFolder
    recipe: Recipe
    status: str
    started: str
    evaluations: tuple[Document, ...]

    @property
    def protocol(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.evaluations[-1]["protocol"]
        return found

    @property
    def group(self) -> str:
        """Equal for runs that differ in their seed alone, or in what changes no result."""
        values = {name: value for name, value in hashed_values(self.recipe).items() if name != "seed"}
        return json_digest({"recipe": values, "protocol": self.protocol})

    def settings(self) -> dict[str, str]:
        """Dotted path -> value, for every value of the recipe; then those of the protocol, of lists their length."""
        values = leaves(self.recipe.model_dump(mode="json", exclude={"name", "seed", "run"}))
        recipe = {path: scalar_text(value) for path, value in values}
        protocol = ((key, len(value) if isinstance(value, list) else value) for key, value in self.protocol.items())
        return recipe | {f"protocol.{key}": str(value) for key, value in protocol}

    def hashed(self) -> set[str]:
        """Paths of values that can change a result."""
        return {path for path, _ in leaves(hashed_values(self.recipe))}


def comparison(runs: Sequence[RunFolder], folder: Path) -> Findings:
    """Of at least one run; the row of the first is the baseline. ``folder``: that the page will be in.

    AssetError (R369) for a run without an evaluation of its policy, RecipeError for one whose recipe is not valid here.
    """
    groups: dict[str, list[_Member]] = {}
    for path in dict.fromkeys(run.path.resolve() for run in runs):
        member = _member(RunFolder(path))
        groups.setdefault(member.group, []).append(member)
    notes: list[str] = []
    rows = dict(zip(_names(list(groups.values())), (_by_seed(own, notes) for own in groups.values()), strict=True))
    members = [(name, member) for name, own in rows.items() for member in own]
    results = tuple(_result(name, member, folder) for name, member in members)
    baseline = next(iter(rows))
    num_runs = len(results)
    return Findings(
        kind="comparison",
        name=f"Comparison of {num_runs} runs" if num_runs > 1 else f"One run of {baseline}",
        cells=tuple(rows),
        baseline=baseline,
        table=_table(rows, results, baseline, notes),
        runs=results,
        states={one.run: member.status for one, (_, member) in zip(results, members, strict=True)},
        num_wanted=num_runs,
        changes={name: tuple(_changes(rows[baseline][0], own[0])) for name, own in rows.items()},
        sources=(("compared with", baseline),),
        folder=folder,
    )


def _member(run: RunFolder) -> _Member:
    described = manifest.read(run)
    documents = [read_document(path) for path in sorted(run.evaluations.glob("*.json"))]
    own, _ = comparable([document for document in documents if document["iteration"] is not None])
    if not own:
        raise AssetError(
            f"run {run.id} has no evaluation of its policy",
            code="R369",
            place=str(run.evaluations),
            hint=f"leave it out, or evaluate it: vlarl eval --suite SUITE --checkpoint {run.path}",
        )
    return _Member(
        run=run,
        recipe=load_recipe(run.resolved_recipe).recipe,
        status=described["status"],
        started=str(described["started"]),
        evaluations=own,
    )


def _by_seed(own: Sequence[_Member], notes: list[str]) -> list[_Member]:
    """One run a seed, the newest."""
    chosen: dict[int, _Member] = {}
    for member in sorted(own, key=lambda each: (each.started, each.run.id)):
        earlier = chosen.get(member.recipe.seed)
        if earlier is not None:
            notes.append(f"{earlier.run.id} and {member.run.id} are of one recipe and seed: the newer one counts")
        chosen[member.recipe.seed] = member
    return [chosen[seed] for seed in sorted(chosen)]


def _names(groups: Sequence[Sequence[_Member]]) -> list[str]:
    """The recipes' names; where these coincide, with the values that differ."""
    firsts = [own[0] for own in groups]
    names: list[str] = []
    for first in firsts:
        alike = [other for other in firsts if other.recipe.name == first.recipe.name]
        settings = first.settings()
        every = [member.settings() for member in alike]
        differing = _differing(alike)
        # What only one kind of a part has says no more than the kind itself.
        differing = [path for path in differing if all(path in one for one in every)] or differing
        shown = ", ".join(f"{path}={settings.get(path, 'absent')}" for path in differing[:_MANY])
        more = ", …" if len(differing) > _MANY else ""
        name = f"{first.recipe.name} ({shown}{more})" if shown else first.recipe.name
        names.append(name if name not in names else f"{name} #{1 + sum(n.startswith(name) for n in names)}")
    return names


def _differing(members: Sequence[_Member]) -> list[str]:
    """Paths whose values the runs do not share: of the recipe, or else of the protocol."""
    every = [member.settings() for member in members]
    hashed = set().union(*(member.hashed() for member in members))
    paths = dict.fromkeys(path for one in every for path in one)
    differing = [path for path in paths if len({one.get(path) for one in every}) > 1]
    return [path for path in differing if path in hashed] or [p for p in differing if p.startswith("protocol.")]


def _changes(base: _Member, own: _Member) -> Iterator[str]:
    settings = own.settings()
    yield from (f"{path}={settings.get(path, 'absent')}" for path in _differing([base, own]))


def _result(name: str, member: _Member, folder: Path) -> RunResult:
    """With state "done", so that an unfinished run counts as well: it was asked for."""
    place = os.path.relpath(member.run.path, folder.resolve())
    return run_result(member.run, member.evaluations, member.recipe, cell=name, state="done", place=place)


def _table(
    rows: Mapping[str, Sequence[_Member]], results: Sequence[RunResult], baseline: str, notes: Sequence[str]
) -> Table:
    seeds = {name: [member.recipe.seed for member in own] for name, own in rows.items()}
    spec = StudySpec.model_validate(
        {
            "name": "comparison",
            "recipe": baseline,
            "seeds": [1],  # of no row: each has its own
            "baseline": baseline,
            "cells": {name: {"seeds": own} for name, own in seeds.items()},
        }
    )
    table = make_table(spec, results)
    own_notes = [note for name in rows if name != baseline for note in _pairing(name, baseline, rows)]
    unfinished = [
        f"{member.run.id} has not finished ({member.status}): what counts is its evaluation after "
        f"{member.evaluations[-1]['iteration']} iterations"
        for own in rows.values()
        for member in own
        if member.status != "done"
    ]
    return replace(table, notes=(*table.notes, *own_notes, *notes, *unfinished))


def _pairing(name: str, baseline: str, rows: Mapping[str, Sequence[_Member]]) -> Iterator[str]:
    """Why a row is not paired with the baseline's."""
    own, base = rows[name], rows[baseline]
    shared = {member.recipe.seed for member in own} & {member.recipe.seed for member in base}
    keys = [key for key, _, _ in differences(base[0].protocol, own[0].protocol)]
    if keys:
        unpaired = "" if shared else ", so they are not paired"  # the table says it of shared seeds
        yield f"the protocols of {name} and {baseline} differ in {', '.join(keys)}{unpaired}"
    elif not shared:
        yield f"{name} and {baseline} share no seed, so they are not paired"
