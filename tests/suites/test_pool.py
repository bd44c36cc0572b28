"""The pool: what a slot sees depends on its episode and actions alone."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_suite
import numpy as np
import pytest
from fake_suite import IMAGE_SIZE, FakeSimulation, FakeSpec, assign

from vlarl.errors import DriftError, EnvironmentUnusable, RunError
from vlarl.suites.pool import Assign, Pool
from vlarl.suites.slots import SlotState, pack_slots, unpack_slots
from vlarl.types import EpisodeSpec, Step

NUM_ENVS = 6
NUM_STEPS = 14


def spec(workers: int = 1, **fields: object) -> FakeSpec:
    return FakeSpec(num_envs=NUM_ENVS, num_groups=2, num_workers=workers, models_per_worker=2, **fields)  # type: ignore[arg-type]


def make_pool(of: FakeSpec, choose: Assign = assign, timeout_seconds: float = 30.0) -> Pool:
    return Pool(of, fake_suite.tasks(), IMAGE_SIZE, choose, timeout_seconds=timeout_seconds)


def actions(group: int, step: int) -> np.ndarray:
    return np.random.default_rng((group, step)).uniform(-1, 1, (NUM_ENVS // 2, 7)).astype(np.float32)


def flatten(step: Step) -> tuple[object, ...]:
    return (
        step.observation.images.tobytes(),
        step.observation.instructions,
        step.terminated.tolist(),
        step.truncated.tolist(),
        step.errored.tolist(),
        step.final_images.tobytes(),
        step.gripper_opening.tolist(),
        step.eef_speed.tolist(),
        np.nan_to_num(step.goal_distance, nan=-1.0).tolist(),
        step.state_digests,
    )


Record = list[tuple[Any, ...]]
Meddle = Callable[[int, int], None]


def run(pool: Pool, first: int = 0, last: int = NUM_STEPS, meddle: Meddle | None = None) -> Record:
    """Step both groups in turn, both in flight at once, received in either order."""
    record: Record = []
    for step in range(first, last):
        for group in range(2):
            pool.send(group, actions(group, step))
            if meddle is not None:
                meddle(step, group)
        for group in (0, 1) if step % 2 else (1, 0):
            outcome = flatten(pool.receive(group))
            record += [(step, group, outcome, pool.specs(group), pool.episode_index(group).tolist())]
    return record


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[Record]:
    with make_pool(spec()) as pool:
        pool.start()
        yield run(pool)


def test_pool_equals_simulations_stepped_by_hand(undisturbed: Record) -> None:
    with make_pool(spec(2)) as pool:
        pool.start()
        index = [0] * NUM_ENVS
        image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)

        def begin(slot: int) -> FakeSimulation | None:
            chosen = assign(slot, index[slot])
            if chosen is None:
                return None
            simulation = fake_suite.FakeSuite(FakeSpec()).simulation(chosen.task)
            simulation.begin(chosen)
            return simulation

        by_slot = [begin(slot) for slot in range(NUM_ENVS)]
        ended = 0
        for step in range(NUM_STEPS):
            for group in range(2):
                pool.send(group, actions(group, step))
                got = pool.receive(group)
                for offset, slot in enumerate(range(group * 3, group * 3 + 3)):
                    simulation = by_slot[slot]
                    if simulation is None:
                        continue
                    outcome = simulation.advance(actions(group, step)[offset])
                    assert got.terminated[offset] == outcome.terminated
                    assert got.truncated[offset] == outcome.truncated
                    assert got.gripper_opening[offset] == np.float32(outcome.gripper_opening)
                    assert got.state_digests[offset] == simulation.state_digest()
                    assert got.goal_distance[offset] == np.float32(simulation.goal_distance())
                    if outcome.terminated or outcome.truncated:
                        simulation.render_into(image)
                        assert np.array_equal(got.final_images[offset], image)
                        ended += 1
                        index[slot] += 1
                        by_slot[slot] = begin(slot)
                    if by_slot[slot] is not None:
                        by_slot[slot].render_into(image)
                        assert np.array_equal(got.observation.images[offset], image)
                assert pool.episode_index(group).tolist() == index[group * 3 : group * 3 + 3]
        assert ended >= NUM_ENVS
        assert pool.active(0).tolist() == [True, by_slot[1] is not None, True]
    assert any(any(entry[2][2]) for entry in undisturbed), "the fake suite shows no success"
    assert any(any(entry[2][3]) for entry in undisturbed), "the fake suite shows no truncation"


@pytest.mark.parametrize("workers", [2, 4])
def test_number_of_workers_changes_nothing(undisturbed: Record, workers: int) -> None:
    with make_pool(spec(workers)) as pool:
        pool.start()
        assert run(pool) == undisturbed


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("moments", [[(0, 0)], [(3, 1)], [(4, 0), (5, 0), (5, 1), (11, 1)]])
def test_killed_workers_change_nothing(undisturbed: Record, workers: int, moments: list[tuple[int, int]]) -> None:
    with make_pool(spec(workers)) as pool:
        pool.start()

        def kill(step: int, group: int) -> None:
            if (step, group) in moments:
                os.kill(pool.worker_pids()[step % len(pool.worker_pids())], signal.SIGKILL)

        before = pool.worker_pids()
        assert run(pool, meddle=kill) == undisturbed
        assert pool.worker_pids() != before


def test_worker_killed_between_two_groups_it_serves(undisturbed: Record) -> None:
    with make_pool(spec(2)) as pool:
        pool.start()
        record = run(pool, last=5)
        for group in range(2):
            pool.send(group, actions(group, 5))
        # The answer for group 0 has been read by then, and its step is not committed yet.
        for group in (1, 0):
            outcome = flatten(pool.receive(group))
            record += [(5, group, outcome, pool.specs(group), pool.episode_index(group).tolist())]
            for pid in pool.worker_pids():
                os.kill(pid, signal.SIGKILL)
        record += run(pool, first=6)
    order = {entry[:2]: entry for entry in record}
    assert [order[entry[:2]] for entry in undisturbed] == undisturbed


def test_worker_killed_before_start_finishes_its_beginnings(undisturbed: Record, tmp_path: Path) -> None:
    faulty = spec(2, fault="kill_begin", fault_init=0, folder=str(tmp_path))
    with make_pool(faulty) as pool:
        pool.start()
        assert run(pool) == undisturbed
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("fault", ["raise", "kill", "hang", "raise_begin", "kill_begin"])
@pytest.mark.parametrize("workers", [1, 3])
def test_one_failure_is_replayed_away(
    undisturbed: Record, tmp_path: Path, fault: str, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    faulty = spec(workers, fault=fault, folder=str(tmp_path))
    with make_pool(faulty, timeout_seconds=1.0 if fault == "hang" else 30.0) as pool:
        pool.start()
        assert run(pool) == undisturbed
    assert len(list(tmp_path.iterdir())) == 1
    if fault == "hang":
        stack = capfd.readouterr().err.split("makes no progress; it is here:")[1]
        assert "in advance" in stack, "the stuck call is named"


@pytest.mark.parametrize("fault", ["raise", "diverge", "kill"])
def test_second_failure_at_a_step_errs_that_episode_alone(tmp_path: Path, fault: str) -> None:
    records = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        with make_pool(spec(workers, fault=fault, fault_times=10**6, folder=str(folder))) as pool:
            pool.start()
            records.append(run(pool))
    assert records[0] == records[1]
    previous = {group: record for record in records[0] if record[0] == 0 for group in [record[1]]}
    num_errored = 0
    for step, group, outcome, specs, index in records[0]:
        doomed = [spec.init == 3 for spec in previous[group][3]]
        assert all(at_fault for at_fault, errs in zip(doomed, outcome[4], strict=True) if errs)
        num_errored += sum(outcome[4])
        previous[group] = (step, group, outcome, specs, index)
    assert num_errored >= 1


@pytest.mark.parametrize("fault", ["raise_begin", "kill_begin"])
def test_episode_that_cannot_begin_is_errored_at_its_first_step(tmp_path: Path, fault: str) -> None:
    with make_pool(spec(2, fault=fault, fault_times=10**6, folder=str(tmp_path))) as pool:
        pool.start()
        assert not pool.observation(0).images[2].any()
        record = run(pool, last=3)
        _, group, outcome, _, _ = record[1]
        assert group == 0
        assert outcome[4] == [False, False, True]
        assert pool.episode_index(0)[2] >= 1


def test_start_fails_when_nothing_can_begin(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def same(slot: int, index: int) -> EpisodeSpec:
        return EpisodeSpec(task=0, split="train", init=3, seed=0)

    faulty = spec(1, fault="raise_begin", fault_times=10**6, folder=str(tmp_path))
    with make_pool(faulty, same) as pool, pytest.raises(RunError, match="no episode could begin"):
        pool.start()
    assert capfd.readouterr().err.count("Traceback") == 1


def test_restore_goes_on_as_if_never_stopped(undisturbed: Record) -> None:
    with make_pool(spec(2)) as pool:
        pool.start()
        before = run(pool, last=6)
        saved = pool.slots()
        frames = [pool.observation(group).images for group in range(2)]
    with make_pool(spec(1)) as pool:
        pool.restore(unpack_slots(pack_slots(saved)))
        assert all(np.array_equal(pool.observation(group).images, frames[group]) for group in range(2))
        again = pack_slots(pool.slots())
        assert {name: array.tolist() for name, array in again.items()} == {
            name: array.tolist() for name, array in pack_slots(saved).items()
        }
        assert before + run(pool, first=6) == undisturbed


def test_restore_of_a_slot_that_is_idle() -> None:
    with make_pool(spec(1)) as pool:
        pool.start()
        run(pool, last=40)
        saved = pool.slots()
        expected = run(pool, first=40, last=44)
    assert saved[1].spec is None
    assert saved[1].index == 3
    with make_pool(spec(2)) as pool:
        pool.restore(unpack_slots(pack_slots(saved)))
        got = run(pool, first=40, last=44)
    # The frame and name of a slot that is idle mean nothing, and are not restored.
    assert [(e[2][2:5], e[2][8], e[4]) for e in got] == [(e[2][2:5], e[2][8], e[4]) for e in expected]


def test_restore_names_the_slot_that_drifted() -> None:
    with make_pool(spec(1)) as pool:
        pool.start()
        run(pool, last=3)
        saved = pool.slots()
    wrong = SlotState(spec=saved[4].spec, index=saved[4].index, actions=saved[4].actions + 0.25, digest=saved[4].digest)
    with make_pool(spec(2)) as pool, pytest.raises(DriftError, match="slot 4: replaying 3 steps"):
        pool.restore([*saved[:4], wrong, *saved[5:]])


def test_refresh_asks_for_the_next_episode_again_and_once() -> None:
    asked: list[tuple[int, int]] = []
    first_seed = 0

    def choose(slot: int, index: int) -> EpisodeSpec:
        asked.append((slot, index))
        return EpisodeSpec(task=0, split="train", init=slot, seed=first_seed)

    with make_pool(spec(2), choose) as pool:
        pool.start()
        assert asked == [(slot, 0) for slot in range(NUM_ENVS)]
        for _ in range(3):
            pool.send(0, actions(0, 0))
            pool.receive(0)
        assert sorted(asked[NUM_ENVS:]) == [(slot, 1) for slot in range(3)]
        asked.clear()
        first_seed = 7
        pool.refresh()
        while not pool.episode_index(0).all():
            assert all(one.seed == 0 for one in pool.specs(0)) or pool.episode_index(0).any()
            pool.send(0, actions(0, 1))
            pool.receive(0)
        assert [pair for pair in asked if pair[1] == 1] == [(slot, 1) for slot in range(3)]
        assert all(one.seed == 7 for one in pool.specs(0))


def test_problem_of_the_suite_reaches_the_caller_as_it_is() -> None:
    pool = make_pool(spec(2, unusable=True))
    with pool, pytest.raises(EnvironmentUnusable, match="no renderer") as caught:
        pool.start()
    assert (caught.value.code, caught.value.hint) == ("E410", "install one")


def test_workers_import_no_torch(undisturbed: Record) -> None:
    assert {speed for entry in undisturbed for speed in entry[2][7]} == {0.0}


def test_frames_handed_out_do_not_change() -> None:
    with make_pool(spec(1)) as pool:
        pool.start()
        held = pool.observation(0).images
        copy = held.copy()
        pool.send(0, actions(0, 0))
        step = pool.receive(0)
        assert np.array_equal(held, copy)
        assert not np.array_equal(step.observation.images, copy)


def test_seconds_are_those_since_the_last_call() -> None:
    with make_pool(spec(1)) as pool:
        pool.start()
        run(pool, last=2)
        taken = pool.seconds()
        assert min(taken[name] for name in ("simulate", "render", "idle")) > 0
        assert pool.seconds() == {"simulate": 0.0, "render": 0.0, "idle": 0.0}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nothing_is_left_after_an_exception() -> None:
    before = os.listdir("/proc/self/fd")
    pool = make_pool(spec(3))

    def fail() -> None:
        with pool:
            pool.start()
            pids.extend(pool.worker_pids())
            pool.send(0, actions(0, 0))
            raise ZeroDivisionError

    pids: list[int] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    pool.close()
    assert len(pids) == 3
    assert not any(alive(pid) for pid in pids)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_workers_ignore_signals_and_end_with_a_killed_parent() -> None:
    program = (
        "import os, sys, signal; sys.path[:] = eval(sys.argv[1])\n"
        "from test_pool import *\n"
        "pool = make_pool(spec(2)); pool.start()\n"
        "for pid in pool.worker_pids():\n"
        "    os.kill(pid, signal.SIGINT); os.kill(pid, signal.SIGTERM)\n"
        "run(pool)\n"
        "print(*pool.worker_pids(), flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, repr(sys.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    watched = [os.pidfd_open(pid) for pid in pids]
    parent.kill()
    parent.wait()
    for descriptor in watched:
        poll = select.poll()  # select itself takes no descriptor above 1023
        poll.register(descriptor, select.POLLIN)
        ended = poll.poll(10_000)
        assert ended, "a worker outlived its parent"
        os.close(descriptor)
    parent.stdin.close()
    parent.stdout.close()
