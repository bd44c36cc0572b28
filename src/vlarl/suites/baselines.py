"""What a suite's scripted expert, or random actions, achieve on a list of episodes; no policy, no rendering."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from vlarl.errors import DriftError, EnvironmentUnusable
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.registry import build
from vlarl.seeding import generator
from vlarl.suites.protocol import Simulation, Suite
from vlarl.suites.streams import stream
from vlarl.types import EpisodeSpec, Trial

Baseline = Literal["expert", "random"]
_CHUNKS_PER_WORKER = 4  # enough to even out tasks of different length


@dataclass(frozen=True, kw_only=True)
class BaselineJob:
    """Some episodes for one process."""

    suite: SuiteSpec
    baseline: Baseline
    specs: tuple[EpisodeSpec, ...]
    seed: int  # of the random actions


def run_baseline(
    baseline: Baseline,
    suite: SuiteSpec,
    specs: Sequence[EpisodeSpec],
    *,
    num_workers: int,
    seed: int = 0,
    progress: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Every episode of ``specs`` once, in their order, on ``num_workers`` processes.

    An episode depends on its spec and ``seed`` alone, so the number of processes changes nothing. One in which
    the simulator raises is errored; EnvironmentUnusable ends it all.
    """
    # Neighbours in the sorted list share their task, so that a process compiles few of them.
    ordered = sorted(specs)
    num_chunks = min(len(ordered), num_workers * _CHUNKS_PER_WORKER)
    bounds = [len(ordered) * part // num_chunks for part in range(num_chunks + 1)]
    jobs = [
        BaselineJob(suite=suite, baseline=baseline, specs=tuple(ordered[low:high]), seed=seed)
        for low, high in pairwise(bounds)
    ]
    trials: dict[EpisodeSpec, Trial] = {}
    with closing(stream(run_job, jobs, num_workers=num_workers)) as found:
        for trial in found:
            trials[trial.spec] = trial
            progress(trial)
    return [trials[spec] for spec in specs]


def run_job(job: BaselineJob) -> Iterator[Trial]:
    """The episodes of one job, in this process, each as it ends."""
    suite: Suite = build(job.suite)
    simulations: dict[int, Simulation] = {}
    try:
        for spec in job.specs:
            if spec.task not in simulations:
                simulations[spec.task] = suite.simulation(spec.task)
            yield _trial(suite, simulations[spec.task], spec, job)
    finally:
        for simulation in simulations.values():
            simulation.close()


def _trial(suite: Suite, simulation: Simulation, spec: EpisodeSpec, job: BaselineJob) -> Trial:
    actions: list[np.ndarray] = []
    success = errored = False
    try:
        success = _drive(suite, simulation, spec, job, actions)
    except (EnvironmentUnusable, DriftError):
        raise
    except Exception:  # a simulator may fail in any way; the episode is lost, the others are not
        traceback.print_exc(file=sys.stderr)
        errored = True
    stacked = np.stack(actions) if actions else np.zeros((0, suite.conventions.action_dim), np.float32)
    return Trial(spec=spec, success=success, errored=errored, length=len(actions), actions=stacked)


def _drive(
    suite: Suite, simulation: Simulation, spec: EpisodeSpec, job: BaselineJob, actions: list[np.ndarray]
) -> bool:
    """Run one episode, adding to ``actions`` what was executed; True on success."""
    simulation.begin(spec)
    act = _actor(suite, simulation, spec, job)
    while True:
        action = act().astype(np.float32)
        actions.append(action)
        outcome = simulation.advance(action)
        if outcome.terminated or outcome.truncated:
            return outcome.terminated


def _actor(suite: Suite, simulation: Simulation, spec: EpisodeSpec, job: BaselineJob) -> Callable[[], np.ndarray]:
    if job.baseline == "expert":
        return suite.expert(simulation).act
    # The task's name and not its position: the same episode has another position in a selection of tasks.
    random = generator(job.seed, "random-actions", simulation.task.name, spec.split, spec.init, spec.seed)
    return lambda: random.uniform(-1.0, 1.0, suite.conventions.action_dim)
