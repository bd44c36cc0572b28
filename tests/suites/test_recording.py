"""Recording scripted experts: repeatable, successes only, clean labels under noise."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_suite import IMAGE_SIZE, NUM_INITS, ScriptedSpec, ScriptedSuite, expert_action

from vlarl.errors import RunError
from vlarl.suites.demonstration_steps import load_demonstrations
from vlarl.suites.demonstrations import read_trajectories
from vlarl.suites.recording import RecordingJob, RecordingResult, record, record_all
from vlarl.types import Trajectory


def job(path: Path, spec: ScriptedSpec | None = None, **fields: Any) -> RecordingJob:
    blank: dict[str, Any] = {
        "task": 0,
        "num_episodes": 4,
        "noise": 0.4,
        "noise_fraction": 0.5,
        "seed": 3,
        "bias": (0, 0, 0),
    }
    return RecordingJob(suite=spec or ScriptedSpec(), path=path, **{**blank, **fields})


def recorded(path: Path, spec: ScriptedSpec | None = None, **fields: Any) -> list[Trajectory]:
    record(job(path, spec, **fields))
    return list(read_trajectories(path))


def same(one: list[Trajectory], other: list[Trajectory]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a.actions, b.actions)
        and np.array_equal(a.executed, b.executed)
        and np.array_equal(a.images, b.images)
        and a.spec == b.spec
        for a, b in zip(one, other, strict=True)
    )


def test_one_job_one_result(tmp_path: Path) -> None:
    result = record(job(tmp_path / "a.hdf5"))
    assert (result.task, result.recorded, result.path) == (0, 4, tmp_path / "a.hdf5")
    found = list(read_trajectories(result.path))
    assert result.num_steps == sum(len(each.actions) for each in found)
    assert same(found, recorded(tmp_path / "b.hdf5"))


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"task": 1}, {"noise": 0.1}, {"noise_fraction": 0.2}, {"bias": (0, 0.1, 0)}]
)
def test_what_a_job_says_matters(tmp_path: Path, change: dict[str, Any]) -> None:
    assert not same(recorded(tmp_path / "a.hdf5"), recorded(tmp_path / "b.hdf5", **change))


def test_episodes_begin_on_consecutive_training_states_with_seeds_of_their_own(tmp_path: Path) -> None:
    specs = [each.spec for each in recorded(tmp_path / "a.hdf5", num_episodes=NUM_INITS + 2, noise=0.0)]
    assert [spec.init for spec in specs if spec] == [k % NUM_INITS for k in range(NUM_INITS + 2)]
    assert {spec.split for spec in specs if spec} == {"train"}
    assert len({spec.seed for spec in specs if spec}) == len(specs)


def test_only_successes_are_kept(tmp_path: Path) -> None:
    spec = ScriptedSpec(bad_inits=[1, 3])
    result = record(job(tmp_path / "a.hdf5", spec))
    found = list(read_trajectories(result.path))
    assert (result.recorded, result.tried) == (4, 6)
    assert [each.spec.init for each in found if each.spec] == [0, 2, 4, 5]
    assert all(each.success for each in found)


def test_images_are_those_before_each_action(tmp_path: Path) -> None:
    (first, *_) = recorded(tmp_path / "a.hdf5")
    suite = ScriptedSuite(ScriptedSpec())
    simulation = suite.simulation(0)
    assert first.spec is not None
    simulation.begin(first.spec)
    for t, action in enumerate(first.executed):
        image = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        simulation.render_into(image)
        assert np.array_equal(first.images[t], image)
        assert np.array_equal(first.signals["ee_pos"][t], simulation.place)
        outcome = simulation.advance(action)
    assert outcome.terminated, "replaying what was executed succeeds"


def test_labels_are_the_experts_own_where_noise_has_brought_it(tmp_path: Path) -> None:
    simulation = ScriptedSuite(ScriptedSpec()).simulation(0)
    for each in recorded(tmp_path / "a.hdf5", noise=0.5, noise_fraction=1.0):
        places, goals = each.signals["states"][:, :3], each.signals["states"][:, 3:]
        for away, label in zip(goals - places, each.actions, strict=True):
            assert np.array_equal(label, expert_action(away, simulation))


def test_a_bias_is_in_the_labels_and_stays_in_range(tmp_path: Path) -> None:
    simulation = ScriptedSuite(ScriptedSpec()).simulation(0)
    clipped = 0
    for each in recorded(tmp_path / "a.hdf5", noise=0.3, noise_fraction=1.0, bias=(0.2, 0.0, -0.1)):
        places, goals = each.signals["states"][:, :3], each.signals["states"][:, 3:]
        for away, label in zip(goals - places, each.actions, strict=True):
            meant = expert_action(away, simulation)
            meant[:3] += np.float32((0.2, 0.0, -0.1))
            clipped += int(np.abs(meant[:3]).max() > 1.0)
            assert np.array_equal(label, np.clip(meant, -1.0, 1.0))
    assert clipped > 0


def test_noise_moves_the_translation_alone_and_stays_in_range(tmp_path: Path) -> None:
    found = recorded(tmp_path / "a.hdf5", noise=0.5, noise_fraction=0.5, num_episodes=12)
    labels = np.concatenate([each.actions for each in found])
    executed = np.concatenate([each.executed for each in found])
    assert np.array_equal(labels[:, 3:], executed[:, 3:])
    assert np.abs(executed).max() <= 1.0
    moved = (labels != executed).any(axis=1)
    assert 0.35 < moved.mean() < 0.65  # half of the steps; 100 or more of them


@pytest.mark.parametrize("quiet", [{"noise": 0.0}, {"noise_fraction": 0.0}])
def test_without_noise_the_label_is_executed(tmp_path: Path, quiet: dict[str, Any]) -> None:
    for each in recorded(tmp_path / "a.hdf5", **quiet):
        assert np.array_equal(each.actions, each.executed)


def test_a_task_the_expert_cannot_solve_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        record(job(tmp_path / "a.hdf5", ScriptedSpec(bad_inits=list(range(NUM_INITS)))))
    assert caught.value.code == "X521"
    assert "`go_0`" in caught.value.message
    assert "0 of 32" in caught.value.message  # 20 more than three tries each
    assert list(tmp_path.iterdir()) == []


def test_a_simulator_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError):
        record(job(tmp_path / "a.hdf5", ScriptedSpec(breaks_at=3)))
    assert list(tmp_path.iterdir()) == []


def test_processes_record_what_one_does_and_in_the_jobs_order(tmp_path: Path) -> None:
    jobs = [job(tmp_path / f"{task}.hdf5", task=task, num_episodes=3) for task in (1, 0)]
    heard: list[RecordingResult] = []
    results = record_all(jobs, num_workers=2, progress=heard.append)
    assert [result.task for result in results] == [1, 0]
    assert sorted(heard, key=lambda result: -result.task) == results
    for each in results:
        assert same(
            list(read_trajectories(each.path)), recorded(tmp_path / "again.hdf5", task=each.task, num_episodes=3)
        )
    loaded = load_demonstrations([result.path for result in results], image_size=IMAGE_SIZE)
    assert loaded.instructions == ("go there 1", "go there 0")


def test_several_processes_a_task_record_the_same_file(tmp_path: Path) -> None:
    spec = ScriptedSpec(bad_inits=[1, 3])

    def jobs(folder: str) -> list[RecordingJob]:
        (tmp_path / folder).mkdir()
        return [job(tmp_path / folder / f"{task}.hdf5", spec, task=task, num_episodes=6) for task in (1, 0)]

    alone = record_all(jobs("alone"), num_workers=2)
    shared = record_all(jobs("shared"), num_workers=5)
    for one, other in zip(alone, shared, strict=True):
        assert replace(one, path=other.path) == other
        assert other.tried > other.recorded == 6
        assert one.path.read_bytes() == other.path.read_bytes()


@pytest.mark.parametrize(
    ("change", "error"), [({"bad_inits": list(range(NUM_INITS))}, RunError), ({"breaks_at": 3}, ArithmeticError)]
)
def test_several_processes_a_task_leave_nothing_when_one_fails(
    tmp_path: Path, change: dict[str, Any], error: type[Exception]
) -> None:
    jobs = [job(tmp_path / f"{task}.hdf5", ScriptedSpec(**change), task=task) for task in (0, 1)]
    with pytest.raises(error):
        record_all(jobs, num_workers=4)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_one_job_ends_the_others_at_once(tmp_path: Path) -> None:
    bad = ScriptedSpec(bad_inits=list(range(NUM_INITS)))
    jobs = [job(tmp_path / "bad.hdf5", bad), job(tmp_path / "long.hdf5", task=1, num_episodes=10**6)]
    with pytest.raises(RunError):
        record_all(jobs, num_workers=2)
    assert multiprocessing.active_children() == []
    assert list(tmp_path.iterdir()) == []


def test_it_stops_while_it_records(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_all([job(tmp_path / "long.hdf5", num_episodes=10**6)], num_workers=1, waiting=stop)
    assert multiprocessing.active_children() == []
    assert list(tmp_path.iterdir()) == []


def test_attempts_beyond_the_init_states_are_episodes_of_their_own(tmp_path: Path) -> None:
    found = recorded(tmp_path / "a.hdf5", num_episodes=2 * NUM_INITS + 2, noise=0.5, noise_fraction=1.0)
    first = {(each.spec.init, each.executed[0].tobytes()) for each in found if each.spec}
    assert len({init for init, _ in first}) <= NUM_INITS < len(found) == len(first)
