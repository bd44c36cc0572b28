"""`vlarl train` and `vlarl resume`: the loop, and how a run starts, stops and goes on.

The loop itself is ``Training.loop``; everything it calls is one stage of the picture in the README.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from vlarl import warmstart
from vlarl.advantages import estimated
from vlarl.assembly import Parts, build_parts
from vlarl.distributed import Ranks, join
from vlarl.distributed_rollout import share
from vlarl.errors import Stopped
from vlarl.evaluation import held_out
from vlarl.recipe.load import LoadedRecipe, load_recipe
from vlarl.recipe.paths import expanded
from vlarl.recipe.schema import Recipe
from vlarl.recipe.write import resolved_yaml
from vlarl.recorder import Progress, Recorder, restore
from vlarl.results import Evaluated
from vlarl.results import read as read_evaluation
from vlarl.rollout_episodes import Assignment, collector
from vlarl.run import checkpoint, manifest
from vlarl.run.files import disk_errors, write_bytes
from vlarl.run.folder import RunFolder
from vlarl.run.signals import StopSignal
from vlarl.seeding import torch_threads
from vlarl.suites.pool import Pool
from vlarl.suites.slots import unpack_slots
from vlarl.train_folder import (
    Repetition,
    begin_history,
    created,
    describe,
    ending,
    heed_lock,
    locked,
    refuse_changes,
    refuse_fewer,
    reopened,
    unfinished,
)
from vlarl.trials import EvaluationResult, run_policy
from vlarl.videos import Video, write_videos


@dataclass(frozen=True)
class Watcher:
    """Who is told what happens; every call may be ignored."""

    say: Callable[[str], None] = lambda text: None
    described: Callable[[Mapping[str, Any]], None] = lambda manifest: None  # before anything is computed
    began: Callable[[Mapping[str, Any]], None] = lambda first: None  # with the chain's first link
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
    told: bool = True  # whether this process is the one to tell; False in all but the first of several


@dataclass(frozen=True)
class Job:
    """What surrounds a run: the processes that share it, who is told, and who may stop it."""

    ranks: Ranks
    watcher: Watcher
    stop: StopSignal

    @classmethod
    def joined(cls, num_shards: int, watcher: Watcher | None) -> Job:
        """With the other processes, if there are any; of several, the first tells what happens."""
        ranks = join(num_shards)
        return cls(
            ranks, watcher if watcher and ranks.is_first else Watcher(), StopSignal(repeated=ranks.world_size > 1)
        )


class Training:
    """One run in progress: its parts, its pool and its recorder."""

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        parts: Parts,
        job: Job,
        until: int | None = None,
        repetition: Repetition | None = None,
    ) -> None:
        self.run, self.recipe, self.parts = run, recipe, parts
        self.repetition = repetition
        self.until = recipe.train.iterations if until is None else until
        self.job, self._watcher = job, job.watcher
        suite = parts.suite
        shards = job.ranks.shards(recipe.suite.num_shards)
        assignment = Assignment(recipe.train.rollout, parts.curriculum.choose)
        self._collect = collector(recipe.train.rollout, assignment, recipe.suite.num_envs, suite.tasks())
        self.pool = Pool(recipe.suite, suite.tasks(), suite.conventions.image_size, assignment, shards=shards)
        self.progress = Progress()

    def loop(self, recorder: Recorder) -> None:
        """Collect, score, estimate advantages, update, learn, record: until done or told to stop."""
        recipe, parts = self.recipe, self.parts
        self._evaluate_when_due(recorder)
        for i in range(self.progress.iteration, self.until):
            ledger: dict[str, float] = defaultdict(float)
            with torch_threads(recipe.train.rollout_threads):
                rollout = self._collect(
                    parts.policy,
                    parts.critic,
                    self.pool,
                    instructions=parts.instructions,
                    seed=recipe.seed,
                    temperature=recipe.train.temperature_at(i),
                    ledger=ledger,
                )
            scored = share(parts.rewards.score(rollout, i, ledger), self.job.ranks)
            batch = estimated(scored, recipe.ppo)
            stats = parts.ppo.update(batch, i)
            ledger["update_seconds"] = stats.seconds
            parts.curriculum.learn(scored.rollout)
            parts.rewards.learn(scored)
            self._watcher.iteration(recorder.record(i, scored, batch, stats, ledger))
            recorder.heed_alarm()
            if self._checkpoint_is_due():
                recorder.checkpoint()
            self._evaluate_when_due(recorder)
            self._leave_if_told(recorder)
            recorder.restart_clock()

    def _checkpoint_is_due(self) -> bool:
        done = self.progress.iteration
        return done % self.recipe.run.checkpoint_every == 0 or self._evaluation_is_due()

    def _evaluation_is_due(self) -> bool:
        if self.repetition is not None and not self.repetition.evaluates:
            return False
        done = self.progress.iteration
        last = self.until if self.repetition is None else self.recipe.train.iterations
        return done % self.recipe.evaluation.every == 0 or done == last

    def _evaluate_when_due(self, recorder: Recorder) -> None:
        if self._evaluation_is_due() and not recorder.is_evaluated():
            with torch_threads(self.recipe.train.rollout_threads):
                result = self._evaluation(recorder.policy_digest())
            self._watcher.evaluation(recorder.evaluated(result))
            recorder.restart_clock()
        recorder.heed_guard()

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
            ranks=self.job.ranks,
        )

    def _leave_if_told(self, recorder: Recorder) -> None:
        received = self.job.ranks.any_of(self.job.stop.received)
        if received is None or self.progress.iteration == self.until:
            return
        path = recorder.checkpoint()
        raise Stopped(
            f"stopped by {received} after iteration {self.progress.iteration}",
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
    repetition: Repetition | None = None,
) -> TrainingResult:
    """Run a recipe in a new run folder, or go on with the newest unfinished run of the same recipe (``or_resume``).

    ``until`` ends it after so many iterations, 0 after the warm start; ``resume`` then does the rest. With
    ``repetition`` the run is another one again, from its beginning or from one of its checkpoints.
    """
    job = Job.joined(loaded.recipe.suite.num_shards, watcher)
    with job.ranks.one_voice():
        base = expanded(run_folder or loaded.recipe.run.folder)
        begun = unfinished(base, loaded.digest, job.ranks) if or_resume else None
        if begun is not None:
            job.watcher.say(f"resuming {begun.path}")
            return _resume(begun, job, command)
        with job.stop.installed():
            parts = build_parts(loaded.recipe, job.ranks)
            run = created(base, loaded, job.ranks)
            job.watcher.say(f"run folder {run.path}")
            with locked(run, job.ranks):
                parent = repetition.parent if repetition else None
                described = describe(run, loaded, parts, command, job.ranks, parent) if job.ranks.is_first else {}
                with ending(run, job.ranks):
                    if job.ranks.is_first:
                        job.watcher.described(described)
                        heed_lock(loaded.recipe, described, job.watcher.say)
                    if repetition and repetition.history:
                        found = begin_history(run, repetition, parts, job.ranks)
                        return _go_on(run, loaded.recipe, parts, found, job, until, repetition)
                    return _start(run, loaded, parts, job, until, repetition)


def resume(
    run: RunFolder,
    *,
    command: Sequence[str],
    iterations: int | None = None,
    overrides: Sequence[str] = (),
    watcher: Watcher | None = None,
) -> TrainingResult:
    """Go on from a run's newest whole checkpoint, or from its beginning when it has none yet."""
    recipe = load_recipe(run.resolved_recipe).recipe
    job = Job.joined(recipe.suite.num_shards, watcher)
    with job.ranks.one_voice():
        return _resume(run, job, command, [*overrides, *_iterations_override(iterations)])


