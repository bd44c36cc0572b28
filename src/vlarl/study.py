"""`vlarl study`: the runs of a study, each a `vlarl train` of its own, and the table of what they gave.

A study may be stopped and started again at any time: what is done is skipped, what was begun goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlarl.errors import EnvironmentUnusable, Exit, UsageError
from vlarl.recipe.study import Study, StudyJob
from vlarl.report_study_charts import curves_svg
from vlarl.results_study import (
    RESULTS,
    Collected,
    Found,
    RunResult,
    find_job,
    gather,
    results_lock,
    study_document,
    write_results,
)
from vlarl.results_study_table import Table, csv_text, make_table, markdown, table_data
from vlarl.run.files import disk_errors, write_bytes, write_text
from vlarl.run.folder import RunLock
from vlarl.run.signals import StopSignal
from vlarl.study_processes import Process, Started

COPY = "study.yaml"  # the user's bytes, in the study's folder
TABLE_MD, TABLE_CSV, CURVES = "table.md", "table.csv", "curves.svg"
PUBLISHED = (RESULTS, TABLE_MD, TABLE_CSV, CURVES, COPY)  # what `--collect` takes beside the runs
_PAUSE = 0.2  # seconds between two looks at the processes

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to do of a study, and how."""

    out: Path
    cache: Path
    collected: Collected | None = None
    num_jobs: int = 1
    budget: float | None = None  # seconds
    start: Callable[[StudyJob, Path, Path, Path], Started] = Process.begin  # job, recipe, out, cache


