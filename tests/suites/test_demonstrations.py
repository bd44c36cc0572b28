"""Demonstration files: LIBERO's layout, whole or not there, and a word for each that cannot be read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from vlarl.errors import AssetError, Exit
from vlarl.suites.demonstration_steps import load_demonstrations
from vlarl.suites.demonstrations import (
    DemonstrationWriter,
    demonstration_files,
    read_trajectories,
)
from vlarl.types import EpisodeSpec, Task, Trajectory

TASK = Task(suite="tabletop_basic", index=2, name="lift_red", instruction="lift the red cube", horizon=80)
SIDE = 8


def trajectory(length: int, seed: int, *, success: bool = True, spec: EpisodeSpec | None = None) -> Trajectory:
    drawn = np.random.default_rng(seed)
    actions = drawn.uniform(-1, 1, (length, 7)).astype(np.float32)
    return Trajectory(
        instruction=TASK.instruction,
        images=drawn.integers(0, 256, (length, SIDE, SIDE, 3), dtype=np.uint8),
        actions=actions,
        executed=actions + np.float32(0.125),
        signals={
            "ee_pos": drawn.normal(size=(length, 3)),
            "gripper_states": drawn.normal(size=(length, 2)),
            "states": drawn.normal(size=(length, 11)),
        },
        spec=spec,
        success=success,
    )


def writer(path: Path) -> DemonstrationWriter:
    return DemonstrationWriter(
        path, TASK, suite={"kind": "tabletop", "name": "tabletop_basic"}, control_hz=20.0, image_size=SIDE
    )


def written(path: Path, *trajectories: Trajectory) -> Path:
    writing = writer(path)
    for each in trajectories:
        writing.add(each)
    writing.commit()
    return path


@pytest.fixture
def episodes() -> list[Trajectory]:
    spec = EpisodeSpec(2, "train", 17, 2**31 - 1)
    return [trajectory(5, 0, spec=spec), trajectory(3, 1, success=False), *(trajectory(2, k) for k in range(2, 12))]


@pytest.fixture
def path(tmp_path: Path, episodes: list[Trajectory]) -> Path:
    return written(tmp_path / "lift_red_demo.hdf5", *episodes)


def test_what_is_read_is_bit_for_bit_what_was_written(path: Path, episodes: list[Trajectory]) -> None:
    """Twelve of them, so that demo_10 must come after demo_9."""
    found = list(read_trajectories(path))
    assert len(found) == len(episodes)
    for one, other in zip(found, episodes, strict=True):
        for name in ("images", "actions", "executed"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
            assert getattr(one, name).dtype == getattr(other, name).dtype, name
        assert one.signals.keys() == other.signals.keys()
        for name, values in other.signals.items():
            assert np.array_equal(one.signals[name], values), name
        assert (one.instruction, one.spec, one.success) == (other.instruction, other.spec, other.success)
        assert one.images.flags["C_CONTIGUOUS"]


def test_images_are_stored_turned_by_180_degrees(path: Path, episodes: list[Trajectory]) -> None:
    with h5py.File(path) as file:
        stored = file["data/demo_0/obs/agentview_rgb"][:]
    assert np.array_equal(stored, np.rot90(episodes[0].images, 2, axes=(1, 2)))
    assert not np.array_equal(stored, episodes[0].images[:, ::-1]), "turned, not mirrored"


def test_the_layout_is_liberos(path: Path, episodes: list[Trajectory]) -> None:
    with h5py.File(path) as file:
        data = file["data"]
        environment, problem = json.loads(data.attrs["env_args"]), json.loads(data.attrs["problem_info"])
        assert environment["env_name"] == data.attrs["env_name"] == "tabletop_basic"
        assert environment["env_kwargs"]["control_freq"] == 20.0
        assert environment["env_kwargs"]["camera_heights"] == SIDE
        assert problem["language_instruction"] == TASK.instruction
        assert problem["problem_name"] == TASK.name
        assert (data.attrs["num_demos"], data.attrs["total"]) == (12, 28)
        demo = data["demo_0"]
        assert set(demo) == {"actions", "executed_actions", "states", "rewards", "dones", "obs"}
        assert set(demo["obs"]) == {"agentview_rgb", "ee_pos", "gripper_states"}
        assert demo["actions"].dtype == np.float64
        assert demo["obs/agentview_rgb"].dtype == np.uint8
        assert demo.attrs["num_samples"] == 5
        assert np.array_equal(demo.attrs["init_state"], episodes[0].signals["states"][0])
        assert demo["rewards"][:].tolist() == demo["dones"][:].tolist() == [0, 0, 0, 0, 1]
        assert data["demo_1/dones"][:].tolist() == [0, 0, 0]


def test_a_file_of_libero_itself_needs_nothing_of_ours(tmp_path: Path) -> None:
    """No executed actions, no episode, no states."""
    path = tmp_path / "official.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": "open the drawer"})
        demo = data.create_group("demo_0")
        demo["actions"] = np.full((2, 7), 0.5)
        demo["obs/agentview_rgb"] = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
        demo["obs/eye_in_hand_rgb"] = np.zeros((2, 4, 4, 3), np.uint8)
        demo["obs/ee_pos"] = np.zeros((2, 3))
    (found,) = read_trajectories(path)
    assert found.instruction == "open the drawer"
    assert (found.spec, found.success) == (None, True)
    assert np.array_equal(found.executed, found.actions)
    assert set(found.signals) == {"ee_pos"}, "other cameras are not signals"


def official(path: Path, *, observed_after: bool, states: bool = True, libero: bool = True) -> Path:
    """Six steps whose arm, and whose image's grey, is at t before action t."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if libero:
            data.attrs["bddl_file_name"] = "libero/libero/bddl_files/libero_goal/turn_on_the_stove.bddl"
        places = np.arange(6.0) + observed_after
        demo = data.create_group("demo_0")
        demo["actions"] = np.tile(np.arange(6.0)[:, None] / 8, 7)
        demo["obs/agentview_rgb"] = np.tile(places.astype(np.uint8)[:, None, None, None], (4, 4, 3))
        demo["obs/joint_states"] = np.tile(places[:, None] - 0.04, 7)  # read a moment before the step ends
        if states:
            demo["states"] = np.tile(np.arange(6.0)[:, None], 12)
    return path


