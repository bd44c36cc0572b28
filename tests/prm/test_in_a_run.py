"""A reward model in a run: found, checked against the suite, known to the chain and to every checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from build_trajectories import SIDE

from vlarl import cli
from vlarl.assembly import build_parts
from vlarl.errors import AssetError, Exit
from vlarl.policies.action_tokens import ACTION_CONVENTION
from vlarl.prm.folder import Meaning, write_reward_model
from vlarl.prm.tiny_model import TinyRewardModel
from vlarl.recipe.load import parse_recipe
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.prm import TinyPrmSpec
from vlarl.recorder import restore

SPEC = TinyPrmSpec(hidden_size=32, num_layers=1, num_heads=2, num_keypoints=8)


def reward_model(folder: Path, *, seed: int = 0, suite: str = "tabletop") -> str:
    folder.mkdir()
    meaning = Meaning(action=ACTION_CONVENTION, suite=suite, image_size=SIDE)
    return write_reward_model(folder, TinyRewardModel(SPEC, image_size=SIDE, seed=seed), SPEC, meaning, seed, {}, "")


def recipe(model: Path, *knobs: str) -> Recipe:
    rewards = f"rewards=[{{kind: success}}, {{kind: process, model: {model}}}]"
    return parse_recipe("", [f"suite.image_size={SIDE}", "train.torch_threads=1", rewards, *knobs]).recipe


def test_the_rewards_of_a_run_know_the_model(tmp_path: Path) -> None:
    digest = reward_model(tmp_path / "prm")
    parts = build_parts(recipe(tmp_path / "prm"))
    assert parts.rewards.digests == {"process": digest}


@pytest.mark.parametrize(("suite", "size"), [("libero", SIDE), ("tabletop", 64)])
def test_a_model_of_another_camera_stops_the_run_before_it_begins(suite: str, size: int, tmp_path: Path) -> None:
    reward_model(tmp_path / "prm", suite=suite)
    with pytest.raises(AssetError) as caught:
        build_parts(recipe(tmp_path / "prm", f"suite.image_size={size}"))
    assert (caught.value.code, caught.value.exit_status) == ("R396", Exit.ENVIRONMENT)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="there is no such folder") as caught:
        build_parts(recipe(tmp_path / "nowhere"))
    assert caught.value.code == "R395"


def test_a_run_does_not_go_on_with_another_model(tmp_path: Path) -> None:
    reward_model(tmp_path / "prm")
    digest = reward_model(tmp_path / "other", seed=1)
    parts = build_parts(recipe(tmp_path / "prm"))
    state = {"critic": parts.critic.identity, "reward_models": {"process": digest}}
    found: Any = SimpleNamespace(state=state, path=tmp_path / "000001")
    with pytest.raises(AssetError) as caught:
        restore(parts, found)
    assert caught.value.code == "R356"


def test_nothing_to_label_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["label-segments", "--out", str(tmp_path / "labels")])
    assert ended.value.code == int(Exit.USAGE)
    assert "error[U260]" in capsys.readouterr().err
