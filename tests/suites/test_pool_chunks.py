"""Steps of several control steps: carried out one after the other until the episode ends, the rest dropped."""

from __future__ import annotations

from pathlib import Path

import fake_suite
import numpy as np
import pytest
from fake_suite import HORIZONS, IMAGE_SIZE, FakeSimulation, FakeSpec, FakeSuite, assign

from vlarl.suites.pool import Pool
from vlarl.suites.slots import pack_slots, unpack_slots
from vlarl.types import EpisodeSpec, Step

NUM_ENVS, CHUNK, NUM_STEPS = 6, 3, 8


def make_pool(workers: int = 1, **fields: object) -> Pool:
    spec = FakeSpec(num_envs=NUM_ENVS, num_groups=2, num_workers=workers, models_per_worker=2, **fields)  # type: ignore[arg-type]
    return Pool(spec, fake_suite.tasks(), IMAGE_SIZE, assign, timeout_seconds=30.0)


def actions(group: int, step: int, chunk: int = CHUNK) -> np.ndarray:
    return np.random.default_rng((group, step)).uniform(-1, 1, (NUM_ENVS // 2, 7 * chunk)).astype(np.float32)


def begun(spec: EpisodeSpec | None) -> FakeSimulation | None:
    if spec is None:
        return None
    simulation = FakeSuite(FakeSpec()).simulation(spec.task)
    simulation.begin(spec)
    return simulation


def picture(simulation: FakeSimulation) -> np.ndarray:
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    simulation.render_into(image)
    return image


def facts(step: Step) -> tuple[object, ...]:
    assert step.num_taken is not None
    flags = (step.terminated, step.truncated, step.errored, step.num_taken, step.gripper_opening, step.eef_speed)
    distances = np.nan_to_num(step.goal_distance, nan=-1.0)
    pictures = (step.observation.images.tobytes(), step.final_images.tobytes())
    return (*(value.tolist() for value in (*flags, distances)), *pictures, step.state_digests)


def run(pool: Pool, first: int = 0, last: int = NUM_STEPS) -> list[tuple[object, ...]]:
    record = []
    for step in range(first, last):
        for group in range(2):
            pool.send(group, actions(group, step))
        record += [(facts(pool.receive(group)), pool.episode_step(group).tolist()) for group in range(2)]
    return record


@pytest.fixture(scope="module")
def undisturbed() -> list[tuple[object, ...]]:
    with make_pool() as pool:
        pool.start()
        return run(pool)


def test_equals_simulations_stepped_by_hand() -> None:
    """What is seen, how it ended and how many control steps it took; the next episode begins with the next step."""
    with make_pool(2) as pool:
        pool.start()
        index = [0] * NUM_ENVS
        simulations = [begun(assign(slot, 0)) for slot in range(NUM_ENVS)]
        lengths, cut = [0] * NUM_ENVS, set()
        for t in range(NUM_STEPS):
            for group in range(2):
                given = actions(group, t)
                pool.send(group, given)
                got = pool.receive(group)
                assert got.num_taken is not None
                for i, slot in enumerate(range(group * 3, group * 3 + 3)):
                    simulation = simulations[slot]
                    if simulation is None:
                        assert got.num_taken[i] == 1
                        continue
                    taken = 0
                    for action in given[i].reshape(CHUNK, 7):
                        outcome = simulation.advance(action)
                        taken += 1
                        if outcome.terminated or outcome.truncated:
                            break
                    lengths[slot] += taken
                    assert got.num_taken[i] == taken
                    assert (got.terminated[i], got.truncated[i]) == (outcome.terminated, outcome.truncated)
                    assert got.gripper_opening[i] == np.float32(outcome.gripper_opening)
                    assert got.goal_distance[i] == np.float32(simulation.goal_distance())
                    assert got.state_digests[i] == simulation.state_digest()
                    if outcome.terminated or outcome.truncated:
                        assert np.array_equal(got.final_images[i], picture(simulation))
                        cut.add((taken, outcome.terminated))
                        index[slot] += 1
                        lengths[slot] = 0
                        simulations[slot] = begun(assign(slot, index[slot]))
                    if simulations[slot] is not None:
                        assert np.array_equal(got.observation.images[i], picture(simulations[slot]))
                        assert pool.episode_step(group)[i] == lengths[slot]
        assert simulations[1] is None, "a slot ran out of episodes"
        assert {taken for taken, _ in cut} == {1, 2, 3}, "ends at every place of a chunk"
        assert {success for _, success in cut} == {False, True}


def test_one_chunk_is_as_many_single_steps() -> None:
    """No look in between: the same actions one by one end at the same states."""
    with make_pool() as chunks, make_pool() as singles:
        chunks.start()
        singles.start()
        given = actions(0, 0)
        chunks.send(0, given)
        whole = chunks.receive(0)
        for step in range(CHUNK):
            singles.send(0, given[:, 7 * step : 7 * step + 7])
            last = singles.receive(0)
        assert whole.num_taken is not None
        running = ~(whole.terminated | whole.truncated)
        assert running.any()
        for i in np.flatnonzero(running):
            assert whole.state_digests[i] == last.state_digests[i]
            assert np.array_equal(whole.observation.images[i], last.observation.images[i])


@pytest.mark.parametrize("chunk", [max(HORIZONS), 4 * max(HORIZONS)])
def test_a_chunk_longer_than_an_episode_ends_it(chunk: int) -> None:
    with make_pool() as pool:
        pool.start()
        for t in range(3):
            running = pool.active(0)
            specs = pool.specs(0)
            pool.send(0, actions(0, t, chunk))
            step = pool.receive(0)
            assert step.num_taken is not None
            horizons = np.array([HORIZONS[spec.task] for spec in specs])
            assert (step.terminated | step.truncated)[running].all()
            assert (step.num_taken <= horizons)[running].all()
            assert (step.num_taken == horizons)[step.truncated].all()
        assert (pool.episode_step(0) == 0).all()


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_nothing(undisturbed: list[tuple[object, ...]], workers: int) -> None:
    with make_pool(workers) as pool:
        pool.start()
        assert run(pool) == undisturbed


@pytest.mark.parametrize("fault", ["raise", "kill"])
@pytest.mark.parametrize("fault_step", [3, 4])
def test_a_failure_within_a_chunk_is_replayed(
    tmp_path: Path, undisturbed: list[tuple[object, ...]], fault: str, fault_step: int
) -> None:
    with make_pool(2, fault=fault, fault_step=fault_step, folder=str(tmp_path)) as pool:
        pool.start()
        assert run(pool) == undisturbed
    assert len(list(tmp_path.iterdir())) == 1, "it happened"


def test_a_second_failure_at_the_same_control_step_errs_the_episode_there(tmp_path: Path) -> None:
    with make_pool(1, fault="raise", fault_step=4, fault_times=2, folder=str(tmp_path)) as pool:
        pool.start()
        found = []
        for t in range(NUM_STEPS):
            for group in range(2):
                before = pool.episode_step(group)
                pool.send(group, actions(group, t))
                step = pool.receive(group)
                assert step.num_taken is not None
                found += [(int(before[i]), int(step.num_taken[i])) for i in np.flatnonzero(step.errored)]
        assert found == [(3, 2)], "the second control step of a chunk that began at step 3"


def test_a_restored_pool_goes_on_between_chunks(undisturbed: list[tuple[object, ...]]) -> None:
    with make_pool() as pool:
        pool.start()
        run(pool, 0, 4)
        stored = pack_slots(pool.slots())
        assert {len(state.actions) % CHUNK for state in unpack_slots(stored)} == {0}
        assert any(len(state.actions) for state in unpack_slots(stored))
    with make_pool(2) as pool:
        pool.restore(unpack_slots(stored))
        assert run(pool, 4) == undisturbed[8:]
