"""`vlarl export` after `vlarl train`: what comes out acts as what went in, and can be loaded by others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from synthetic_run import make_run

from small_openvla import VISION_HEADS, Small, write_checkpoint
from vlarl import cli
from vlarl.assembly import build_policy, build_suite, load_policy, load_weights
from vlarl.assembly_weights import weights_recipe
from vlarl.errors import AssetError, UsageError
from vlarl.evaluate import EvaluationOutcome, evaluate
from vlarl.export import Exported, export, export_json, export_notes
from vlarl.policies.openvla.checkpoint import read_tensor
from vlarl.policies.openvla.layout import read_layout
from vlarl.policies.openvla.policy import OpenVlaPolicy
from vlarl.recipe.load import parse_recipe
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.learning import KeepSpec
from vlarl.recipe.specs.policies import TinySpec
from vlarl.recipe.write import resolved_yaml
from vlarl.results import read
from vlarl.run import checkpoint
from vlarl.run.folder import RunFolder
from vlarl.train import train

RECIPE = """
name: small
seed: 3
suite: {kind: tabletop, name: tabletop_basic, tasks: [reach_red], image_size: 32, num_envs: 4, num_workers: 1}
policy: {kind: openvla, vision_heads: 4, dtype: float32, device: cpu, images: plain, lora: {rank: 4, alpha: 8}}
imitation: null
ppo: {lr: 1e-2, minibatch_size: 16, ratio_tolerance: 1e-3}
train: {iterations: 2, critic_warmup: 1, torch_threads: 1, rollout: {kind: steps, num_steps: 8}}
evaluation: {every: 2, episodes: 1, videos: false}
run: {checkpoint_every: 1, keep: {last: 10}}
"""
TASKS = {"tasks": ["reach_red", "push_green"], "episodes": 2}


def trained(folder: Path, base: Path, *overrides: str) -> RunFolder:
    loaded = parse_recipe(RECIPE, [f"policy.checkpoint={base}", f"run.cache={folder / 'cache'}", *overrides])
    return train(loaded, command=["test"], run_folder=folder / "runs").run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "small"
    write_checkpoint(folder, Small(hidden=64, vision_width=32, vocabulary="small"))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: Path) -> RunFolder:
    """Two iterations, of which the first trains the critic only."""
    return trained(tmp_path_factory.mktemp("lora"), base)


@pytest.fixture(scope="module")
def exported(run: RunFolder) -> Exported:
    return export(run.path, format="openvla", out=run.path.parent / "exported")


@pytest.fixture(scope="module")
def of_the_run(run: RunFolder) -> EvaluationOutcome:
    return evaluate("tabletop_basic", checkpoint=str(run.path), **TASKS)


def actions(outcome: EvaluationOutcome) -> list[np.ndarray]:
    assert outcome.path is not None
    return [trial.actions for trial in read(outcome.path).trials]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other))


def used(folder: Path, out: Path, settings: tuple[str, ...], **options: Any) -> EvaluationOutcome:
    return evaluate("tabletop_basic", checkpoint=str(folder), overrides=settings, out=out, **(TASKS | options))


def test_an_export_is_evaluated_as_the_run_it_came_from(
    run: RunFolder, base: Path, exported: Exported, of_the_run: EvaluationOutcome, tmp_path: Path
) -> None:
    found = used(exported.path, tmp_path / "found", exported.settings)
    assert same(actions(found), actions(of_the_run))
    for key in ("overall", "tasks", "episodes", "protocol"):
        assert found.document[key] == of_the_run.document[key]
    before = used(base, tmp_path / "before", exported.settings)
    assert not same(actions(before), actions(of_the_run)), "the run changed what the policy does"


def test_the_document_names_the_checkpoint(exported: Exported, tmp_path: Path) -> None:
    outcome = used(exported.path, tmp_path, exported.settings, tasks=["reach_red"], episodes=1)
    document = outcome.document
    assert (document["run"], document["iteration"], document["source"]) == (None, None, "exported")
    assert document["digest"] == exported.digest == read_layout(exported.path).digest()
    assert document["policy_spec"]["images"] == "plain"
    assert outcome.path == tmp_path / "tabletop_basic-checkpoint.json"
    again = used(exported.path, tmp_path, exported.settings, tasks=["reach_red"], episodes=1)
    assert again.read_back == 1
    other = used(exported.path, tmp_path, (*exported.settings, "policy.images=libero"), tasks=["reach_red"], episodes=1)
    assert other.read_back == 0, "used otherwise, it is another evaluation"
    assert other.path not in (None, outcome.path)


def test_settings_are_what_the_run_changed(exported: Exported) -> None:
    assert set(exported.settings) == {
        "policy.images=plain",
        "policy.dtype=float32",
        f"policy.vision_heads={VISION_HEADS}",
        "suite.image_size=32",
        "suite.num_envs=4",
    }
    note = export_notes(exported)[-1]
    assert "--set policy.images=plain" in note
    assert f"vlarl eval --suite tabletop_basic --checkpoint {exported.path}" in note


def test_adapters_exported_for_peft_give_the_same_episodes(
    run: RunFolder, base: Path, exported: Exported, of_the_run: EvaluationOutcome, tmp_path: Path, monkeypatch: Any
) -> None:
    done = export(run.path, format="peft", out=tmp_path / "adapter")
    assert (done.digest, done.num_trained) == (None, exported.num_trained)

    def with_adapter(recipe: Recipe) -> Any:
        loaded = load_weights(recipe)
        assert isinstance(loaded.policy, OpenVlaPolicy)
        PeftModel.from_pretrained(loaded.policy.model, done.path)
        return loaded

    monkeypatch.setattr("vlarl.assembly.load_weights", with_adapter)
    found = used(base, tmp_path / "found", exported.settings)
    assert same(actions(found), actions(of_the_run))


@pytest.mark.parametrize("iteration", [0, 1])
def test_an_untrained_policy_comes_out_as_it_went_in(
    run: RunFolder, base: Path, tmp_path: Path, iteration: int
) -> None:
    """Of the second, the critic was trained."""
    done = export(run.path, format="openvla", out=tmp_path / "out", iteration=iteration)
    assert (done.iteration, done.num_trained) == (iteration, 0)
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    assert {path.name: path.read_bytes() for path in done.path.iterdir()} == files
    assert done.digest == read_layout(base).digest()


def test_every_weight_trained_is_exported_exactly(tmp_path: Path, base: Path) -> None:
    run = trained(tmp_path, base, "policy.lora=null", "ppo.lr=1e-3")
    done = export(run.path, format="openvla", out=tmp_path / "out")
    loaded = load_policy(run.path)
    layout = read_layout(done.path)
    for name, tensor in loaded.policy.state_dict().items():
        assert read_tensor(layout.tensors[name]).equal(tensor), name
    assert done.num_trained == len(loaded.policy.state_dict())
    assert done.digest != read_layout(base).digest()
    with pytest.raises(UsageError, match="no adapters") as caught:
        export(run.path, format="peft", out=tmp_path / "adapter")
    assert caught.value.code == "U250"
    of_the_run = evaluate("tabletop_basic", checkpoint=str(run.path), **TASKS)
    found = used(done.path, tmp_path / "found", done.settings)
    assert same(actions(found), actions(of_the_run))


def test_the_command(run: RunFolder, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["export", run.id, "--runs", str(run.path.parent), "--format", "openvla", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--checkpoint", "2", "--json"])
    assert ended.value.code in (0, None)
    document = json.loads(capsys.readouterr().out)
    assert (document["path"], document["digest"], document["iteration"]) == (str(out), exported.digest, 2)
    assert document["settings"] == export_json(exported)["settings"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 4
    assert "exists already" in capsys.readouterr().err


def test_a_tiny_policy_has_no_format(tmp_path: Path) -> None:
    recipe = Recipe(policy=TinySpec(hidden_size=32, num_layers=1, num_heads=2, num_keypoints=4))
    policy = build_policy(recipe, build_suite(recipe))
    run = make_run(tmp_path, iterations=1, episodes=1, name="small")
    state = {"policy": policy.identity, "recipe": recipe.model_dump_json()}
    checkpoint.save(run.checkpoints, 5, {"policy": dict(policy.state_dict())}, state, KeepSpec())
    run.resolved_recipe.write_text(resolved_yaml(recipe))
    with pytest.raises(UsageError, match="`tiny`") as caught:
        export(run.path, format="openvla", out=tmp_path / "out")
    assert caught.value.code == "U250"
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="iteration 7") as caught:
        export(run.path, format="openvla", out=tmp_path / "out", iteration=7)
    assert (caught.value.code, caught.value.hint) == ("R350", "it has 0, 1, 2")


def test_a_base_that_changed_is_refused(run: RunFolder, base: Path, tmp_path: Path) -> None:
    config = base / "config.json"
    text = config.read_text()
    config.write_text(text + " ")
    try:
        with pytest.raises(AssetError) as caught:
            export(run.path, format="openvla", out=tmp_path / "out")
    finally:
        config.write_text(text)
    assert caught.value.code == "R377"
    assert not (tmp_path / "out").exists()


# Evaluating a checkpoint in Hugging Face layout


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["policy.checkpoint=other"], "U217"),
        (["policy.lora.rank=4"], "U217"),
        (["policy={checkpoint: other}"], "U217"),
        (["suite.tasks=[reach_red]"], "U217"),
        (["ppo.lr=1"], "U217"),
        (["policy.images=planar"], "R106"),
        (["policy.vision_heads=four"], "R104"),
        (["policy.imges=plain"], "R102"),
        (["suite.num_envs=3"], "R203"),
    ],
)
def test_settings_that_cannot_be(base: Path, overrides: list[str], code: str) -> None:
    with pytest.raises(Exception, match="--set") as caught:
        weights_recipe(str(base), "tabletop_basic", overrides)
    [found] = {diagnostic.code for diagnostic in getattr(caught.value, "diagnostics", ())} or {caught.value.code}
    assert found == code


@pytest.mark.parametrize("num_envs", [1, 2, 6, 10])
def test_any_number_of_slots_will_do(base: Path, num_envs: int) -> None:
    settings = [f"suite.num_envs={num_envs}", "suite.num_groups=1"]
    assert weights_recipe(str(base), "libero_goal", settings).suite.num_envs == num_envs


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"checkpoint": "RUN", "overrides": ["policy.images=plain"]}, "U217"),
        ({"policy": "random", "overrides": ["policy.images=plain"]}, "U217"),
        ({"checkpoint": "BASE"}, "U216"),
        ({"checkpoint": "hf://openvla/openvla-7b"}, "U216"),
    ],
)
def test_options_that_do_not_go_together(run: RunFolder, base: Path, options: Mapping[str, Any], code: str) -> None:
    named = {"RUN": str(run.path), "BASE": str(base)}
    given = {key: named.get(value, value) if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(UsageError) as caught:
        evaluate("tabletop_basic", **given)
    assert caught.value.code == code
    assert caught.value.hint


def test_an_adapter_alone_is_told_apart(run: RunFolder, tmp_path: Path) -> None:
    done = export(run.path, format="peft", out=tmp_path / "adapter")
    with pytest.raises(AssetError) as caught:
        used(done.path, tmp_path / "evals", ())
    assert "adapter alone" in str(caught.value.hint)


def test_a_checkpoint_from_the_hub_is_named_by_its_commit(
    base: Path, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    (tmp_path / commit).symlink_to(base)
    monkeypatch.setattr("vlarl.policies.openvla.hub.resolve", lambda reference: tmp_path / commit)
    loaded = load_weights(weights_recipe("hf://someone/small@main", "tabletop_basic", exported.settings))
    assert loaded.source == f"hf://someone/small@{commit}"
    assert loaded.digest == read_layout(base).digest()