@pytest.mark.parametrize(
    ("observed_after", "states", "libero"),
    [(True, True, True), (True, True, False), (False, True, True), (False, True, False), (True, False, True)],
)
def test_what_was_seen_goes_with_the_action_that_followed(
    tmp_path: Path, observed_after: bool, states: bool, libero: bool
) -> None:
    """By measurement where states and joints are there, by LIBERO's own attributes else."""
    path = tmp_path / "turn_on_the_stove_demo.hdf5"
    (found,) = read_trajectories(official(path, observed_after=observed_after, states=states, libero=libero))
    assert found.instruction == "turn on the stove", "of a file without problem_info"
    assert len(found.actions) == len(found.images) == 6 - observed_after
    assert np.array_equal(found.images[:, 0, 0, 0] / 8, found.actions[:, 0])
    for name, values in found.signals.items():
        assert np.abs(values[:, 3] - found.images[:, 0, 0, 0]).max() < 0.05, name


@pytest.mark.parametrize("convention", ["opengl", "opencv"])
def test_images_look_the_same_in_both_of_robosuites_conventions(tmp_path: Path, convention: str) -> None:
    one = trajectory(2, 0)
    path = written(tmp_path / "demo.hdf5", one)
    with h5py.File(path, "r+") as file:
        file["data"].attrs["macros_image_convention"] = convention
        images = file["data/demo_0/obs/agentview_rgb"]
        images[...] = images[:][:, ::-1] if convention == "opencv" else images[:]
    (found,) = read_trajectories(path)
    assert np.array_equal(found.images, one.images)


def test_nothing_has_the_final_name_before_commit(tmp_path: Path) -> None:
    path = tmp_path / "new" / "demo.hdf5"
    writing = writer(path)
    writing.add(trajectory(3, 0))
    assert not path.exists()
    writing.commit()
    assert [child.name for child in path.parent.iterdir()] == ["demo.hdf5"]


def test_an_abandoned_file_leaves_nothing_and_harms_nothing(path: Path, episodes: list[Trajectory]) -> None:
    before = path.read_bytes()
    writing = writer(path)
    writing.add(trajectory(3, 99))
    writing.abandon()
    assert path.read_bytes() == before
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_a_leftover_of_a_killed_writer_is_not_taken_for_demonstrations(tmp_path: Path) -> None:
    written(tmp_path / "a_demo.hdf5", trajectory(3, 0))
    (tmp_path / "b_demo.hdf5.partial").write_bytes(b"half")
    assert [file.name for file in demonstration_files(tmp_path)] == ["a_demo.hdf5"]


def test_files_of_a_folder_come_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        written(tmp_path / f"{name}.hdf5", trajectory(2, 0))
    assert [file.name for file in demonstration_files(tmp_path)] == ["a.hdf5", "b.hdf5", "c.hdf5"]
    assert demonstration_files(tmp_path / "b.hdf5") == [tmp_path / "b.hdf5"]


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_demonstrations_is_an_error_with_a_hint(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssetError) as caught:
        demonstration_files(tmp_path / name)
    assert (caught.value.code, caught.value.exit_status) == ("R310", Exit.ENVIRONMENT)
    assert "vlarl collect" in str(caught.value.hint)


