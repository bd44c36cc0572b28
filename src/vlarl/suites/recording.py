"""Recording a suite's scripted experts, in LIBERO's HDF5 layout."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from vlarl.errors import RunError
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.registry import build
from vlarl.seeding import generator, seed
from vlarl.suites.demonstrations import DemonstrationWriter
from vlarl.suites.protocol import Simulation, Suite
from vlarl.suites.streams import stream
from vlarl.types import EpisodeSpec, Trajectory

_POLL = 0.5  # seconds
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
    waiting: Callable[[], None] = lambda: None,
) -> list[RecordingResult]:
    """Run the jobs on ``num_workers`` processes; results in the jobs' order, whatever the order of work.

    A thread a job writes what its processes simulate: one, or several where there are more processes than jobs; the
    file is the same. ``waiting`` is called twice a second. Its error, or one of a job, ends all.
    """
    helpers, stop = max(1, num_workers // len(jobs)), Event()
    with ThreadPoolExecutor(min(num_workers, len(jobs))) as threads:
        futures = [threads.submit(_write, job, _simulated(job, helpers, stop)) for job in jobs]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=_POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    progress(future.result())
                waiting()
        finally:
            stop.set()
            for future in futures:
                future.cancel()
        return [future.result() for future in futures]


def record(job: RecordingJob) -> RecordingResult:
    """One job, in this process: successful expert episodes of one task on consecutive train init states."""
    return _write(job, _attempts((job, 0, 1)))


def _write(job: RecordingJob, attempts: Generator[Trajectory]) -> RecordingResult:
    """The file of the first ``job.num_episodes`` successes among ``attempts``."""
    with closing(attempts):
        first = next(attempts)  # before the file, of which nothing is left when this fails
        return _write_from(job, chain([first], attempts))


def _write_from(job: RecordingJob, attempts: Iterator[Trajectory]) -> RecordingResult:
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


def _simulated(job: RecordingJob, helpers: int, stop: Event) -> Generator[Trajectory]:
    """The attempts in order, simulated by processes of their own, which end with the iterator."""
    shares = [(job, part, helpers) for part in range(helpers)]
    early: dict[int, Trajectory] = {}
    with closing(stream(_numbered, shares, num_workers=helpers)) as arriving:
        for number in count():
            while number not in early:
                if stop.is_set():
                    raise CancelledError
                arrived, trajectory = next(arriving)
                early[arrived] = trajectory
            yield early.pop(number)


def _numbered(share: tuple[RecordingJob, int, int]) -> Iterator[tuple[int, Trajectory]]:
    _, first, step = share
    return zip(count(first, step), _attempts(share), strict=False)


def _attempts(share: tuple[RecordingJob, int, int]) -> Generator[Trajectory]:
    """Attempts ``first``, ``first + step`` and so on: episodes whose init state and noise depend on nothing else."""
    job, first, step = share
    suite: Suite = build(job.suite)
    task, simulation = suite.tasks()[job.task], suite.simulation(job.task)
    try:
        for number in count(first, step):
            init = number % suite.num_inits(job.task, "train")
            spec = EpisodeSpec(job.task, "train", init, seed(job.seed, "demo", task.name, number) >> 32)
            # By number, not by init: where attempts outnumber the init states, no episode is another's copy.
            noise = generator(job.seed, "demo-noise", task.name, number)
            yield record_episode(suite, simulation, spec, job, noise)
    finally:
        simulation.close()


def record_episode(
    suite: Suite, simulation: Simulation, spec: EpisodeSpec, job: RecordingJob, noise: np.random.Generator
) -> Trajectory:
    """One expert episode. Labels are the expert's, its bias included; noise goes only into what is executed."""
    simulation.begin(spec)
    expert = suite.expert(simulation)
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
