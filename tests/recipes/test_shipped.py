"""Shipped recipes: each validates and runs; `recipes/smoke.yaml` goes the whole path, twice with one result."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vlarl
from small_openvla import Small, write_checkpoint
from vlarl import cli
from vlarl.plan import make_plan
from vlarl.plan_machine import named_machine
from vlarl.recipe.load import load_recipe
from vlarl.recipe.shipped import shipped_recipes
from vlarl.recipe.specs.policies import OpenVlaSpec
from vlarl.run.checkpoint import COMPLETE, iterations
from vlarl.run.events import read_events
from vlarl.run.folder import RunFolder
from vlarl.train import train

ROOT = Path(vlarl.__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "studies")
# Recipes whose assets nobody can have where these tests run: validated and planned, not run. Name → what is missing.
WEIGHTS = "15 GB of OpenVLA weights, which are downloaded by hand"
WITHOUT_ASSETS = {
    "base/openvla_libero": WEIGHTS,
    "libero_spatial": WEIGHTS,
    "libero_object": WEIGHTS,
    "libero_goal": WEIGHTS,
    "libero_10": WEIGHTS,
    "libero_90": f"{WEIGHTS}, and LIBERO's own demonstrations",
}
# Recipes whose checkpoint a tool makes: recipe → arguments of `write_checkpoint` under the name it has in the recipe.
MADE = {"openvla_cpu": Small(hidden=64, vision_width=32, vocabulary="small")}
# Real LIBERO takes minutes where everything else takes seconds; of the reward models' recipes one will do.
SLOW = {"libero_cpu", "libero_small", "tabletop_10", "tabletop_lift"}
RUNNABLE = [path for name, path in sorted(shipped_recipes().items()) if name not in WITHOUT_ASSETS]
# Every size that makes a recipe take long, and none of its parts.
SMALL = (
    "suite.num_envs=4",
    "suite.num_groups=2",
    "suite.num_workers=1",
    "train.iterations=2",
    "train.critic_warmup=1",
    "train.rollout.num_steps=8",
    "ppo.minibatch_size=16",
    "ppo.micro_batch_size=null",
    "evaluation.every=2",
    "evaluation.episodes=1",
    "evaluation.videos=false",
    "run.checkpoint_every=1",
)
SHORT_IMITATION = ("imitation.updates=5", "imitation.warmup_updates=1", "imitation.batch_size=16")


def test_every_recipe_of_the_checkout_is_shipped() -> None:
    assert RECIPES
    assert sorted(shipped_recipes().values()) == RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_recipe_is_valid(path: Path) -> None:
    loaded = load_recipe(path)
    assert loaded.warnings == ()
    assert loaded.recipe.name == path.stem


def test_only_recipes_that_name_absent_weights_are_not_run() -> None:
    """So that no recipe escapes the next test by being listed here."""
    assert WITHOUT_ASSETS.keys() < shipped_recipes().keys()
    for name, path in shipped_recipes().items():
        policy = load_recipe(path).recipe.policy
        checkpoint = policy.checkpoint if isinstance(policy, OpenVlaSpec) else None
        absent = checkpoint is not None and name not in MADE and not (ROOT / checkpoint).is_dir()
        assert absent == (name in WITHOUT_ASSETS), name


@pytest.mark.parametrize("name", MADE)
def test_a_recipe_says_how_its_checkpoint_is_made(name: str) -> None:
    path = shipped_recipes()[name]
    policy = load_recipe(path).recipe.policy
    assert isinstance(policy, OpenVlaSpec)
    assert f"python tools/small_openvla.py {policy.checkpoint}\n" in path.read_text()


@pytest.mark.parametrize("name", WITHOUT_ASSETS)
def test_a_recipe_that_cannot_run_here_fits_the_machine_it_is_for(name: str) -> None:
    plan = make_plan(load_recipe(shipped_recipes()[name]).recipe, named_machine("80GB", 1))
    assert plan.fits
    assert any("is missing" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in RUNNABLE],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_first_iterations_of_a_shipped_recipe_run(path: Path, tmp_path: Path) -> None:
    overrides = [*SMALL, f"run.cache={tmp_path / 'cache'}"]
    recipe = load_recipe(path).recipe
    if path.stem in MADE:
        write_checkpoint(tmp_path / "made", MADE[path.stem])
        overrides.append(f"policy.checkpoint={tmp_path / 'made'}")
    if recipe.imitation is not None:
        tasks = getattr(recipe.suite, "tasks", None) or recipe.suite.known_tasks() or ()
        overrides += [*SHORT_IMITATION, f"imitation.num_episodes={max(1, len(tasks))}"]
    result = train(load_recipe(path, overrides), command=["test"], run_folder=tmp_path / "runs")
    events = [event for event in read_events(result.run.events) if event["kind"] == "iteration"]
    assert [event["stats"]["policy_updated"] for event in events] == [False, True]
    assert len({event["digests"]["parameters"] for event in events}) == 2
    assert iterations(result.run.checkpoints)[-1] == 2
    assert json.loads(result.run.manifest.read_text())["status"] == "done"


# The smoke recipe


@dataclass(frozen=True)
class Smoke:
    run: RunFolder
    result: dict[str, Any]  # the document of `vlarl train --json`
    log: str


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    """`vlarl train recipes/smoke.yaml`, as a user types it."""
    folder = tmp_path_factory.mktemp("smoke")
    words = ["train", str(ROOT / "recipes" / "smoke.yaml"), "--set", f"run.cache={folder / 'cache'}", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "vlarl", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return Smoke(run=RunFolder(folder / result["run"]), result=result, log=done.stderr)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The JSON document of a command that succeeds."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code in (0, None), err
    document = json.loads(out)
    assert isinstance(document, dict)
    return document


def test_the_run_folder_is_complete(smoke: Smoke) -> None:
    run = smoke.run
    described = json.loads(run.manifest.read_text())
    assert (described["schema_version"], described["status"], described["exit_code"]) == (1, "done", 0)
    assert described["outcome"]["chain"] == smoke.result["chain"]
    assert run.recipe.read_bytes() == (ROOT / "recipes" / "smoke.yaml").read_bytes()
    assert load_recipe(run.resolved_recipe).digest == described["recipe"]["digest"]
    kinds = [event["kind"] for event in read_events(run.events)]
    assert kinds == ["evaluation", "iteration", "iteration", "iteration", "evaluation"]
    rewards = [event["reward"]["success"] for event in read_events(run.events) if event["kind"] == "iteration"]
    # How many is a matter of the last bits, thus of the processor.
    assert max(rewards) > 0, "some episodes succeed"
    assert list(run.tensorboard.glob("events.out.tfevents.*"))
    for name in ("tabletop_basic-000000.json", "tabletop_basic-000003.json"):
        assert json.loads((run.evaluations / name).read_text())["overall"]["episodes"] == 4
    assert all((run.checkpoints / f"{i:06d}" / COMPLETE).is_file() for i in iterations(run.checkpoints))
    assert iterations(run.checkpoints)[-1] == 3
    assert len(list(run.episodes.glob("*.safetensors"))) == 3
    assert (run.batches / "000000.safetensors").is_file()


def test_videos_of_every_task_are_there(smoke: Smoke) -> None:
    rows = json.loads((smoke.run.videos / "videos.json").read_text())
    assert {row["task"] for row in rows} == {"reach_red", "reach_green"}
    for row in rows:
        assert (smoke.run.videos / row["file"]).stat().st_size > 1000


def test_the_log_says_what_happened_without_control_characters(smoke: Smoke) -> None:
    assert "warm start " in smoke.log
    assert "iteration 3/3  success " in smoke.log
    assert "evaluation after 3 iterations: " in smoke.log
    assert "against step 0" in smoke.log
    assert "Traceback" not in smoke.log
    assert "\x1b" not in smoke.log
    assert "\r" not in smoke.log


def test_report_of_the_smoke_run(smoke: Smoke, capsys: pytest.CaptureFixture[str]) -> None:
    written = command(capsys, "report", str(smoke.run.path))
    page = smoke.run.report.read_text()
    assert Path(written["path"]).samefile(smoke.run.report)
    assert "<svg" in page
    assert "<video" in page or "<img" in page
    assert smoke.result["chain"][:12] in page


def test_replay_of_an_evaluated_episode(smoke: Smoke, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = json.loads((smoke.run.evaluations / "tabletop_basic-000003.json").read_text())
    row = evaluation["episodes"][0]
    done = command(capsys, "replay", str(smoke.run.path), f"{row['task']}:{row['init']}")
    assert (done["success"], done["length"]) == (row["success"], row["length"])
    assert Path(done["video"]).stat().st_size > 1000


def test_evaluation_of_the_smoke_run_repeats_its_own(smoke: Smoke, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--suite", "tabletop_basic", "--tasks", "reach_red,reach_green", "--runs", str(smoke.run.path.parent))
    again = command(capsys, "eval", *words)
    assert again["run"] == smoke.run.id
    assert again["evaluation"]["overall"] == smoke.result["last_evaluation"]


@pytest.mark.slow
def test_a_second_smoke_run_has_the_same_last_link(smoke: Smoke, tmp_path: Path) -> None:
    loaded = load_recipe(
        ROOT / "recipes" / "smoke.yaml", [f"run.cache={tmp_path / 'cache'}", "evaluation.videos=false"]
    )
    second = train(loaded, command=["test"], run_folder=tmp_path)
    first = [event for event in read_events(smoke.run.events) if event["kind"] == "iteration"]
    again = [event for event in read_events(second.run.events) if event["kind"] == "iteration"]
    assert [event["digests"] for event in again] == [event["digests"] for event in first]
    assert second.last["overall"] == smoke.result["last_evaluation"]