# --- for behaviour cloning ---


def test_all_steps_of_all_files_side_by_side(tmp_path: Path) -> None:
    one, two, three = trajectory(2, 0), replace(trajectory(3, 1), instruction="push it"), trajectory(1, 2)
    other = Task(suite="s", index=0, name="push", instruction="push it", horizon=9)
    files = [tmp_path / "a.hdf5", tmp_path / "b.hdf5", tmp_path / "c.hdf5"]
    written(files[0], one)
    writing = DemonstrationWriter(files[1], other, suite={}, control_hz=20.0, image_size=SIDE)
    writing.add(two)
    writing.commit()
    written(files[2], three)
    loaded = load_demonstrations(files, image_size=SIDE)
    assert loaded.instructions == (TASK.instruction, "push it")
    assert loaded.tasks.tolist() == [0, 0, 1, 1, 1, 0]
    assert np.array_equal(loaded.images, np.concatenate([one.images, two.images, three.images]))
    assert np.array_equal(loaded.actions, np.concatenate([one.actions, two.actions, three.actions]))
    assert loaded.actions.dtype == np.float32


def test_images_of_another_size_are_an_error_whose_hint_fits(path: Path) -> None:
    with pytest.raises(AssetError) as caught:
        load_demonstrations([path], image_size=64)
    assert caught.value.code == "R312"
    assert "8 x 8" in caught.value.message
    assert "suite.image_size" not in str(caught.value.hint), "no suite renders as small as that"


def test_images_that_are_too_small_are_not_blown_up(tmp_path: Path) -> None:
    path = written(tmp_path / "demo.hdf5", replace(trajectory(2, 0), images=np.zeros((2, 128, 128, 3), np.uint8)))
    with pytest.raises(AssetError) as caught:
        load_demonstrations([path], image_size=256)
    assert caught.value.code == "R312"
    assert "--set suite.image_size=128" in str(caught.value.hint)


def test_larger_images_are_made_smaller(tmp_path: Path) -> None:
    """Left half black, right half white: the halves stay where they are."""
    images = np.zeros((2, 128, 128, 3), np.uint8)
    images[:, :, 64:] = 255
    path = written(tmp_path / "demo.hdf5", replace(trajectory(2, 0), images=images))
    other = written(tmp_path / "other.hdf5", trajectory(2, 1))
    loaded = load_demonstrations([path], image_size=64)
    assert loaded.images.shape == (2, 64, 64, 3)
    assert loaded.resized_from == (128,)
    assert loaded.images[:, :, :29].max() == 0
    assert loaded.images[:, :, 35:].min() == 255
    assert load_demonstrations([other], image_size=SIDE).resized_from == ()


def test_demonstrations_of_another_kind_of_suite_are_refused(path: Path) -> None:
    assert len(load_demonstrations([path], image_size=SIDE, suite_kind="tabletop"))
    with pytest.raises(AssetError) as caught:
        load_demonstrations([path], image_size=SIDE, suite_kind="libero")
    assert (caught.value.code, caught.value.exit_status) == ("R317", Exit.ENVIRONMENT)


def test_no_ops_are_left_out_and_counted(tmp_path: Path) -> None:
    one = trajectory(5, 0)
    one.actions[[1, 2, 4], :6] = 0.0
    one.actions[:, 6] = [-1, -1, 1, 1, 1]  # step 2 closes the gripper
    still = replace(trajectory(3, 1), actions=np.zeros((3, 7), np.float32))
    path = written(tmp_path / "demo.hdf5", one, still)
    loaded = load_demonstrations([path], image_size=SIDE, drop_noops=True)
    assert np.array_equal(loaded.images, one.images[[0, 2, 3]])
    assert np.array_equal(loaded.actions, one.actions[[0, 2, 3]])
    assert loaded.num_noops == 5
    assert load_demonstrations([path], image_size=SIDE).num_noops == 0
    with pytest.raises(AssetError) as caught:
        load_demonstrations([written(tmp_path / "still.hdf5", still)], image_size=SIDE, drop_noops=True)
    assert caught.value.code == "R313"


def test_a_file_without_episodes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssetError) as caught:
        load_demonstrations([written(tmp_path / "empty.hdf5")], image_size=SIDE)
    assert caught.value.code == "R313"


# --- files that are off ---


def removed(name: str) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]

    return edit


def stored(name: str, value: object) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = value

    return edit


def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        owner = file["data/demo_0"] if name == "episode" else file["data"]
        if value is None:
            del owner.attrs[name]
        else:
            owner.attrs[name] = value

    return edit


def no_number(file: h5py.File) -> None:
    file["data/demo_0/actions"][1, 2] = np.nan


