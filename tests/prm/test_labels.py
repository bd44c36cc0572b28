"""From demonstration files to a label data set: what is positive, where negatives come from, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_trajectories import SIDE, picture, trajectory, two_tasks, write
from PIL import Image

from vlarl.digest import file_digest, tree_digest
from vlarl.errors import AssetError, Exit
from vlarl.prm.dataset import DATA, LabelSet, open_labels
from vlarl.prm.label import label_segments
from vlarl.prm.labelling import SOURCES
from vlarl.recipe.load import parse_recipe
from vlarl.types import Trajectory

KNOBS = ["labels.positive_window=3", "labels.far_distance=6"]


def labelled(folder: Path, *paths: Path, knobs: tuple[str, ...] = ()) -> LabelSet:
    label_segments(parse_recipe("", [*KNOBS, *knobs]).recipe, folder, demonstrations=paths)
    return open_labels(folder)


@pytest.fixture
def labels(tmp_path: Path) -> LabelSet:
    (tmp_path / "demos").mkdir()
    return labelled(tmp_path / "labels", two_tasks(tmp_path / "demos"))


def chosen(labels: LabelSet, source: str) -> np.ndarray:
    return np.flatnonzero(labels.examples.sources == SOURCES.index(source))


def steps_of(labels: LabelSet, rows: np.ndarray) -> np.ndarray:
    """Step within its trajectory of each example."""
    examples = labels.examples.take(rows)
    return examples.frames - labels.trajectories["first_frame"][examples.trajectories]


def test_positives_are_the_steps_that_lead_to_keyframes(labels: LabelSet) -> None:
    rows = chosen(labels, "keyframe")
    assert set(steps_of(labels, rows).tolist()) == {7, 8, 9, 21, 22, 23}
    assert len(rows) == 8 * 6
    assert (labels.examples.verdicts[rows] == 1).all()
    assert labels.trajectories["success"][labels.examples.trajectories[rows]].all()


def test_negatives_come_from_where_the_recipe_says(labels: LabelSet) -> None:
    examples, own = labels.examples, labels.trajectories["instruction"]
    counts = examples.counts()
    assert (counts["failed"], counts["far"]) == (48, 48)
    assert (counts["other_task"], counts["shuffled"]) == (24, 24)
    far = steps_of(labels, chosen(labels, "far"))
    assert set(far.tolist()) <= {*range(5), *range(10, 19)}
    assert not labels.trajectories["success"][examples.trajectories[chosen(labels, "failed")]].any()
    for source in SOURCES:
        rows = chosen(labels, source)
        is_foreign = own[examples.trajectories[rows]] != examples.instructions[rows]
        assert is_foreign.all() if source in ("other_task", "shuffled") else not is_foreign.any(), source


def test_progress_is_known_for_successes_and_nought_under_a_wrong_instruction(labels: LabelSet) -> None:
    progress = labels.examples.progress
    assert np.isnan(progress[chosen(labels, "failed")]).all()
    assert (progress[chosen(labels, "shuffled")] == 0).all()
    for source in ("keyframe", "far", "between"):
        rows = chosen(labels, source)
        steps = steps_of(labels, rows)
        expected = np.interp(steps, [0, 10, 24], [0, 0.5, 1])
        np.testing.assert_allclose(progress[rows], expected, atol=1e-6)


def test_failures_say_that_there_is_no_progress_where_the_recipe_says_so(tmp_path: Path, labels: LabelSet) -> None:
    said = labelled(tmp_path / "said", *(tmp_path / "demos").iterdir(), knobs=("labels.failed_progress=none",))
    rows = chosen(said, "failed")
    assert len(rows) == 48
    assert (said.examples.progress[rows] == 0).all()
    others = said.examples.sources != SOURCES.index("failed")
    assert np.array_equal(said.examples.progress[others], labels.examples.progress[others])


def test_frames_are_read_back_by_row(labels: LabelSet) -> None:
    rows = np.array([30, 0, 30, 7])
    with labels.frames() as reader:
        images = reader.read(rows)
    first = labels.trajectories["first_frame"]
    for image, row in zip(images, rows, strict=True):
        number = np.searchsorted(first, row, side="right") - 1
        channel = 1 if "green" in labels.instructions[labels.trajectories["instruction"][number]] else 0
        assert np.array_equal(image, picture(int(row - first[number]), channel))


def test_the_manifest_tells_sources_and_counts(labels: LabelSet, tmp_path: Path) -> None:
    manifest = json.loads((labels.path / "manifest.json").read_text())
    assert manifest["camera"] == {"suite": "tabletop", "image_size": SIDE}
    assert manifest["data"] == file_digest(labels.path / DATA)
    digests = {source["file"]: source["sha256"] for source in manifest["sources"]}
    assert digests == {path.name: file_digest(path) for path in (tmp_path / "demos").iterdir()}
    assert [(task["trajectories"], task["successes"], task["mean_keyframes"]) for task in manifest["tasks"]] == [
        (6, 4, 2.0),
        (6, 4, 2.0),
    ]


def test_a_contact_sheet_of_each_task_is_a_picture(labels: LabelSet) -> None:
    sheets = sorted((labels.path / "contact_sheets").glob("*.png"))
    assert len(sheets) == 2
    for sheet in sheets:
        with Image.open(sheet) as image:
            assert image.size[0] >= 640
            assert len(image.getcolors(1 << 20) or ()) > 20


def test_the_same_input_gives_the_same_labels(labels: LabelSet, tmp_path: Path) -> None:
    again = labelled(tmp_path / "again", tmp_path / "demos")
    for name, values in vars(labels.examples).items():
        assert np.array_equal(values, getattr(again.examples, name), equal_nan=name == "progress"), name
    assert tree_digest(again.path / "contact_sheets") == tree_digest(labels.path / "contact_sheets")
    other = labelled(tmp_path / "other", tmp_path / "demos", knobs=("seed=5",))
    assert not np.array_equal(other.examples.frames, labels.examples.frames)


def without(name: str) -> Trajectory:
    whole = trajectory()
    return replace(whole, signals={key: value for key, value in whole.signals.items() if key != name})


def constant_gripper() -> Trajectory:
    whole = trajectory()
    return replace(whole, signals={**whole.signals, "gripper_states": np.full((24, 2), (0.04, -0.04))})


def first_step() -> Trajectory:
    whole = trajectory()
    cut: dict[str, Any] = {name: getattr(whole, name)[:1] for name in ("images", "actions", "executed")}
    return replace(whole, **cut, signals={name: values[:1] for name, values in whole.signals.items()})


@pytest.mark.parametrize(
    ("code", "bad", "word"),
    [
        ("R390", trajectory(success=False), "none of the 1 trajectories is a success"),
        ("R391", without("gripper_states"), "no channel `gripper_states`"),
        ("R391", without("ee_pos"), "no channel `ee_pos`"),
        ("R392", constant_gripper(), "never changes"),
        ("R393", first_step(), "one step long"),
    ],
)
def test_bad_trajectories_are_refused_with_one_message(code: str, bad: Trajectory, word: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.hdf5", bad)
    with pytest.raises(AssetError) as caught:
        labelled(tmp_path / "labels", path)
    assert (caught.value.code, caught.value.exit_status) == (code, Exit.ENVIRONMENT)
    assert word in caught.value.message
    assert caught.value.hint
    assert [each.name for each in tmp_path.iterdir()] == ["bad.hdf5"], "nothing half-made stays"


def test_a_constant_gripper_is_one_segment_where_the_recipe_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "push.hdf5", constant_gripper())
    found = labelled(tmp_path / "labels", path, knobs=("labels.constant_gripper=one_segment",))
    assert found.manifest["tasks"][0]["mean_milestones"] == 0
    assert found.manifest["tasks"][0]["mean_keyframes"] == 2


def test_labels_of_one_class_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "one.hdf5", trajectory())
    with pytest.raises(AssetError, match="no label is negative") as caught:
        labelled(tmp_path / "labels", path, knobs=("labels.negatives.far=0.0",))
    assert caught.value.code == "R394"


def test_files_of_two_cameras_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", trajectory())
    write(tmp_path / "b.hdf5", replace(trajectory(), images=np.zeros((24, 16, 16, 3), np.uint8)))
    with pytest.raises(AssetError, match="one camera") as caught:
        labelled(tmp_path / "labels", tmp_path)
    assert caught.value.code == "R396"


def test_a_folder_that_exists_is_left_alone(labels: LabelSet, tmp_path: Path) -> None:
    with pytest.raises(AssetError) as caught:
        labelled(labels.path, tmp_path / "demos")
    assert caught.value.code == "R397"
    assert open_labels(labels.path).digest == labels.digest


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_damaged_labels_are_refused(labels: LabelSet, damage: str) -> None:
    data = labels.path / DATA
    whole = data.read_bytes()
    if damage == "flip":
        data.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    elif damage == "cut":
        data.write_bytes(whole[: len(whole) // 2])
    elif damage == "remove":
        data.unlink()
    else:
        (labels.path / "manifest.json").write_text("{")
    with pytest.raises(AssetError) as caught:
        open_labels(labels.path)
    assert caught.value.code == "R398"
