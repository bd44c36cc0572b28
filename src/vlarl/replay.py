"""`vlarl replay`: run an evaluated episode again from its recorded actions, check it, film it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlarl.errors import AssetError, DriftError, UsageError
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.registry import build, kinds, suggest
from vlarl.results import Stored, read, read_document
from vlarl.results_text import subject
from vlarl.run.folder import RunFolder, latest, open_run
from vlarl.suites.protocol import Suite
from vlarl.types import Trial
from vlarl.videos import check_outcome, film, write_video


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A replayed episode that ended as recorded."""

    task: str
    instruction: str
    init: int
    success: bool
    length: int  # control steps
    evaluation: Path
    policy: str  # whose episode it was, in words
    video: Path
    note: str | None  # why the video is not an mp4


def replay(
    run: str | Path,
    episode: str,
    *,
    evaluation: Path | None = None,
    out: Path | None = None,
    runs: Path = Path("runs"),
) -> Replay:
    """Replay episode ``TASK:INIT`` of a run's newest evaluation that has it, or of the document ``evaluation``.

    Writes the video to ``out``, else into the run's ``videos`` folder. Raises DriftError when the episode does
    not end as it did then; the video shows what happened instead. AssetError R364: no such evaluation or episode.
    """
    folder = open_run(run, runs)
    stored = read(evaluation) if evaluation else _newest_with(episode, evaluations(folder))
    trial, name = _find(stored, episode)
    suite = suite_of(stored.document)
    task = next(task for task in suite.tasks() if task.name == name)
    trial = replace(trial, spec=replace(trial.spec, task=task.index))
    footage = film(suite, trial.spec, trial.actions)
    wanted = out or folder.videos / f"{stored.path.stem}-{name}-{trial.spec.init:03d}.mp4"
    path, note = write_video(wanted, footage.frames, suite.conventions.control_hz)
    try:
        check_outcome(task, trial, footage)
    except DriftError as error:
        error.kept = f"the video of the replay: {path}"
        raise
    return Replay(
        task=name,
        instruction=task.instruction,
        init=trial.spec.init,
        success=trial.success,
        length=trial.length,
        evaluation=stored.path,
        policy=subject(stored.document),
        video=path,
        note=note,
    )


def evaluations(run: RunFolder) -> list[Path]:
    """Documents of the run's evaluations, latest iteration first; AssetError (R364) when there is none."""
    found = list(run.evaluations.glob("*.json")) if run.evaluations.is_dir() else []
    if not found:
        raise AssetError(
            f"run {run.id} has no evaluation",
            code="R364",
            place=str(run.evaluations),
            hint=f"make one with `vlarl eval --suite SUITE --checkpoint {run.id}`{_another_with_one(run)}",
        )
    # Of one iteration the shortest name is the training's own; others carry a digest of their settings.
    return sorted(
        found, key=lambda path: (read_document(path)["iteration"] or 0, -len(path.stem), path.stem), reverse=True
    )


def _another_with_one(run: RunFolder) -> str:
    other = latest(run.path.parent, lambda each: any(each.evaluations.glob("*.json")))
    return f", or name {other.id}, the newest run that has one" if other else ""


def _newest_with(episode: str, documents: Sequence[Path]) -> Stored:
    """The first that has the episode; the first of all where none has, so that its contents can be told."""
    for path in documents:
        stored = read(path)
        if any(f"{stored.task_name(trial)}:{trial.spec.init}" == episode for trial in stored.trials):
            return stored
    return read(documents[0])


def suite_of(document: Mapping[str, Any]) -> Suite:
    """The suite that an evaluation document describes, built."""
    values = dict(document["suite_spec"] or {})
    known = kinds("suite")
    if not isinstance(values.get("kind"), str) or values["kind"] not in known:
        raise AssetError(
            f"the evaluation tells of a suite of kind {values.get('kind')!r}, which is not installed",
            code="R360",
            hint="install the package that offers it",
        )
    try:
        spec = known[values["kind"]](**values)
    except ValidationError as error:
        raise AssetError(
            f"the evaluation tells of a suite that this vlarl does not understand: {error.errors()[0]['msg']}",
            code="R360",
            hint="use the version of vlarl that wrote it",
        ) from error
    assert isinstance(spec, SuiteSpec)
    suite: Suite = build(spec)
    return suite


def replay_text(done: Replay) -> str:
    """For stdout."""
    verdict = "success" if done.success else "failure"
    return f"{done.video}\n{done.task}:{done.init} ({done.policy}): {verdict} after {done.length} steps, as recorded"


def replay_json(done: Replay) -> dict[str, Any]:
    """Fields of the `--json` document."""
    return {**vars(done), "evaluation": str(done.evaluation), "video": str(done.video)}


def _find(stored: Stored, episode: str) -> tuple[Trial, str]:
    name, colon, init = episode.rpartition(":")
    if not colon or not init.isdigit():
        raise UsageError(
            f"`{episode}` is not an episode", code="U214", hint=f"write TASK:INIT, for example `{_example(stored)}`"
        )
    trials = [trial for trial in stored.trials if stored.task_name(trial) == name]
    if not trials:
        names = [task["name"] for task in stored.document["protocol"]["tasks"]]
        close = suggest(name, names)
        raise _missing(stored, f"no task `{name}`", f"did you mean `{close}:{init}`?" if close else _listed(names))
    for trial in trials:
        if trial.spec.init == int(init):
            return trial, name
    raise _missing(stored, f"no init state {init} of `{name}`", f"it holds {stored.document['protocol']['inits']}")


def _missing(stored: Stored, what: str, hint: str) -> AssetError:
    hint += "; `--evaluation` names another document"
    return AssetError(f"{stored.path.name} has {what}", code="R364", place=str(stored.path), hint=hint)


def _listed(names: Sequence[str]) -> str:
    return f"its tasks are {', '.join(names)}"


def _example(stored: Stored) -> str:
    return f"{stored.task_name(stored.trials[0])}:{stored.trials[0].spec.init}"
