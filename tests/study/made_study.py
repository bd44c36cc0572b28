"""Studies and their runs, made up: a run folder as training leaves it, and stand-ins for the processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from vlarl.recipe.study import Study, StudyJob, load_study
from vlarl.results import Evaluated, document, protocol_block, write
from vlarl.results_study import Point, RunResult
from vlarl.run import folder, manifest
from vlarl.run.events import EventLog
from vlarl.run.folder import RunFolder
from vlarl.types import EpisodeSpec, Task, Trial

RECIPE = """
name: tiny
suite: {kind: tabletop, tasks: [reach_red, lift_red], image_size: 32, num_envs: 4, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
imitation: null
ppo: {minibatch_size: 16}
train: {iterations: 2, critic_warmup: 0, torch_threads: 1, rollout: {kind: steps, num_steps: 8}}
evaluation: {every: 1, episodes: 2, videos: false}
run: {checkpoint_every: 1, tensorboard: false, batches: []}
"""
STUDY = """
recipe: tiny.yaml
seeds: [1, 2]
baseline: base
cells:
  base: {}
  slow: {overrides: {ppo.lr: 1e-6}, paper: 80.5}
"""
TASKS = tuple(
    Task(suite="tabletop_basic", index=i, name=name, instruction=name, horizon=40)
    for i, name in enumerate(("reach_red", "lift_red"))
)
STEPS = 32  # env steps of an iteration
_STAMP = itertools.count()


def write_study(base: Path, text: str = STUDY, recipe: str = RECIPE) -> Path:
    (base / "tiny.yaml").write_text(recipe)
    path = base / "ours.yaml"
    path.write_text(text)
    return path


def made_study(base: Path, text: str = STUDY) -> Study:
    return load_study(write_study(base, text))


def make_run(
    job: StudyJob,
    out: Path,
    outcomes: Sequence[str] = ("00", "01"),
    *,
    status: manifest.Status = "done",
    actions: Callable[[int], np.ndarray] = lambda iteration: np.zeros((1, 7), np.float32),
) -> RunFolder:
    """A run of the job with one evaluation an item: characters are inits, the same for both tasks.

    ``actions``: iteration of an evaluation -> those of each of its episodes, (length, 7).
    """
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(_STAMP))
    run = folder.create(out / job.place, job.cell, job.digest, now)
    intent = manifest.Intent(
        command=("vlarl", "train"),
        recipe_sources={},
        overrides=job.overrides,
        recipe_digest=job.digest,
        seed=job.seed,
        determinism="off",
        tier="T1",
        tier_reason="made up",
    )
    manifest.begin(run, intent)
    run.resolved_recipe.write_text(f"name: {job.cell}\n")
    with EventLog(run.events) as log:
        for i in range(len(outcomes) - 1):
            log.append(
                {
                    "kind": "iteration",
                    "iteration": i,
                    "env_steps": (i + 1) * STEPS,
                    "chain": f"{i:064x}",
                    "success_rate": {"k": 0, "n": 1},
                    "reward": {"success": 0.0},
                    "ledger": {"total_seconds": 30.0},
                    "warnings": [],
                }
            )
    for iteration, marks in enumerate(outcomes):
        taken = actions(iteration).astype(np.float32)
        trials = [_trial(task, init, mark, taken) for task in range(len(TASKS)) for init, mark in enumerate(marks)]
        protocol = protocol_block(
            TASKS, [t.spec for t in trials], suite="tabletop_basic", conventions={}, renderer="osmesa"
        )
        evaluated = Evaluated(run=run.id, iteration=iteration, decoding="greedy", seed=job.seed)
        write(document(trials, TASKS, protocol=protocol, evaluated=evaluated), trials, run.evaluations)
    manifest.finish(run, status, 0 if status == "done" else 75, {"chain": "c" * 64} if status == "done" else None)
    return run


def _trial(task: int, init: int, mark: str, actions: np.ndarray) -> Trial:
    spec = EpisodeSpec(task, "eval", init, 0)
    return Trial(spec=spec, success=mark == "1", errored=False, length=len(actions), actions=actions)


def made_result(
    cell: str, seed: int, rates: Sequence[float], outcomes: Mapping[str, str], **fields: object
) -> RunResult:
    """A finished run whose evaluations had these rates, of ten episodes, an iteration of a hundred steps apart."""
    points = [
        Point(iteration=i, env_steps=100 * i, seconds=60.0 * i, k=round(10 * rate), n=10)
        for i, rate in enumerate(rates)
    ]
    known: dict[str, object] = {
        "cell": cell,
        "seed": seed,
        "state": "done",
        "run": f"runs/{cell}/seed-{seed}/x",
        "recipe_digest": "d" * 64,
        "chain": "c" * 64,
        "code": "abc",
        "protocol_digest": "p",
        "evaluations": tuple(points),
        "outcomes": dict(outcomes),
        **fields,
    }
    return RunResult(**known)  # type: ignore[arg-type]


@dataclass
class Stand:
    """In the place of a process: it has ended with a status, or goes on until it is stopped."""

    log: Path
    status: int | None
    seconds: float = 1.0
    stops: list[str] = field(default_factory=list)
    label: str = ""

    def poll(self) -> int | None:
        return self.status

    def stop(self) -> None:
        self.stops.append(self.label)
        self.status = 75

    def wait(self) -> None:
        assert self.status is not None, "it would never end"

    def reason(self, status: int) -> str:
        return "error[E420]: run x is in use" if status == 4 else f"exit status {status}"


@dataclass
class Machine:
    """Starts runs that end at once; ``behave`` says how: its status, None for one that has to be stopped."""

    behave: Callable[[StudyJob], int | None] = lambda job: 0
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    most: int = 0  # side by side
    _alive: list[Stand] = field(default_factory=list)

    def start(self, job: StudyJob, recipe: Path, out: Path, cache: Path) -> Stand:
        self.started.append(job.label)
        status = self.behave(job)
        if status == 0:
            make_run(job, out)
        self._alive = [stand for stand in self._alive if stand.status is None]
        stand = Stand(out / "log", status, stops=self.stopped, label=job.label)
        self._alive.append(stand)
        self.most = max(self.most, len(self._alive))
        return stand
