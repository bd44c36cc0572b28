"""`vlarl eval`: a checkpoint, the scripted expert or random actions on a suite's held-out init states."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlarl.assembly_weights import names_weights, used_as, weights_recipe
from vlarl.errors import AssetError, Exit, UsageError
from vlarl.evaluate_fill import Filled, Progress, Say, Watch, Work, fill
from vlarl.evaluation import held_out
from vlarl.recipe.load import plain_values
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.registry import build, suggest, suite_spec_for
from vlarl.results import MAX_ERROR_RATE, Decoding, Document, Evaluated, PolicyKind, error_rate
from vlarl.results_shards import Shard
from vlarl.results_text import table
from vlarl.run.checkpoint import is_checkpoint, iterations
from vlarl.run.folder import RunFolder, latest, open_run
from vlarl.suites.baselines import Baseline, run_baseline
from vlarl.suites.protocol import Suite
from vlarl.trials import policy_trials
from vlarl.types import EpisodeSpec, Split
from vlarl.videos import write_videos

if TYPE_CHECKING:
    from vlarl.assembly import LoadedPolicy

DEFAULT_EPISODES = 20
SHARDS = "shards"  # folder within a run's evaluations: what lies there is not a whole evaluation


@dataclass(frozen=True, kw_only=True)
class EvaluationOutcome:
    """What `vlarl eval` has to show."""

    document: Document
    path: Path | None  # where it was written; None: nowhere
    run: str | None  # the run whose checkpoint it was
    chosen: str | None  # in words, when the run was not named but found
    passed_over: tuple[str, ...] = ()  # newer checkpoints of the run that are damaged, and how
    read_back: int = 0  # episodes that were on disk already
    videos: tuple[Path, ...] = ()

    @property
    def exit_status(self) -> Exit:
        """Too many errored episodes make the numbers worthless."""
        return Exit.RUN_FAILED if error_rate(self.document) > MAX_ERROR_RATE else Exit.OK


def evaluate(
    suite: str,
    *,
    checkpoint: str | None = None,
    policy: PolicyKind = "checkpoint",
    tasks: Sequence[str] | None = None,
    episodes: int | None = None,
    split: Split = "eval",
    decoding: Decoding = "greedy",
    temperature: float | None = None,
    seed: int | None = None,
    out: Path | None = None,
    runs: Path = Path("runs"),
    num_workers: int | None = None,
    shard: Shard | None = None,
    videos: int = 0,
    fresh: bool = False,
    overrides: Sequence[str] = (),
    progress: Progress = lambda done, total, trial: None,
    say: Say = lambda text: None,
) -> EvaluationOutcome:
    """Evaluate on init states 0 .. ``episodes`` - 1 of ``split`` of every task, or of ``tasks`` only.

    ``checkpoint``: a run by name or path, ``last``, or a checkpoint's folder; None takes the newest run in
    ``runs`` that was trained on ``suite``. The three files of the evaluation go to ``out``, else to the run's
    ``eval`` folder; a baseline without ``out`` is not written. ``seed`` draws sampled and random actions.
    A checkpoint in Hugging Face layout (folder, or hf://owner/name@commit) needs ``out``; ``overrides`` say how it
    is used. Episodes that lie there are read back, unless ``fresh``. ``shard`` runs a part, for ``merge``. ``videos``:
    at most so many a task, of the first, the best and the worst episode, beside the document.
    """
    request = _Request(
        suite=suite,
        tasks=tasks,
        episodes=episodes,
        split=split,
        decoding=decoding,
        temperature=temperature,
        seed=seed,
        num_workers=num_workers,
        shard=shard,
        videos=videos,
        fresh=fresh,
        watch=Watch(progress=progress, say=say),
    )
    request.check(policy, checkpoint, out, overrides)
    suite_spec_for(suite)  # a mistyped suite is told before the search for a run trained on it
    if policy != "checkpoint":
        return _outcome(_baseline(policy, request, say), out, request)
    from vlarl.assembly import load_policy, load_weights

    if checkpoint is not None and names_weights(checkpoint):
        loaded = load_weights(weights_recipe(checkpoint, suite, overrides))
        return _outcome(_checkpoint(loaded, None, request), out, request)
    source, run, chosen = _source(checkpoint, suite, runs)
    loaded = load_policy(source)
    work = _checkpoint(loaded, run.id if run else None, request)
    folder = out
    if out is None and run is not None:
        folder = run.evaluations / SHARDS if shard else run.evaluations
    return _outcome(work, folder, request, run=run.id if run else None, chosen=chosen, passed_over=loaded.passed_over)


def episodes_of(
    suite: Suite, names: Sequence[str] | None, episodes: int, split: Split = "eval"
) -> tuple[EpisodeSpec, ...]:
    """Held-out episodes of the tasks named, or given by number; all when None.

    Raises UsageError for an unknown task or too many episodes.
    """
    tasks = suite.tasks()
    known = [task.name for task in tasks]
    names = names and [known[int(name)] if name.isdecimal() and int(name) < len(known) else name for name in names]
    for name in names or ():
        if name not in known:
            close = suggest(name, known)
            raise UsageError(
                f"suite `{suite.name}` has no task `{name}`",
                code="U212",
                hint=f"did you mean `{close}`?" if close else f"its tasks are {', '.join(known)}",
            )
    wanted = [task for task in tasks if names is None or task.name in names]
    available = min(suite.num_inits(task.index, split) for task in wanted)
    if episodes > available:
        raise UsageError(
            f"{episodes} episodes a task are more than the {available} held-out init states of `{suite.name}`",
            code="U213",
            hint=f"--episodes {available}",
        )
    chosen = {task.index for task in wanted}
    return tuple(spec for spec in held_out(len(tasks), episodes, split) if spec.task in chosen)


def outcome_text(outcome: EvaluationOutcome) -> str:
    """For stdout: the table."""
    return table(outcome.document)


def outcome_notes(outcome: EvaluationOutcome) -> list[str]:
    """For stderr: which run was chosen, where the files are, whether errors spoil it."""
    notes = [outcome.chosen] if outcome.chosen else []
    notes += [f"passed over a checkpoint: {reason}" for reason in outcome.passed_over]
    notes += [f"written to {outcome.path}" if outcome.path else "not written to a file; `--out DIR` does that"]
    notes += [f"{len(outcome.videos)} videos in {outcome.videos[0].parent}"] if outcome.videos else []
    if outcome.exit_status is not Exit.OK:
        errors, n = outcome.document["overall"]["errors"], outcome.document["overall"]["episodes"]
        notes.append(f"{errors} of {n} episodes errored and count as failures; the tracebacks are above")
    return notes


def outcome_json(outcome: EvaluationOutcome) -> dict[str, Any]:
    """Fields of the `--json` document."""
    return {
        "evaluation": dict(outcome.document),
        "path": str(outcome.path) if outcome.path else None,
        "run": outcome.run,
        "passed_over": list(outcome.passed_over),
        "read_back": outcome.read_back,
        "videos": [str(path) for path in outcome.videos],
    }


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What was asked for on the command line."""

    suite: str
    tasks: Sequence[str] | None
    episodes: int | None
    split: Split
    decoding: Decoding
    temperature: float | None
    seed: int | None
    num_workers: int | None
    shard: Shard | None
    videos: int
    fresh: bool
    watch: Watch = field(default_factory=Watch)

    def check(self, policy: PolicyKind, checkpoint: str | None, out: Path | None, overrides: Sequence[str]) -> None:
        """UsageError for options that contradict each other or mean nothing."""
        if policy != "checkpoint" and checkpoint is not None:
            raise UsageError(f"--policy {policy} takes no --checkpoint", code="U210", hint="leave one of the two out")
        weights = policy == "checkpoint" and checkpoint is not None and names_weights(checkpoint)
        if overrides and not weights:
            message = "`--set` says how a checkpoint in Hugging Face layout is used; a run's recipe says that already"
            raise UsageError(message, code="U217", hint="leave it out, or name a checkpoint's folder or hf://")
        if weights and out is None:
            message = f"{checkpoint} belongs to no run, so its evaluation would be written nowhere"
            raise UsageError(message, code="U216", hint="add `--out DIR`")
        if self.temperature is not None and self.decoding == "greedy":
            hint = "add `--decoding sampled`"
            raise UsageError("a temperature has no effect on greedy decoding", code="U211", hint=hint)
        if self.temperature is not None and not self.temperature > 0:
            message = f"temperature {self.temperature} is not above 0"
            raise UsageError(message, code="U211", hint="use `--decoding greedy`")
        if self.episodes is not None and self.episodes < 1:
            message = f"{self.episodes} episodes cannot be run"
            raise UsageError(message, code="U213", hint=f"use `--episodes {DEFAULT_EPISODES}`")
        if policy != "checkpoint" and out is None and (self.shard or self.videos):
            what = "a shard" if self.shard else "videos"
            message = f"{what} of `--policy {policy}` would be written nowhere"
            raise UsageError(message, code="U216", hint="add `--out DIR`")
        if self.shard and self.videos:
            message = "a shard does not hold the best and the worst episode of the whole"
            raise UsageError(
                message, code="U216", hint="leave out `--videos`; after `vlarl merge` there is `vlarl replay`"
            )


def _outcome(
    work: Work,
    folder: Path | None,
    request: _Request,
    *,
    run: str | None = None,
    chosen: str | None = None,
    passed_over: tuple[str, ...] = (),
) -> EvaluationOutcome:
    filled = fill(work, folder, request.shard, fresh=request.fresh, watch=request.watch)
    return EvaluationOutcome(
        document=filled.document,
        path=filled.path,
        run=run,
        chosen=chosen,
        passed_over=passed_over,
        read_back=filled.read_back,
        videos=_videos(work, filled, request.videos),
    )


def _videos(work: Work, filled: Filled, most: int) -> tuple[Path, ...]:
    """Films in a folder of the document's name, so that those of another evaluation stay."""
    if most == 0 or filled.path is None:
        return ()
    folder = filled.path.with_name(f"{filled.path.stem}-videos")
    written = write_videos(work.suite, filled.trials, folder, iteration=work.evaluated.iteration, most=most)
    return tuple(folder / video.file for video in written)


def _baseline(policy: Baseline, request: _Request, say: Say) -> Work:
    spec = suite_spec_for(request.suite)
    suite: Suite = build(spec)
    names = _with_expert(suite, request.tasks, say) if policy == "expert" else request.tasks
    seed = request.seed or 0
    num_workers = request.num_workers or len(os.sched_getaffinity(0))
    return Work(
        suite_spec=spec,
        suite=suite,
        specs=episodes_of(suite, names, request.episodes or DEFAULT_EPISODES, request.split),
        evaluated=Evaluated(policy=policy, seed=seed),
        run=lambda specs, ended: run_baseline(policy, spec, specs, num_workers=num_workers, seed=seed, progress=ended),
    )


def _with_expert(suite: Suite, names: Sequence[str] | None, say: Say) -> Sequence[str] | None:
    """The tasks asked for; the ones that have a scripted expert when all are, and a word about the others."""
    tasks = suite.tasks()
    able = [task.name for task in tasks if suite.has_expert(task.index)]
    missing = [task.name for task in tasks if task.name not in able]
    asked = {task.name for task in tasks if names is not None and {task.name, str(task.index)} & set(names)}
    if asked & set(missing) or not able:
        raise UsageError(
            f"no scripted expert for {', '.join(sorted(asked & set(missing)) or missing)}",
            code="U230",
            hint=f"tasks of {suite.name} with an expert: {', '.join(able) or 'none'}",
        )
    if names is None and missing:
        say(f"left out, for want of a scripted expert: {', '.join(missing)}")
        return able
    return names


def _checkpoint(loaded: LoadedPolicy, run: str | None, request: _Request) -> Work:
    section = loaded.recipe.evaluation
    spec = _suite_spec(loaded.recipe.suite, request.suite, request.num_workers)
    suite: Suite = build(spec)
    _check_conventions(loaded, suite)
    sampled = request.decoding == "sampled"
    evaluated = Evaluated(
        run=run,
        iteration=loaded.iteration,
        source=loaded.source,
        policy_spec=used_as(loaded.recipe) if loaded.source else None,
        digest=loaded.digest,
        decoding=request.decoding,
        temperature=(request.temperature or section.temperature) if sampled else None,
        seed=loaded.recipe.seed if request.seed is None else request.seed,
    )
    return Work(
        suite_spec=spec,
        suite=suite,
        specs=episodes_of(suite, request.tasks, request.episodes or section.episodes, request.split),
        evaluated=evaluated,
        run=lambda specs, ended: policy_trials(loaded.policy, spec, suite, specs, evaluated=evaluated, progress=ended),
    )


def _suite_spec(trained_on: SuiteSpec, name: str, num_workers: int | None) -> SuiteSpec:
    """The whole suite ``name``, with the slots and image size that the policy was trained with."""
    kind = type(suite_spec_for(name))
    knobs = {key: getattr(trained_on, key) for key in kind.model_fields if key in type(trained_on).model_fields}
    if num_workers is not None:
        knobs["num_workers"] = num_workers
    for key in ("kind", "name", "tasks"):
        knobs.pop(key, None)
    return suite_spec_for(name, **knobs)


def _check_conventions(loaded: LoadedPolicy, suite: Suite) -> None:
    learned = loaded.policy.action_convention
    if learned != suite.conventions.action:
        raise AssetError(
            f"the policy's actions mean `{learned}`, those of suite `{suite.name}` mean `{suite.conventions.action}`",
            code="R362",
            hint="evaluate on the suite that the policy was trained on",
        )


def _source(checkpoint: str | None, suite: str, runs: Path) -> tuple[Path, RunFolder | None, str | None]:
    """What to load, the run it belongs to, and how it was chosen, in words."""
    if checkpoint is None:
        found = latest(runs, lambda run: bool(iterations(run.checkpoints)) and _trained_on(run) == suite)
        if found is None:
            raise AssetError(
                f"no run in {runs} has a checkpoint trained on `{suite}`",
                code="R363",
                place=str(runs),
                hint=f"name one with --checkpoint, or try `vlarl eval --suite {suite} --policy expert`",
            )
        return found.path, found, f"checkpoint: the newest run trained on {suite}, {found.id}"
    path = Path(checkpoint)
    if is_checkpoint(path):
        parents = path.resolve().parents
        run = RunFolder(parents[1]) if (parents[1] / "manifest.json").is_file() else None
        return path, run, None
    run = open_run(checkpoint, runs)
    return run.path, run, None


def _trained_on(run: RunFolder) -> str | None:
    """Name of the suite in a run's resolved recipe; None where that cannot be read."""
    values = plain_values(run.resolved_recipe)
    suite = values.get("suite") if isinstance(values, dict) else None
    name = suite.get("name") if isinstance(suite, dict) else None
    return name if isinstance(name, str) else None