def no_step(file: h5py.File) -> None:
    stored(ACTIONS, np.zeros((0, 7)))(file)
    stored(IMAGES, np.zeros((0, 8, 8, 3), np.uint8))(file)


def group_for_actions(file: h5py.File) -> None:
    del file[ACTIONS]
    file.create_group(ACTIONS)


ACTIONS, IMAGES = "data/demo_0/actions", "data/demo_0/obs/agentview_rgb"
DAMAGES: dict[str, Callable[[h5py.File], None]] = {
    "no data": removed("data"),
    "data is an array": stored("data", np.zeros(3)),
    "no actions": removed(ACTIONS),
    "no images": removed(IMAGES),
    "no obs": removed("data/demo_0/obs"),
    "actions are a group": group_for_actions,
    "flat actions": stored(ACTIONS, np.zeros(35)),
    "actions are text": stored(ACTIONS, [["a"] * 7] * 5),
    "actions are no numbers": no_number,
    "too few actions": stored(ACTIONS, np.zeros((4, 7))),
    "no step at all": no_step,
    "float images": stored(IMAGES, np.zeros((5, 8, 8, 3))),
    "grey images": stored(IMAGES, np.zeros((5, 8, 8), np.uint8)),
    "four channels": stored(IMAGES, np.zeros((5, 8, 8, 4), np.uint8)),
    "too few dones": stored("data/demo_0/dones", np.zeros(0, np.uint8)),
    "executed of another length": stored("data/demo_0/executed_actions", np.zeros((4, 7))),
    "signals of another length": stored("data/demo_0/obs/ee_pos", np.zeros((4, 3))),
    "another group": stored("data/mask/train", np.zeros(2)),
    "demo is an array": stored("data/demo_0", np.zeros(2)),
    "no instruction": attribute("problem_info", None),
    "instruction is not JSON": attribute("problem_info", "{"),
    "JSON without instruction": attribute("problem_info", "{}"),
    "images of another convention": attribute("macros_image_convention", "vulkan"),
    "JSON that is a list": attribute("problem_info", "[1]"),
    "episode of other fields": attribute("episode", '{"task": 1, "colour": 2}'),
    "episode is not JSON": attribute("episode", "}"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_file_that_is_off_is_one_clear_error(tmp_path: Path, damage: Callable[[h5py.File], None]) -> None:
    path = written(tmp_path / "demo.hdf5", trajectory(5, 0, spec=EpisodeSpec(0, "train", 0, 0)))
    with h5py.File(path, "r+") as file:
        damage(file)
    expect_unreadable(path)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"robots": ["Sawyer"]}, "Sawyer"),
        ({"robots": ["Panda", "Panda"]}, "Panda, Panda"),
        ({"robots": []}, "no name"),
        ({"controller_configs": {"type": "JOINT_POSITION"}}, "JOINT_POSITION"),
        ({"controller_configs": {"type": "OSC_POSE", "control_delta": False}}, "absolute"),
    ],
)
def test_another_robot_or_controller_is_refused(tmp_path: Path, environment: dict[str, object], words: str) -> None:
    path = written(tmp_path / "demo.hdf5", trajectory(5, 0))
    with h5py.File(path, "r+") as file:
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": environment})
    expect_another_robot(path, words)


def test_another_action_space_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "demo.hdf5", trajectory(5, 0))
    with h5py.File(path, "r+") as file:
        stored(ACTIONS, np.zeros((5, 6)))(file)
    expect_another_robot(path, "6 numbers")


def expect_another_robot(path: Path, words: str) -> None:
    with pytest.raises(AssetError) as caught:
        list(read_trajectories(path))
    assert (caught.value.code, caught.value.exit_status) == ("R316", Exit.ENVIRONMENT)
    assert words in caught.value.message
    assert caught.value.hint


def expect_unreadable(path: Path) -> None:
    with pytest.raises(AssetError) as caught:
        list(read_trajectories(path))
    assert caught.value.code == "R311"
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\0" * 500])
def test_a_file_of_another_kind_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "demo.hdf5"
    path.write_bytes(content)
    expect_unreadable(path)


def test_a_folder_named_like_a_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "demo.hdf5"
    path.mkdir()
    expect_unreadable(path)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_truncated_file_is_one_clear_error(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    expect_unreadable(path)


def test_flipped_bytes_give_an_error_or_an_answer_but_no_crash(tmp_path: Path) -> None:
    path = written(tmp_path / "demo.hdf5", trajectory(5, 0), trajectory(4, 1))
    whole, drawn, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(100):
        spoiled = bytearray(whole)
        for _ in range(8):
            spoiled[drawn.randrange(len(spoiled))] = drawn.randrange(256)
        path.write_bytes(spoiled)
        try:
            list(read_trajectories(path))
        except AssetError:
            refused += 1
    assert refused > 10
