"""Equal meaning gives an equal hash, another meaning another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlarl.recipe.load import load_recipe, parse_recipe
from vlarl.recipe.schema import Recipe, differences, hashed_values, recipe_digest
from vlarl.recipe.write import resolved_yaml


def digest(text: str, *overrides: str) -> str:
    return parse_recipe(text, overrides).digest


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("rewards: [{kind: success, weight: 1}]", "rewards: [{kind: success, weight: 1.0}]"),
        ("ppo: {lr: 1e-3}", "ppo: {lr: 0.001}"),
        ("ppo: {lr: 1e-3, clip: 0.1}\nseed: 3", "seed: 3\nppo:\n  clip: 0.1\n  lr: 1e-3"),
        ("", "ppo: {gamma: 0.99}"),
        ("policy: {hidden_size: 64}", "policy: {kind: tiny, hidden_size: 64}"),
        ("rewards: [{kind: success, truncated: 0.0}]", "rewards: [{kind: success, truncated: -0.0}]"),
        ("name: a", "name: b"),
        ("run: {folder: a, tensorboard: false, keep: {last: 5}}", ""),
        ("suite: {num_workers: 7, models_per_worker: 1, renderer: osmesa}", ""),
    ],
)
def test_equal(left: str, right: str) -> None:
    assert digest(left) == digest(right)


@pytest.mark.parametrize(
    "text",
    [
        "seed: 1",
        "suite: {num_envs: 64}",
        "suite: {num_groups: 4}",
        "suite: {tasks: [reach_red]}",
        "ppo: {lr: 1.1e-5}",
        "imitation: {noise: 0.2}",
        "train: {torch_threads: 1}",
        "evaluation: {every: 7}",
        "determinism: strict",
        "policy: {num_layers: 3}",
    ],
)
def test_different(text: str) -> None:
    assert digest(text) != digest("")


def test_one_shard_is_what_a_recipe_that_names_none_means() -> None:
    silent = recipe_digest(parse_recipe("suite: {num_envs: 8}").recipe)
    assert recipe_digest(parse_recipe("suite: {num_envs: 8, num_shards: 1}").recipe) == silent
    assert recipe_digest(parse_recipe("suite: {num_envs: 8, num_shards: 2}").recipe) != silent
    assert "num_shards" not in hashed_values(parse_recipe("suite: {num_envs: 8}").recipe.suite)


def test_extends_set_and_inline_are_one(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("ppo: {lr: 1e-3}\nseed: 5\n", encoding="utf-8")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nseed: 6\n", encoding="utf-8")
    inline = digest("ppo: {lr: 0.001}\nseed: 6")
    assert load_recipe(tmp_path / "top.yaml").digest == inline
    assert digest("", "ppo.lr=1e-3", "seed=6") == inline


def test_the_resolved_text_is_the_same_recipe() -> None:
    recipe = parse_recipe("ppo: {lr: 3e-7, target_kl: 0.02}\nimitation: null\nname: x").recipe
    again = parse_recipe(resolved_yaml(recipe)).recipe
    assert again == recipe
    assert recipe_digest(again) == recipe_digest(recipe)


def test_differences_name_each_value() -> None:
    left, right = Recipe(), parse_recipe("ppo: {lr: 1e-3}\nimitation: null\nrun: {folder: out}").recipe
    found = {d.path: (d.left, d.right) for d in differences(left, right)}
    assert found["ppo.lr"] == (2e-05, 1e-3)
    assert found["run.folder"] == ("runs", "out")
    assert found["imitation.updates"] == (1000, None)
    assert "seed" not in found
    assert differences(left, left) == ()


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().ppo.lr = 1.0  # type: ignore[misc]
