"""The results of a study: one record a run, read from the run folders, and the document that holds them all."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from vlarl.digest import json_digest
from vlarl.errors import AssetError, DriftError
from vlarl.recipe.schema import Recipe, recipe_digest
from vlarl.recipe.study import Study, StudyJob
from vlarl.results import Document, comparable, read_document
from vlarl.results_gpus import num_gpus
from vlarl.results_training import Training, training_of
from vlarl.run import manifest
from vlarl.run.checkpoint import iterations
from vlarl.run.coverage import before_and_after
from vlarl.run.documents import read_object
from vlarl.run.events import ITERATION, read_events
from vlarl.run.files import disk_errors, lock_refused, write_text
from vlarl.run.folder import RunFolder, find_runs

_NUMBERS = re.compile(r"\[\n([^][{}\"]*)\]")  # as `json.dumps` writes lists without strings and lists in them
SCHEMA = "vlarl.study/1"
RESULTS = "results.json"

State = Literal["done", "unfinished", "new"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluation of a run."""

    iteration: int
    env_steps: int  # control steps done until then
    seconds: float  # of collecting and updating until then
    k: int
    n: int
    outcomes: Mapping[str, str] | None = None  # as of a run; earlier versions did not keep them

    @property
    def rate(self) -> float:
        return self.k / self.n


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a study keeps of a run.

    ``outcomes`` are those of the last evaluation: task -> one character an episode, ``1`` for success, in the order
    of init states. Two runs with the same ``protocol_digest`` can be paired character by character.
    """

    cell: str
    seed: int
    state: State
    run: str  # folder, relative to the study's
    recipe_digest: str
    chain: str | None
    code: str  # names commit, uncommitted changes and wheel
    protocol_digest: str | None
    evaluations: tuple[Point, ...]
    outcomes: Mapping[str, str]
    action_shares: tuple[float, float] | None = None  # of the plane of actions in use, at step 0 and in the end
    num_gpus: int = 0  # that it computed on
    training: Training | None = None  # earlier versions did not keep it

    @property
    def env_steps(self) -> int:
        return self.evaluations[-1].env_steps if self.evaluations else 0

    @property
    def seconds(self) -> float:
        return self.evaluations[-1].seconds if self.evaluations else 0.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is on disk of a job."""

    state: State
    run: RunFolder | None  # None as well for what was collected earlier
    iteration: int = 0  # done, as of the newest checkpoint


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What `--collect` put into a folder earlier, here or on another machine: those runs are done."""

    folder: Path
    runs: Mapping[tuple[str, int], RunResult]  # by cell and seed, finished ones

    def of(self, job: StudyJob) -> RunResult | None:
        return self.runs.get((job.cell, job.seed))

    def has(self, run: RunResult) -> bool:
        """Whether that result is from here, rather than of a run made since."""
        return self.runs.get((run.cell, run.seed)) == run


def read_collected(study: Study, folder: Path) -> Collected:
    """AssetError (R360) without results or manifests in it, DriftError (D650) where a run had another recipe."""
    runs = {(run.cell, run.seed): run for run in runs_of(read_results(folder / RESULTS)) if run.state == "done"}
    for job in study.jobs:
        run = runs.get((job.cell, job.seed))
        if run is not None and run.recipe_digest != job.digest:
            raise DriftError(
                f"{job.label} was collected with another recipe: {run.recipe_digest[:12]}, now it is {job.digest[:12]}",
                code="D650",
                place=str(folder / RESULTS),
                hint="set the recipe back, or leave out --collected and run the study anew",
            )
        place = folder / job.cell / f"seed-{job.seed}"
        if run is not None and not place.is_dir():
            raise AssetError(
                f"the results of {job.label} are there, its manifest and chain are not",
                code="R360",
                place=str(place),
                hint="copy the whole folder that --collect wrote",
            )
    return Collected(folder=folder, runs=runs)


def find_job(job: StudyJob, out: Path, collected: Collected | None = None) -> Found:
    """The run that is the job's; DriftError (D650) where its folder holds a run of another recipe."""
    found = _find_run(job, out)
    if found.state != "done" and collected is not None and collected.of(job) is not None:
        return Found(state="done", run=None)
    return found


def _find_run(job: StudyJob, out: Path) -> Found:
    unfinished = None
    for run in find_runs(out / job.place):
        try:
            described = manifest.read(run)
        except AssetError:
            continue  # `train --or-resume` passes over it as well
        if described["recipe"]["digest"] != job.digest:
            raise DriftError(
                f"{job.label} was begun with another recipe: {described['recipe']['digest'][:12]}, now it is "
                f"{job.digest[:12]}",
                code="D650",
                place=str(run.path),
                hint=f"set the recipe back, choose another --out, or move that run away: mv {out / job.place} "
                f"{out / job.place}.old",
            )
        if described["status"] == "done":
            return Found(state="done", run=run)
        unfinished = unfinished or run
    if unfinished is None:
        return Found(state="new", run=None)
    return Found(state="unfinished", run=unfinished, iteration=max(iterations(unfinished.checkpoints), default=0))


