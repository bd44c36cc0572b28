"""`vlarl train` and `vlarl resume`: the loop, and how a run starts, stops and goes on.

The loop itself is ``Training.loop``; everything it calls is one stage of the picture in the README.
"""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

from vlarl import warmstart
from vlarl.advantages import advantages
from vlarl.assembly import Parts, build_parts
from vlarl.errors import AssetError, RecipeError, Stopped, VlarlError
from vlarl.evaluation import held_out
from vlarl.recipe.load import LoadedRecipe, load_recipe
from vlarl.recipe.schema import Recipe, differences
from vlarl.recipe.write import resolved_yaml
from vlarl.recorder import Progress, Recorder, restore
from vlarl.results import Evaluated
from vlarl.results import read as read_evaluation
from vlarl.rollout import collect
from vlarl.run import checkpoint, manifest
from vlarl.run.files import disk_errors, write_bytes, write_json
from vlarl.run.folder import RunFolder, create, latest
from vlarl.seeding import torch_threads
from vlarl.suites.pool import Pool
from vlarl.suites.slots import unpack_slots
from vlarl.trials import EvaluationResult, run_policy
from vlarl.videos import write_videos

# What a resumed run may change: how long it goes on and what it leaves behind, never what it computes.
RESUMABLE_FIELDS = ("name", "run", "train.iterations", "suite.num_workers", "suite.models_per_worker", "suite.renderer")


@dataclass(frozen=True)
class Watcher:
    """Who is told what happens; every call may be ignored."""

    say: Callable[[str], None] = lambda text: None
    iteration: Callable[[Mapping[str, Any]], None] = lambda event: None
    evaluation: Callable[[Mapping[str, Any]], None] = lambda event: None
    warm_start: warmstart.Progress = field(default_factory=warmstart.Progress)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a run ended."""

    run: RunFolder
    iterations: int
    chain: str
    first: Mapping[str, Any]  # evaluation documents
    last: Mapping[str, Any]


class StopSignal:
    """SIGTERM, SIGINT and SIGUSR1 set a flag that the loop reads once an iteration; a second one interrupts."""

    def __init__(self) -> None:
        self.received: str | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    @contextmanager
    def installed(self) -> Iterator[None]:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Training:
    """One run in progress: its parts, its pool and its recorder."""

    def __init__(
        self, run: RunFolder, recipe: Recipe, parts: Parts, watcher: Watcher, stop: StopSignal, until: int | None = None
    ) -> None:
        self.run, self.recipe, self.parts = run, recipe, parts
        self.until = recipe.train.iterations if until is None else until
        self._watcher, self._stop = watcher, stop
        suite = parts.suite
        self.pool = Pool(recipe.suite, suite.tasks(), suite.conventions.image_size, parts.curriculum.choose)
        self.progress = Progress()

    def loop(self, recorder: Recorder) -> None:
        """Collect, score, estimate advantages, update, learn, record: until done or told to stop."""
        recipe, parts = self.recipe, self.parts
        self._evaluate_when_due(recorder)
        for i in range(self.progress.iteration, self.until):
            ledger: dict[str, float] = defaultdict(float)
            with torch_threads(recipe.train.rollout_threads):
                rollout = collect(
                    parts.policy,
                    parts.critic,
                    self.pool,
                    instructions=parts.instructions,
                    seed=recipe.seed,
                    num_steps=recipe.train.rollout.num_steps,
                    temperature=recipe.train.temperature_at(i),
                    ledger=ledger,
                )
            scored = parts.rewards.score(rollout)
            batch = advantages(
                scored,
                gamma=recipe.ppo.gamma,
                gae_lambda=recipe.ppo.gae_lambda,
                truncation=recipe.ppo.truncation,
                normalize=recipe.ppo.normalize_advantages,
            )
            stats = parts.ppo.update(batch, i)
            ledger["update_seconds"] = stats.seconds
            parts.curriculum.learn(rollout)
            self._watcher.iteration(recorder.record(i, scored, batch, stats, ledger))
            if self._checkpoint_is_due():
                recorder.checkpoint()
            self._evaluate_when_due(recorder)
            self._leave_if_told(recorder)
            recorder.restart_clock()

    def _checkpoint_is_due(self) -> bool:
        done = self.progress.iteration
        return done % self.recipe.run.checkpoint_every == 0 or self._evaluation_is_due()

    def _evaluation_is_due(self) -> bool:
        done = self.progress.iteration
        return done % self.recipe.evaluation.every == 0 or done == self.until

    def _evaluate_when_due(self, recorder: Recorder) -> None:
        if self._evaluation_is_due() and not recorder.is_evaluated():
            with torch_threads(self.recipe.train.rollout_threads):
                result = self._evaluation(recorder.policy_digest())
            self._watcher.evaluation(recorder.evaluated(result))
            recorder.restart_clock()

    def _evaluation(self, digest: str) -> EvaluationResult:
        spec, suite = self.recipe.evaluation, self.parts.suite
        sampled = spec.decoding == "sampled"
        return run_policy(
            self.parts.policy,
            self.recipe.suite,
            suite,
            held_out(len(suite.tasks()), spec.episodes),
            evaluated=Evaluated(
                run=self.run.id,
                iteration=self.progress.iteration,
                digest=digest,
                decoding=spec.decoding,
                temperature=spec.temperature if sampled else None,
                seed=self.recipe.seed,
            ),
        )

    def _leave_if_told(self, recorder: Recorder) -> None:
        if self._stop.received is None or self.progress.iteration == self.until:
            return
        path = recorder.checkpoint()
        raise Stopped(
            f"stopped by {self._stop.received} after iteration {self.progress.iteration}",
            kept=f"checkpoint {path}",
            hint=f"go on with `vlarl resume {self.run.path}`",
        )


def train(
    loaded: LoadedRecipe,
    *,
    command: Sequence[str],
    or_resume: bool = False,
    run_folder: Path | None = None,
    until: int | None = None,
    watcher: Watcher | None = None,
) -> TrainingResult:
    """Run a recipe in a new run folder, or go on with the newest unfinished run of the same recipe (``or_resume``).

    ``until`` ends it after so many iterations, 0 after the warm start; ``resume`` then does the rest.
    """
    watcher = watcher or Watcher()
    base = (run_folder or Path(loaded.recipe.run.folder)).expanduser()
    if or_resume:
        unfinished = latest(base, lambda run: _goes_on(run, loaded.digest))
        if unfinished is not None:
            watcher.say(f"resuming {unfinished.path}")
            return resume(unfinished, command=command, watcher=watcher)
    stop = StopSignal()
    with stop.installed():
        parts = build_parts(loaded.recipe)
        run = create(base, loaded.recipe.name, loaded.digest)
        watcher.say(f"run folder {run.path}")
        with run.lock():
            _describe(run, loaded, parts, command)
            with _ending(run):
                return _start(run, loaded, parts, watcher, stop, until)


def resume(
    run: RunFolder,
    *,
    command: Sequence[str],
    iterations: int | None = None,
    overrides: Sequence[str] = (),
    watcher: Watcher | None = None,
) -> TrainingResult:
    """Go on from a run's newest whole checkpoint, or from its beginning when it has none yet."""
    watcher = watcher or Watcher()
    loaded = load_recipe(run.resolved_recipe, [*overrides, *_iterations_override(iterations)])
    original = load_recipe(run.resolved_recipe)
    _refuse_changes(original.recipe, loaded.recipe)
    stop = StopSignal()
    with stop.installed(), run.lock():
        parts = build_parts(loaded.recipe)
        if not checkpoint.iterations(run.checkpoints):
            manifest.reopen(run, tuple(command), 0)
            watcher.say("no checkpoint yet: starting from the beginning")
            with _ending(run):
                return _start(run, loaded, parts, watcher, stop, None)
        found = checkpoint.load(run.path, policy=parts.policy.identity)
        for warning in found.warnings:
            watcher.say(f"passed over a checkpoint: {warning}")
        manifest.reopen(run, tuple(command), found.iteration)
        with disk_errors(run.path):
            write_bytes(run.resolved_recipe, resolved_yaml(loaded.recipe).encode())
        with _ending(run):
            return _go_on(run, loaded.recipe, parts, found, watcher, stop)