def _resume(run: RunFolder, job: Job, command: Sequence[str], overrides: Sequence[str] = ()) -> TrainingResult:
    loaded = load_recipe(run.resolved_recipe, overrides)
    original = load_recipe(run.resolved_recipe)
    refuse_changes(original.recipe, loaded.recipe)
    first = job.ranks.is_first
    with job.stop.installed(), locked(run, job.ranks):
        parts = build_parts(loaded.recipe, job.ranks)
        if not job.ranks.first_says(checkpoint.iterations(run.checkpoints)):
            if first:
                reopened(run, loaded, parts, command, 0, job.watcher.say)
            job.watcher.say("no checkpoint yet: starting from the beginning")
            with ending(run, job.ranks):
                return _start(run, loaded, parts, job, None)
        newest = checkpoint.load(run.path, policy=parts.policy.identity) if first else None
        chosen = job.ranks.first_says(str(newest.path) if newest else None)
        found = newest or checkpoint.load(Path(chosen), policy=parts.policy.identity)
        for warning in found.warnings:
            job.watcher.say(f"passed over a checkpoint: {warning}")
        refuse_fewer(loaded.recipe, found.iteration)
        if first:
            reopened(run, loaded, parts, command, found.iteration, job.watcher.say)
            with disk_errors(run.path):
                write_bytes(run.resolved_recipe, resolved_yaml(loaded.recipe).encode())
        with ending(run, job.ranks):
            return _go_on(run, loaded.recipe, parts, found, job)