def gather(study: Study, out: Path, collected: Collected | None = None) -> tuple[RunResult, ...]:
    """Every run of the study that has begun, in the study's order; a run of another recipe is none of them."""
    runs = []
    for job in study.jobs:
        with suppress(DriftError):
            found = find_job(job, out, collected)
            earlier = None if collected is None else collected.of(job)
            if found.run is not None:
                runs.append(read_run(job, found.run, found.state, out))
            elif earlier is not None:
                runs.append(earlier)
    return tuple(runs)


def read_run(job: StudyJob, run: RunFolder, state: State, out: Path) -> RunResult:
    # By name: what training wrote comes before an evaluation asked for later, which may be of other episodes.
    documents = [read_document(path) for path in sorted(run.evaluations.glob("*.json"), key=lambda path: path.stem)]
    own, _ = comparable([document for document in documents if document["iteration"] is not None])
    place = str(run.path.relative_to(out))
    return run_result(run, own, job.recipe, cell=job.cell, state=state, place=place)


def run_result(
    run: RunFolder, documents: Sequence[Document], recipe: Recipe, *, cell: str, state: State, place: str
) -> RunResult:
    """What to keep of a run at ``place`` whose own evaluations, by iteration, are ``documents``."""
    described = manifest.read(run)
    records = [record for record in read_events(run.events) if record["kind"] == ITERATION]
    last = documents[-1] if documents else None
    spread = before_and_after(run.evaluations, documents)
    return RunResult(
        cell=cell,
        seed=recipe.seed,
        state=state,
        run=place,
        recipe_digest=recipe_digest(recipe),
        chain=(described["outcome"] or {}).get("chain"),
        code=_code(described),
        protocol_digest=last["protocol_digest"] if last else None,
        evaluations=tuple(_points(records, documents)),
        outcomes=_outcomes(last) if last else {},
        action_shares=(spread.before.share, spread.after.share) if spread else None,
        num_gpus=num_gpus(described, recipe.model_dump(mode="json")),
        training=training_of(records),
    )


def _points(records: Sequence[Mapping[str, Any]], documents: Sequence[Document]) -> Iterator[Point]:
    for document in documents:
        before = [record for record in records if record["iteration"] < document["iteration"]]
        yield Point(
            iteration=document["iteration"],
            env_steps=int(before[-1]["env_steps"]) if before else 0,
            seconds=round(sum(float(record["ledger"]["total_seconds"]) for record in before), 1),
            k=document["overall"]["successes"],
            n=document["overall"]["episodes"],
            outcomes=_outcomes(document),
        )


def _outcomes(document: Document) -> dict[str, str]:
    rows = sorted(document["episodes"], key=lambda row: (row["init"], row["seed"]))
    names = [task["name"] for task in document["protocol"]["tasks"]]
    return {name: "".join("01"[bool(r["success"])] for r in rows if r["task"] == name) for name in names}


def _code(described: Mapping[str, Any]) -> str:
    """Names the code that ran: two runs of one study should share it."""
    record = described["code"]
    changed = json_digest({name: record[name] for name in ("commit", "diff_sha256", "untracked", "wheel")})[:12]
    return f"{record['commit'][:12]}-{changed}" if record["commit"] else changed


def study_document(study: Study, runs: Sequence[RunResult], table: Mapping[str, Any]) -> dict[str, Any]:
    """All of it as plain JSON."""
    spec = study.spec
    overrides = {job.cell: list(job.overrides[:-2]) for job in study.jobs}  # without name and seed
    return {
        "schema": SCHEMA,
        "name": spec.name,
        "study_sha256": study.sha256,
        "recipe": str(spec.recipe),
        "baseline": spec.baseline,
        "threshold": spec.threshold.model_dump() if spec.threshold else None,
        "cells": {
            name: {
                "overrides": overrides[name],
                "seeds": cell.seeds or spec.seeds,
                "paper": cell.paper,
                "note": cell.note,
            }
            for name, cell in spec.cells.items()
        },
        "table": dict(table),
        "runs": [asdict(run) for run in runs],
    }


def write_results(document: Mapping[str, Any], path: Path) -> None:
    """With a list of numbers on one line: curves would else take most of the file's lines."""
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    with disk_errors(path):
        write_text(path, _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    """The document of a study; AssetError (R360) when it is missing, damaged or of another kind."""
    try:
        found = read_object(path)
        if found["schema"] != SCHEMA:
            raise ValueError(f"its schema is {found['schema']!r}, not {SCHEMA!r}")
        runs_of(found)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AssetError(
            f"{path.name} holds no results of a study: {error}",
            code="R360",
            place=str(path),
            hint="`vlarl study STUDY.yaml --out DIR` writes it anew from the runs",
        ) from error
    return dict(found)


def runs_of(document: Mapping[str, Any]) -> tuple[RunResult, ...]:
    """Of results written by this version or an earlier one, which kept less."""
    return tuple(_run_of(run) for run in document["runs"])


def _run_of(run: Mapping[str, Any]) -> RunResult:
    # What an earlier version called coverage was counted over rollouts, which are not comparable.
    kept = {name: value for name, value in run.items() if name != "coverage"}
    shares = run.get("action_shares")
    return _RUN.validate_python({**kept, "action_shares": shares or None})


_RUN = TypeAdapter(RunResult)


@contextmanager
def results_lock(out: Path) -> Iterator[None]:
    """One process at a time gathers and writes; others wait, so that the last to write has seen all runs."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        stream = (out / ".results.lock").open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise lock_refused(out, error) from error
        yield