def _start(
    run: RunFolder, loaded: LoadedRecipe, parts: Parts, watcher: Watcher, stop: StopSignal, until: int | None
) -> TrainingResult:
    recipe = loaded.recipe
    if recipe.imitation is not None:
        started = perf_counter()
        start = warmstart.warm_start(
            parts.policy, recipe, parts.suite, Path(recipe.run.cache).expanduser(), _interruptible(watcher, stop)
        )
        where = "from the cache" if start.cached else f"in {perf_counter() - started:.0f} s"
        watcher.say(f"warm start {start.digest[:12]} {where}: token accuracy {start.summary['accuracy']:.3f}")
    training = Training(run, recipe, parts, watcher, stop, until)
    with training.pool:
        training.pool.start()
        recorder = Recorder(run, recipe, parts, training.pool, training.progress)
        recorder.cut_back()
        recorder.begin_chain(loaded.digest)
        recorder.checkpoint()
        return _finish(training, recorder)


def _go_on(
    run: RunFolder, recipe: Recipe, parts: Parts, found: checkpoint.Checkpoint, watcher: Watcher, stop: StopSignal
) -> TrainingResult:
    progress = restore(parts, found)
    training = Training(run, recipe, parts, watcher, stop)
    training.progress = progress
    with training.pool:
        training.pool.restore(unpack_slots(found.arrays("slots")))
        watcher.say(f"going on after iteration {progress.iteration}")
        recorder = Recorder(run, recipe, parts, training.pool, progress)
        recorder.cut_back()
        return _finish(training, recorder)