@dataclass(kw_only=True)
class _Progress:
    waiting: list[StudyJob]
    running: dict[int, tuple[StudyJob, Started, RunLock]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # label -> reason
    stopped: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """How it ended: the states of all jobs asked for, the table of all that is done."""

    states: tuple[tuple[StudyJob, Found], ...]
    failed: dict[str, str]
    stopped: bool
    runs: tuple[RunResult, ...]
    table: Table

    @property
    def exit_status(self) -> Exit:
        if self.failed:
            return Exit.RUN_FAILED
        return Exit.RESUMABLE if self.stopped else Exit.OK


def chosen_jobs(study: Study, only: Sequence[str] = (), task: int | None = None) -> list[StudyJob]:
    """The jobs of some cells, or the one with an index among them; UsageError for what is not there."""
    for cell in only:
        if cell not in study.spec.cells:
            names = ", ".join(study.spec.cells)
            raise UsageError(f"the study has no cell `{cell}`", code="U202", hint=f"its cells are {names}")
    jobs = [job for job in study.jobs if not only or job.cell in only]
    if task is None:
        return jobs
    if not 0 <= task < len(jobs):
        raise UsageError(f"there is no task {task}", code="U202", hint=f"tasks are numbered 0 to {len(jobs) - 1}")
    return [jobs[task]]


def states(jobs: Sequence[StudyJob], order: Order) -> list[tuple[StudyJob, Found]]:
    """What is on disk of each job; DriftError where a run of another recipe is in the way."""
    return [(job, find_job(job, order.out, order.collected)) for job in jobs]


def run_study(study: Study, jobs: Sequence[StudyJob], order: Order, say: Say = lambda text: None) -> StudyOutcome:
    """Run what is not done yet of ``jobs``, at most ``num_jobs`` at a time, and write results after each.

    SIGTERM, SIGINT and the end of the budget stop the running ones at a checkpoint; a second signal interrupts.
    """
    found = states(jobs, order)
    refresh(study, order)
    done = sum(each.state == "done" for _, each in found)
    if done:
        say(f"{done} of {len(found)} runs are done already")
    progress = _Progress(waiting=[job for job, each in found if each.state != "done"])
    stop = StopSignal()
    with stop.installed():
        _work(study, progress, order, stop, say)
    runs, table = refresh(study, order)
    ends = tuple(states(jobs, order))
    unfinished = any(each.state != "done" and job.label not in progress.failed for job, each in ends)
    return StudyOutcome(states=ends, failed=progress.failed, stopped=unfinished, runs=runs, table=table)


def refresh(study: Study, order: Order) -> tuple[tuple[RunResult, ...], Table]:
    """Gather all runs and write results, tables and curves anew."""
    out = order.out
    with results_lock(out):
        runs = gather(study, out, order.collected)
        table = make_table(study.spec, runs)
        write_results(study_document(study, runs, table_data(table)), out / RESULTS)
        with disk_errors(out):
            write_bytes(out / COPY, study.text)
            write_text(out / TABLE_MD, markdown(table, study.spec.name))
            write_text(out / TABLE_CSV, csv_text(table))
            write_text(out / CURVES, curves_svg(list(study.spec.cells), runs))
    return runs, table


def _work(study: Study, progress: _Progress, order: Order, stop: StopSignal, say: Say) -> None:
    """Until nothing waits and nothing runs."""
    deadline = None if order.budget is None else time.monotonic() + order.budget
    told = False
    try:
        while progress.waiting or progress.running:
            over = deadline is not None and time.monotonic() >= deadline
            if (stop.received or over) and not told:
                told = True
                progress.waiting.clear()
                cause = f"stopped by {stop.received}" if stop.received else "the budget is spent"
                say(f"{cause}: runs end at a checkpoint")
                for _, process, _ in progress.running.values():
                    process.stop()
            while progress.waiting and len(progress.running) < order.num_jobs:
                _begin(progress.waiting.pop(0), study.recipe, progress, order, say)
            ended = [index for index in list(progress.running) if _ended(index, progress, say)]
            if ended:
                refresh(study, order)
            elif progress.running:
                time.sleep(_PAUSE)
    except BaseException:
        for _, process, _ in progress.running.values():
            process.stop()  # where it was asked before, it now leaves at once
        for _, process, lock in progress.running.values():
            process.wait()
            lock.release()
        raise


def _begin(job: StudyJob, recipe: Path, progress: _Progress, order: Order, say: Say) -> None:
    place = order.out / job.place
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    lock = RunLock(place / "lock")
    try:
        lock.acquire()
    except EnvironmentUnusable as error:
        if error.code != "E420":
            raise
        say(f"{job.label}: {error.message}; left to it")
        progress.stopped.append(job.label)
        return
    found = find_job(job, order.out, order.collected)
    if found.state == "done":  # by another process, since this one looked
        lock.release()
        return
    news = f"goes on after iteration {found.iteration}" if found.state == "unfinished" else "begins"
    say(f"{job.label}: {news}")
    progress.running[job.index] = (job, order.start(job, recipe, order.out, order.cache), lock)


def _ended(index: int, progress: _Progress, say: Say) -> bool:
    """Whether that run has ended; then also what came of it."""
    job, process, lock = progress.running[index]
    status = process.poll()
    if status is None:
        return False
    del progress.running[index]
    lock.release()
    left = len(progress.waiting) + len(progress.running)
    if status == Exit.OK:
        say(f"{job.label}: done after {_minutes(process.seconds)}; {left} to go")
    elif status == Exit.RESUMABLE:
        progress.stopped.append(job.label)
        say(f"{job.label}: stopped at a checkpoint after {_minutes(process.seconds)}")
    elif "[E420]" in (reason := process.reason(status)):  # by one that a killed study has left behind
        progress.stopped.append(job.label)
        say(f"{job.label}: in use by another process, left to it")
    else:
        progress.failed[job.label] = reason
        say(f"{job.label}: failed: {reason} (log: {process.log})")
    return True


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def outcome_json(outcome: StudyOutcome) -> dict[str, Any]:
    """Fields of the `--json` document."""
    return {
        "runs": states_json(outcome.states),
        "failed": outcome.failed,
        "stopped": outcome.stopped,
        "table": table_data(outcome.table),
    }


def outcome_text(study: Study, outcome: StudyOutcome) -> str:
    """For stdout: the table, and what failed."""
    failed = "".join(f"\nfailed: {label}: {reason}" for label, reason in outcome.failed.items())
    return markdown(outcome.table, study.spec.name) + failed


STATES_HEADERS = ("task", "cell", "seed", "state", "iterations", "recipe", "folder")


def states_rows(found: Sequence[tuple[StudyJob, Found]], out: Path) -> list[tuple[object, ...]]:
    """For `--list`."""
    rows: list[tuple[object, ...]] = []
    for number, (job, each) in enumerate(found):
        total = job.recipe.train.iterations
        at = total if each.state == "done" else each.iteration
        folder = each.run.path if each.run is not None else out / job.place
        rows.append((number, job.cell, job.seed, each.state, f"{at}/{total}", job.digest[:12], folder))
    return rows


def states_json(found: Sequence[tuple[StudyJob, Found]]) -> list[dict[str, Any]]:
    return [
        {
            "task": number,
            "cell": job.cell,
            "seed": job.seed,
            "state": each.state,
            "recipe_digest": job.digest,
            "run": str(each.run.path) if each.run is not None else None,
            "overrides": list(job.overrides),
        }
        for number, (job, each) in enumerate(found)
    ]
