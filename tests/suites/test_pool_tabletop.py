"""The pool over the embedded suite: physics and pixels do not depend on who computes them."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.registry import build
from vlarl.suites.pool import Pool
from vlarl.suites.slots import pack_slots, unpack_slots
from vlarl.types import EpisodeSpec, Task

NUM_ENVS = 4
NUM_STEPS = 50  # beyond the horizon: every slot passes on to another episode
Record = list[tuple[bytes, bytes, tuple[bytes, ...], bytes]]


def spec(num_workers: int) -> TabletopSpec:
    return TabletopSpec(num_envs=NUM_ENVS, num_groups=2, num_workers=num_workers)


@pytest.fixture(scope="module")
def tasks() -> tuple[Task, ...]:
    found: tuple[Task, ...] = build(spec(1)).tasks()
    return found


def make_pool(num_workers: int, tasks: tuple[Task, ...]) -> Pool:
    def assign(slot: int, index: int) -> EpisodeSpec:
        return EpisodeSpec(task=(slot + 2 * index) % len(tasks), split="train", init=slot + 10 * index, seed=slot)

    return Pool(spec(num_workers), tasks, spec(1).image_size, assign)


def run(pool: Pool, first: int, last: int, kill_at: int | None = None) -> Record:
    record = []
    for step in range(first, last):
        for group in range(2):
            random = np.random.default_rng((step, group))
            pool.send(group, random.uniform(-1, 1, (NUM_ENVS // 2, 7)).astype(np.float32))
        if step == kill_at:
            os.kill(pool.worker_pids()[-1], signal.SIGKILL)
        for group in range(2):
            got = pool.receive(group)
            ended = got.terminated | got.truncated
            record.append(
                (got.observation.images.tobytes(), got.final_images.tobytes(), got.state_digests, ended.tobytes())
            )
    return record


@pytest.fixture(scope="module")
def undisturbed(tasks: tuple[Task, ...]) -> Record:
    with make_pool(1, tasks) as pool:
        pool.start()
        return run(pool, 0, NUM_STEPS)


def test_episodes_end_and_frames_change(undisturbed: Record) -> None:
    assert sum(ended.count(1) for *_, ended in undisturbed) >= NUM_ENVS
    assert len({images for images, *_ in undisturbed}) == len(undisturbed)


@pytest.mark.parametrize(("num_workers", "kill_at"), [(2, None), (1, 30), (2, 45)])
def test_workers_and_their_deaths_change_nothing(
    undisturbed: Record, tasks: tuple[Task, ...], num_workers: int, kill_at: int | None
) -> None:
    with make_pool(num_workers, tasks) as pool:
        pool.start()
        assert run(pool, 0, NUM_STEPS, kill_at) == undisturbed


def test_restored_pool_goes_on_as_if_never_stopped(undisturbed: Record, tasks: tuple[Task, ...]) -> None:
    with make_pool(2, tasks) as pool:
        pool.start()
        before = run(pool, 0, 44)
        saved = pack_slots(pool.slots())
    with make_pool(1, tasks) as pool:
        pool.restore(unpack_slots(saved))
        assert before + run(pool, 44, NUM_STEPS) == undisturbed