def _finish(training: Training, recorder: Recorder) -> TrainingResult:
    run, parts = training.run, training.parts
    try:
        training.loop(recorder)
    finally:
        recorder.close()
    name = parts.suite.name
    first = read_evaluation(run.evaluations / f"{name}-000000.json")
    last = read_evaluation(run.evaluations / f"{name}-{training.progress.iteration:06d}.json")
    if training.recipe.evaluation.videos:
        write_videos(parts.suite, last.trials, run.videos, iteration=training.progress.iteration)
    result = TrainingResult(
        run=run,
        iterations=training.progress.iteration,
        chain=training.progress.chain,
        first=first.document,
        last=last.document,
    )
    complete = result.iterations == training.recipe.train.iterations
    manifest.finish(run, "done" if complete else "stopped", 0, _outcome(result))
    return result


def _outcome(result: TrainingResult) -> dict[str, Any]:
    return {
        "iterations": result.iterations,
        "chain": result.chain,
        "first_evaluation": result.first["overall"],
        "last_evaluation": result.last["overall"],
    }


@contextmanager
def _ending(run: RunFolder) -> Iterator[None]:
    """Whatever ends the run, its manifest says so."""
    try:
        yield
    except Stopped as stopped:
        _finish_manifest(run, "stopped", int(stopped.exit_status))
        raise
    except VlarlError as error:
        newest = checkpoint.iterations(run.checkpoints)
        if newest and error.kept is None:
            error.kept = f"checkpoint of iteration {newest[-1]}; `vlarl resume {run.path}` goes on from it"
        _finish_manifest(run, "failed", int(error.exit_status), {"error": error.code, "message": error.message})
        raise
    except KeyboardInterrupt:
        _finish_manifest(run, "interrupted", 130)
        raise
    except Exception as error:
        _finish_manifest(run, "failed", 1, {"error": type(error).__name__, "message": str(error)})
        raise


def _finish_manifest(
    run: RunFolder, status: manifest.Status, exit_code: int, outcome: Mapping[str, Any] | None = None
) -> None:
    """Where it can be written: a full disk must not hide what ended the run."""
    with suppress(VlarlError):
        manifest.finish(run, status, exit_code, outcome)


def _describe(run: RunFolder, loaded: LoadedRecipe, parts: Parts, command: Sequence[str]) -> None:
    """Recipe, overrides and provenance, on disk before the first step."""
    recipe = loaded.recipe
    with disk_errors(run.path):
        write_bytes(run.recipe, loaded.path.read_bytes() if loaded.path else resolved_yaml(recipe).encode())
        write_bytes(run.resolved_recipe, resolved_yaml(recipe).encode())
        write_json(run.path / "overrides.json", list(loaded.overrides))
    strict = recipe.determinism == "strict"
    renderer = getattr(parts.suite, "renderer", None)
    manifest.begin(
        run,
        manifest.Intent(
            command=tuple(command),
            recipe_sources={str(source.path): source.path.read_bytes() for source in loaded.sources},
            overrides=tuple(loaded.overrides),
            recipe_digest=loaded.digest,
            seed=recipe.seed,
            determinism=recipe.determinism,
            tier="T4" if strict else "T1",
            tier_reason="deterministic CPU kernels and a software renderer, on this processor"
            if strict
            else f"determinism: {recipe.determinism}",
            renderer={"backend": renderer},
        ),
    )


def _goes_on(run: RunFolder, recipe_digest: str) -> bool:
    try:
        found = manifest.read(run)
    except AssetError:
        return False
    return found["recipe"]["digest"] == recipe_digest and found["status"] != "done"


def _iterations_override(iterations: int | None) -> list[str]:
    return [] if iterations is None else [f"train.iterations={iterations}"]


def _refuse_changes(before: Recipe, after: Recipe) -> None:
    """Only what cannot change a number already computed may differ."""
    changed = [
        difference.path
        for difference in differences(before, after)
        if not any(difference.path == name or difference.path.startswith(f"{name}.") for name in RESUMABLE_FIELDS)
    ]
    spread = before.ppo.lr_decay != "none" or before.train.final_temperature is not None
    if spread and before.train.iterations != after.train.iterations:
        changed.append("train.iterations")  # a decay is spread over them
    if changed:
        raise RecipeError(
            f"a resumed run cannot change {', '.join(f'`{path}`' for path in changed)}",
            code="R220",
            hint="start a new run with `vlarl train`; a resume may change " + ", ".join(RESUMABLE_FIELDS),
        )


def _interruptible(watcher: Watcher, stop: StopSignal) -> warmstart.Progress:
    """The watcher's progress, and an end to the warm start when a signal has come."""

    def cloned(update: int, loss: float) -> None:
        if stop.received is not None:
            raise Stopped(
                f"stopped by {stop.received} during the warm start",
                kept="nothing yet; recorded demonstrations stay in the cache",
                hint="run the same command again, with --or-resume to use the same run folder",
            )
        watcher.warm_start.cloned(update, loss)

    return replace(watcher.warm_start, cloned=cloned)
