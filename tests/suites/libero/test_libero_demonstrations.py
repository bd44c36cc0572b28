"""Demonstrations as LIBERO's own script writes them, on the real simulation: read, replayed, and refused when off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from official_file import INSTRUCTION, SIDE, TASK, write_official_file

from vlarl.check_demos import check_demonstrations, check_json, check_notes, check_rows
from vlarl.cli import main
from vlarl.errors import AssetError, Exit
from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.demonstration_replay import check_file
from vlarl.suites.demonstration_steps import load_demonstrations
from vlarl.suites.demonstrations import read_trajectories
from vlarl.suites.recording import RecordingJob, record

NUM_STEPS = 8


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """The beginning of a demonstration, and what was really seen before each action."""
    path = tmp_path_factory.mktemp("official") / f"{TASK}_demo.hdf5"
    return path, write_official_file(path, num_steps=NUM_STEPS)


@pytest.fixture
def path(written: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copy(written[0], tmp_path))


def test_images_actions_and_states_are_those_of_the_moment_before_the_action(written, path: Path) -> None:
    seen = written[1]
    (found,) = read_trajectories(path)
    assert found.instruction == INSTRUCTION
    assert (found.spec, found.success) == (None, True)
    assert len(found.actions) == NUM_STEPS - 1, "what was seen before the first action is not in the file"
    assert np.array_equal(found.images, seen["images"][1:])
    assert np.array_equal(found.actions, seen["actions"][1:].astype(np.float32))
    assert np.abs(found.signals["joint_states"] - found.signals["states"][:, 1:8]).max() < 1e-2
    assert (seen["images"][1:] != seen["images"][:-1]).any(axis=(1, 2, 3)).all(), "every step looks different"


def test_steps_for_cloning_fit_the_suite(path: Path) -> None:
    loaded = load_demonstrations([path], image_size=96, suite_kind="libero")
    assert loaded.images.shape == (NUM_STEPS - 1, 96, 96, 3)
    assert loaded.resized_from == (SIDE,)


def test_a_replay_meets_the_stored_states_and_tells_that_the_task_is_not_done(path: Path) -> None:
    """The file is cut before success, which it claims all the same."""
    done = check_demonstrations(path)
    (found,) = done.files[0].demonstrations
    assert (found.first_step, found.stored_success, found.success) == (None, True, False)
    assert found.deviation < 1e-6
    assert found.fixtures == "from model_file"
    assert done.exit_status is Exit.DRIFT
    assert check_rows(done)[0][:5] == (path.name, TASK, "0/1", "1/1", "0/1")
    assert "ends in failure, stored as success" in check_notes(done)[0]
    assert json.loads(json.dumps(check_json(done)))["ok"] is False


def test_states_that_do_not_reproduce_are_found_at_their_step(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["data/demo_0/states"][5, 3] += 0.5
        file["data/demo_0/dones"][-1] = 0
        del file["data/demo_0"].attrs["model_file"]
    done = check_demonstrations(path)
    (found,) = done.files[0].demonstrations
    assert found.first_step == 5
    assert found.deviation == pytest.approx(0.5, rel=1e-3)
    assert found.fixtures == "as seed 0 puts them"
    assert done.exit_status is Exit.DRIFT
    assert any("no model_file" in note for note in check_notes(done))


def test_fixtures_stand_where_the_model_file_has_them(written, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were placed by the fourth reset, the check's own simulation resets once."""
    from vlarl.suites.libero.stage import Stage

    used = []
    start_from = Stage.start_from

    def recorded(self, state, fixtures):
        start = start_from(self, state, fixtures)
        for name, (position, _) in fixtures.items():
            assert np.array_equal(start.body_positions[self.model.body(name).id], position)
            assert not np.array_equal(self.model.body(name).pos, position), "the shared model is as before"
        used.extend(fixtures)
        return start

    monkeypatch.setattr(Stage, "start_from", recorded)
    check_file(written[0])
    assert any("cabinet" in name for name in used)
    assert not any(name.startswith(("robot0", "table", "akita")) for name in used)


def test_what_collect_recorded_reproduces_to_the_bit(tmp_path: Path) -> None:
    recorded = record(
        RecordingJob(
            suite=LiberoSpec(name="libero_goal", tasks=[TASK], image_size=32, render_quality="fast"),
            task=0,
            num_episodes=1,
            noise=0.1,
            noise_fraction=0.5,
            bias=(0.0, 0.0, 0.0),
            seed=3,
            path=tmp_path / f"{TASK}_demo.hdf5",
        )
    )
    done = check_demonstrations(recorded.path, suite="libero_goal")
    (found,) = done.files[0].demonstrations
    assert (found.deviation, found.success, found.num_steps) == (0.0, True, recorded.num_steps)
    assert done.exit_status is Exit.OK
    assert check_notes(done) == []


# --- what is off


def expect(path: Path, code: str, words: str, *, suite: str | None = None) -> None:
    with pytest.raises(AssetError) as caught:
        check_file(path, suite=suite)
    assert (caught.value.code, caught.value.exit_status) == (code, Exit.ENVIRONMENT)
    assert words in caught.value.message
    assert caught.value.hint


def test_another_suite_than_asked_for(path: Path) -> None:
    expect(path, "R317", "libero_goal", suite="libero_10")


def test_a_task_that_nobody_knows(path: Path, tmp_path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["data"].attrs["bddl_file_name"] = "bddl/fold_the_napkin.bddl"
        file["data"].attrs["env_args"] = "{}"
    expect(path.rename(tmp_path / "mine.hdf5"), "R317", "which task")


def test_states_of_another_scene(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        states = file["data/demo_0/states"][:, :-6]
        del file["data/demo_0/states"]
        file["data/demo_0/states"] = states
    expect(path, "R316", "other objects")


@pytest.mark.parametrize("model", ["<mujoco", '<mujoco><worldbody><body name="a" pos="0 nan 0"/></worldbody></mujoco>'])
def test_a_model_that_is_no_model(path: Path, model: str) -> None:
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["model_file"] = model
    expect(path, "R311", "model_file")


def test_a_file_without_states(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/states"]
    expect(path, "R311", "states")


def test_a_truncated_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20_000])
    expect(path, "R311", path.name)


@pytest.mark.parametrize(("words", "status"), [(["nowhere"], 4), (["nowhere", "--suite", "libero_goa"], 2)])
def test_the_command_line_says_so_in_one_document(words: list[str], status: int, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check-demos", *words, "--json"])
    assert ended.value.code == status
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert told["error"]["hint"]