def _start(
    run: RunFolder,
    loaded: LoadedRecipe,
    parts: Parts,
    job: Job,
    until: int | None,
    repetition: Repetition | None = None,
) -> TrainingResult:
    recipe = loaded.recipe
    if recipe.imitation is not None:
        if job.ranks.is_first:
            _warm_start(recipe, parts, job)
        if job.ranks.world_size > 1:
            parts.policy.load_state_dict(job.ranks.same_tensors(parts.policy.state_dict()))
    training = Training(run, recipe, parts, job, until, repetition)
    with training.pool:
        training.pool.start()
        recorder = Recorder(run, recipe, parts, training.pool, training.progress, job.ranks)
        recorder.cut_back()
        first = recorder.begin_chain(repetition.recipe_digest if repetition else loaded.digest)
        if job.ranks.is_first:
            manifest.note(run, start=first)
            job.watcher.began(first)
        recorder.checkpoint()
        return _finish(training, recorder)


def _warm_start(recipe: Recipe, parts: Parts, job: Job) -> None:
    started = perf_counter()
    start = warmstart.warm_start(parts.policy, recipe, parts.suite, expanded(recipe.run.cache), _interruptible(job))
    where = "from the cache" if start.cached else f"in {perf_counter() - started:.0f} s"
    job.watcher.say(f"warm start {start.digest[:12]} {where}: token accuracy {start.summary['accuracy']:.3f}")


def _go_on(
    run: RunFolder,
    recipe: Recipe,
    parts: Parts,
    found: checkpoint.Checkpoint,
    job: Job,
    until: int | None = None,
    repetition: Repetition | None = None,
) -> TrainingResult:
    progress = restore(parts, found)
    training = Training(run, recipe, parts, job, until, repetition)
    training.progress = progress
    with training.pool:
        slots = unpack_slots(found.arrays("slots"))
        own = len(slots) // job.ranks.world_size
        training.pool.restore(slots[job.ranks.rank * own :][:own])
        job.watcher.say(f"going on after iteration {progress.iteration}")
        recorder = Recorder(run, recipe, parts, training.pool, progress, job.ranks)
        recorder.cut_back()
        return _finish(training, recorder)


def _finish(training: Training, recorder: Recorder) -> TrainingResult:
    run, ranks = training.run, training.job.ranks
    try:
        recorder.describe()
        training.loop(recorder)
        iteration = training.progress.iteration
        before, after = ranks.first_says(_evaluated(training, recorder))
    finally:
        recorder.close()
    result = TrainingResult(
        run=run, iterations=iteration, chain=training.progress.chain, first=before, last=after, told=ranks.is_first
    )
    if ranks.is_first:
        complete = result.iterations == training.recipe.train.iterations
        manifest.finish(run, "done" if complete else "stopped", 0, _outcome(result))
    return result


def _evaluated(training: Training, recorder: Recorder) -> list[Mapping[str, Any]]:
    """Documents of the first and the last evaluation, which is filmed; empty where this process does not tell."""
    run, suite, iteration = training.run, training.parts.suite, training.progress.iteration
    if not training.job.ranks.is_first or training.repetition is not None:
        return [{}, {}]
    first = read_evaluation(run.evaluations / f"{suite.name}-000000.json")
    last = read_evaluation(run.evaluations / f"{suite.name}-{iteration:06d}.json")

    def seen(video: Video, frames: np.ndarray) -> None:
        if "first" in video.roles:  # chosen before its outcome was known, unlike the best and the worst
            recorder.filmed(video.task, frames)

    if training.recipe.evaluation.videos:
        write_videos(suite, last.trials, run.videos, iteration=iteration, seen=seen)
    return [first.document, last.document]


def _outcome(result: TrainingResult) -> dict[str, Any]:
    return {
        "iterations": result.iterations,
        "chain": result.chain,
        "first_evaluation": result.first.get("overall"),
        "last_evaluation": result.last.get("overall"),
    }


def _iterations_override(iterations: int | None) -> list[str]:
    return [] if iterations is None else [f"train.iterations={iterations}"]


def _interruptible(job: Job) -> warmstart.Progress:
    """The watcher's progress, and an end to the warm start when a signal has come."""
    watcher, stop = job.watcher, job.stop

    def check() -> None:
        if stop.received is not None:
            raise Stopped(
                f"stopped by {stop.received} during the warm start",
                kept="nothing yet; demonstrations that are all recorded stay in the cache",
                hint="`vlarl resume` the run, or the same command again with --or-resume",
            )

    def cloned(update: int, loss: float) -> None:
        check()
        watcher.warm_start.cloned(update, loss)

    return replace(watcher.warm_start, cloned=cloned, waiting=check)
