"""What a user can get wrong with labels and reward models, from the command line: one message, a hint, nothing left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_trajectories import SIDE, trajectory, write

from vlarl import cli
from vlarl.errors import Exit
from vlarl.policies.action_tokens import ACTION_CONVENTION
from vlarl.prm.folder import Meaning, write_reward_model
from vlarl.prm.tiny_model import TinyRewardModel
from vlarl.recipe.specs.prm import TinyPrmSpec
from vlarl.run.folder import find_runs
from vlarl.types import Trajectory

LABELS = ("labels.positive_window=3", "labels.far_distance=6")
RECIPE = f"""
suite: {{kind: tabletop, tasks: [reach_red], image_size: {SIDE}, num_envs: 2, num_workers: 1}}
policy: {{kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}}
imitation: null
ppo: {{minibatch_size: 8}}
train: {{iterations: 1, critic_warmup: 0, torch_threads: 1, rollout: {{kind: steps, num_steps: 8}}}}
evaluation: {{every: 1, episodes: 1, videos: false}}
"""
Capture = pytest.CaptureFixture[str]


def refused(capsys: Capture, *words: str) -> tuple[int | str | None, str]:
    """Exit status and what a person reads of a command that gives one message with a hint and no traceback."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    out, err = capsys.readouterr()
    assert err.count("error[") == 1, err
    assert "hint" in err
    assert "Traceback" not in err
    assert out == ""
    return ended.value.code, " ".join(err.split())


def without(name: str) -> Trajectory:
    whole = trajectory()
    return replace(whole, signals={key: value for key, value in whole.signals.items() if key != name})


def with_fingers(value: float) -> Trajectory:
    whole = trajectory()
    return replace(whole, signals={**whole.signals, "gripper_states": np.full((24, 2), (value, -value))})


def of_one_frame() -> Trajectory:
    whole = trajectory()
    cut: dict[str, Any] = {name: getattr(whole, name)[:1] for name in ("images", "actions", "executed")}
    return replace(whole, **cut, signals={name: values[:1] for name, values in whole.signals.items()})


@pytest.mark.parametrize(
    ("make", "knobs", "code", "word"),
    [
        (lambda: trajectory(success=False), (), "R390", "none of the 1 trajectories is a success"),
        (lambda: without("gripper_states"), (), "R391", "no channel `gripper_states`"),
        (lambda: without("ee_pos"), (), "R391", "no channel `ee_pos`"),
        (lambda: with_fingers(np.nan), (), "R391", "not a number"),
        (lambda: with_fingers(0.04), (), "R392", "never changes"),
        (of_one_frame, (), "R393", "one step long"),
        (trajectory, ("labels.negatives.far=0",), "R394", "no label is negative"),
    ],
)
def test_trajectories_that_cannot_be_labelled(
    make: Callable[[], Trajectory], knobs: tuple[str, ...], code: str, word: str, tmp_path: Path, capsys: Capture
) -> None:
    path = write(tmp_path / "bad_demo.hdf5", make())
    sets = [part for knob in (*LABELS, *knobs) for part in ("--set", knob)]
    status, text = refused(capsys, "label-segments", "--demos", str(path), "--out", str(tmp_path / "labels"), *sets)
    assert status == int(Exit.ENVIRONMENT)
    assert f"error[{code}]" in text
    assert word in text
    assert [each.name for each in tmp_path.iterdir()] == ["bad_demo.hdf5"], "nothing half-made stays"


def test_one_bad_episode_among_good_ones_is_named(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path / "mixed_demo.hdf5", trajectory(), trajectory(), of_one_frame())
    status, text = refused(capsys, "label-segments", "--demos", str(path), "--out", str(tmp_path / "labels"))
    assert status == int(Exit.ENVIRONMENT)
    assert "mixed_demo.hdf5, demo 2" in text


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"action": "7 joint positions"}, "judges actions «7 joint positions»"),
        ({"suite": "libero"}, "the camera of suite kind «libero»"),
        ({"image_size": 64}, "pictures of side «64»"),
    ],
)
def test_a_reward_model_of_another_action_space_or_camera(
    other: dict[str, Any], word: str, tmp_path: Path, capsys: Capture
) -> None:
    values: dict[str, Any] = {"action": ACTION_CONVENTION, "suite": "tabletop", "image_size": SIDE, **other}
    spec = TinyPrmSpec(hidden_size=32, num_layers=1, num_heads=2, num_keypoints=8)
    (tmp_path / "prm").mkdir()
    judge = TinyRewardModel(spec, image_size=values["image_size"], seed=0)
    write_reward_model(tmp_path / "prm", judge, spec, Meaning(**values), 0, {}, "")
    status, text = train_with(f"{{kind: process, model: {tmp_path / 'prm'}}}", tmp_path, capsys)
    assert status == int(Exit.ENVIRONMENT)
    assert "error[R396]" in text
    assert word in text


def test_a_folder_that_is_no_reward_model(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    status, text = train_with(f"{{kind: process, model: {tmp_path / 'llama'}}}", tmp_path, capsys)
    assert status == int(Exit.ENVIRONMENT)
    assert "error[R395]" in text
    assert "a model without an image-text head" in text


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    spec = TinyPrmSpec(hidden_size=32, num_layers=1, num_heads=2, num_keypoints=8)
    (tmp_path / "prm").mkdir()
    meaning = Meaning(action=ACTION_CONVENTION, suite="tabletop", image_size=SIDE)
    judge = TinyRewardModel(spec, image_size=SIDE, seed=0)
    write_reward_model(tmp_path / "prm", judge, spec, meaning, 0, {}, "")
    status, text = train_with(f"{{kind: process, model: {tmp_path / 'prm'}, device: cuda}}", tmp_path, capsys)
    assert status == int(Exit.ENVIRONMENT)
    assert "error[E415]" in text


@pytest.mark.parametrize(
    ("reward", "code"),
    [
        ("{kind: process}", "R103"),
        ("{kind: process, model: a, between: holds}", "R106"),
        ("{kind: process, model: a, alarm: {window: 2}}", "R105"),
        ("{kind: process, model: a, weight_share: 1.5}", "R105"),
    ],
)
def test_a_recipe_that_says_it_wrongly(reward: str, code: str, tmp_path: Path, capsys: Capture) -> None:
    status, text = train_with(reward, tmp_path, capsys)
    assert status == int(Exit.RECIPE)
    assert f"error[{code}]" in text


def train_with(reward: str, folder: Path, capsys: Capture) -> tuple[int | str | None, str]:
    """`vlarl train`, refused before there is a run."""
    (folder / "run.yaml").write_text(f"{RECIPE}rewards: [{{kind: success}}, {reward}]\n")
    found = refused(capsys, "train", str(folder / "run.yaml"), "--set", f"run.folder={folder / 'runs'}")
    assert find_runs(folder / "runs") == []
    return found
