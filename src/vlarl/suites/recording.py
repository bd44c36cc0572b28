"""Recording a suite's scripted experts, in LIBERO's HDF5 layout."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.errors import RunError
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.registry import build
from vlarl.seeding import generator, seed
from vlarl.suites.demonstrations import DemonstrationWriter
from vlarl.suites.jobs import job_processes
from vlarl.suites.protocol import Simulation, Suite
from vlarl.types import EpisodeSpec, Trajectory

# Fields of a suite's spec that say what an episode's spec means.
_MEANING = {"kind", "name", "init_states", "fixtures"}


@dataclass(frozen=True, kw_only=True)
class RecordingJob:
    """One task's file."""

    suite: SuiteSpec
    task: int
    num_episodes: int  # successful ones
    noise: float  # standard deviation on the executed translation
    noise_fraction: float  # share of steps it acts on
    bias: tuple[float, ...]  # (3,), added to the expert's translation
    seed: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class RecordingResult:
    path: Path
    task: int
    tried: int
    recorded: int
    num_steps: int


def record_all(
    jobs: list[RecordingJob],
    *,
    num_workers: int,
    progress: Callable[[RecordingResult], None] = lambda result: None,
) -> list[RecordingResult]:
    """Run the jobs on ``num_workers`` processes; results in the jobs' order, whatever the order of work.

    With two processes a task or more, a task's attempts are shared among them; the file is the same.
    """
    helpers = num_workers // len(jobs)
    if helpers > 1:
        return _record_shared(jobs, helpers, progress)
    with job_processes(min(num_workers, len(jobs))) as executor:
        futures = [executor.submit(record, job) for job in jobs]
        for future in as_completed(futures):
            progress(future.result())
        return [future.result() for future in futures]


def _record_shared(
    jobs: list[RecordingJob], helpers: int, progress: Callable[[RecordingResult], None]
) -> list[RecordingResult]:
    """``helpers`` processes a task simulate, and one thread a task writes."""
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(len(jobs)))
        # Left before the threads are waited for: after an error no thread waits for an attempt that never comes.
        processes = [stack.enter_context(job_processes(helpers)) for _ in jobs]
        futures = [
            threads.submit(_write, job, _shared_attempts(job, executor, 2 * helpers))
            for job, executor in zip(jobs, processes, strict=True)
        ]
        for future in as_completed(futures):
            progress(future.result())
        return [future.result() for future in futures]


def record(job: RecordingJob) -> RecordingResult:
    """Record ``job.num_episodes`` successful expert episodes of one task on consecutive train init states."""
    suite: Suite = build(job.suite)
    simulation = suite.simulation(job.task)  # before the file, of which nothing is left when this fails
    try:
        return _write(job, (_attempt(suite, simulation, job, number) for number in count()))
    finally:
        simulation.close()


def _write(job: RecordingJob, attempts: Iterator[Trajectory]) -> RecordingResult:
    """The file of the first ``job.num_episodes`` successes among ``attempts``."""
    suite: Suite = build(job.suite)
    task, conventions = suite.tasks()[job.task], suite.conventions
    described: dict[str, Any] = job.suite.model_dump(include=_MEANING)
    writer = DemonstrationWriter(
        job.path, task, suite=described, control_hz=conventions.control_hz, image_size=conventions.image_size
    )
    tried = recorded = num_steps = 0
    try:
        while recorded < job.num_episodes:
            if tried >= 20 + 3 * job.num_episodes:
                raise RunError(
                    f"the expert solved {recorded} of {tried} episodes of `{task.name}`; {job.num_episodes} are wanted",
                    code="X521",
                    hint="lower imitation.noise, or leave the task out with suite.tasks",
                )
            trajectory = next(attempts)
            tried += 1
            if trajectory.success:
                writer.add(trajectory)
                recorded, num_steps = recorded + 1, num_steps + len(trajectory.actions)
    except BaseException:
        writer.abandon()
        raise
    writer.commit()
    return RecordingResult(path=job.path, task=job.task, tried=tried, recorded=recorded, num_steps=num_steps)


def _shared_attempts(job: RecordingJob, executor: Executor, ahead: int) -> Iterator[Trajectory]:
    """The attempts in order, ``ahead`` of them begun."""
    numbers, waiting = count(), deque[Future[Trajectory]]()
    while True:
        while len(waiting) < ahead:
            waiting.append(executor.submit(_helpers_attempt, job, next(numbers)))
        yield waiting.popleft().result()


def _helpers_attempt(job: RecordingJob, number: int) -> Trajectory:
    suite, simulation = _kept_simulation(type(job.suite), job.suite.model_dump_json(), job.task)
    return _attempt(suite, simulation, job, number)


@lru_cache(maxsize=1)  # a helper works on one task, which takes seconds to compile
def _kept_simulation(spec: type[SuiteSpec], values: str, task: int) -> tuple[Suite, Simulation]:
    suite: Suite = build(spec.model_validate_json(values))
    return suite, suite.simulation(task)


def _attempt(suite: Suite, simulation: Simulation, job: RecordingJob, number: int) -> Trajectory:
    """The expert's episode ``number``, whose init state and noise depend on nothing else."""
    task = suite.tasks()[job.task]
    init = number % suite.num_inits(job.task, "train")
    spec = EpisodeSpec(job.task, "train", init, seed(job.seed, "demo", task.name, number) >> 32)
    return record_episode(suite, simulation, spec, job)


def record_episode(suite: Suite, simulation: Simulation, spec: EpisodeSpec, job: RecordingJob) -> Trajectory:
    """One expert episode. Labels are the expert's, its bias included; noise goes only into what is executed."""
    simulation.begin(spec)
    expert = suite.expert(simulation)
    noise = generator(job.seed, "demo-noise", simulation.task.name, spec.init)
    size = suite.conventions.image_size
    images, labels, executed, signals = [], [], [], []
    done = success = False
    while not done:
        image = np.empty((size, size, 3), np.uint8)
        simulation.render_into(image)
        signals.append(suite.demonstration_arrays(simulation))
        label = expert.act()
        label[:3] = np.clip(label[:3] + np.asarray(job.bias, dtype=np.float32), -1.0, 1.0)
        action = label.copy()
        if noise.random() < job.noise_fraction:
            action[:3] = np.clip(action[:3] + noise.normal(0.0, job.noise, 3), -1.0, 1.0)
        outcome = simulation.advance(action)
        images.append(image)
        labels.append(label)
        executed.append(action)
        success, done = outcome.terminated, outcome.terminated or outcome.truncated
    return Trajectory(
        instruction=simulation.task.instruction,
        images=np.stack(images),
        actions=np.stack(labels).astype(np.float32),
        executed=np.stack(executed).astype(np.float32),
        signals={name: np.stack([step[name] for step in signals]) for name in signals[0]},
        spec=spec,
        success=success,
    )
