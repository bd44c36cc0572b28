"""What the hacking alarm does to a run, and that a stop in between changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlarl import cli
from vlarl.errors import Exit
from vlarl.policies.action_tokens import ACTION_CONVENTION
from vlarl.prm.folder import Meaning, write_reward_model
from vlarl.prm.tiny_model import TinyRewardModel
from vlarl.recipe.load import load_recipe
from vlarl.recipe.specs.prm import TinyPrmSpec
from vlarl.rewards.alarm import Rise
from vlarl.run.checkpoint import iterations
from vlarl.run.events import read_events
from vlarl.run.folder import RunFolder, find_runs
from vlarl.train import TrainingResult, resume, train

SIDE = 32
RECIPE = """
seed: 3
suite:
  {{kind: tabletop, name: tabletop_basic, tasks: [reach_red, reach_green], image_size: 32, num_envs: 4, num_workers: 1}}
policy: {{kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}}
imitation: null
ppo: {{lr: 1e-3, minibatch_size: 16}}
train: {{iterations: 7, critic_warmup: 0, torch_threads: 1, rollout: {{kind: steps, num_steps: 8}}}}
rewards:
  - {{kind: success}}
  - {{kind: process, model: {model}, mode: sum, final_weight: 0.5, alarm: {{action: {action}, window: 4}}}}
evaluation: {{every: 100, episodes: 1, videos: false}}
run: {{checkpoint_every: 1, keep: {{last: 20}}}}
determinism: strict
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prm") / "model"
    folder.mkdir()
    spec = TinyPrmSpec(hidden_size=32, num_layers=1, num_heads=2, num_keypoints=8)
    meaning = Meaning(action=ACTION_CONVENTION, suite="tabletop", image_size=SIDE)
    write_reward_model(folder, TinyRewardModel(spec, image_size=SIDE, seed=0), spec, meaning, 0, {}, "")
    return folder


@pytest.fixture
def hacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every full window looks like hacking."""
    monkeypatch.setattr("vlarl.rewards.alarm.rise", lambda *columns: Rise(process=4.0, success=0.25, solved=False))


def written(folder: Path, model: Path, action: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(RECIPE.format(model=model, action=action))
    return folder / "run.yaml"


def run_it(folder: Path, model: Path, action: str, **more: Any) -> TrainingResult:
    return train(load_recipe(written(folder, model, action)), command=["test"], run_folder=folder / "runs", **more)


def watched(run: RunFolder) -> list[dict[str, Any]]:
    return [event["watched"]["process"] for event in read_events(run.events) if event["kind"] == "iteration"]


def test_a_warning_is_told_and_changes_nothing(tmp_path: Path, model: Path, hacked: None) -> None:
    result = run_it(tmp_path / "warned", model, "warn")
    events = [event for event in read_events(result.run.events) if event["kind"] == "iteration"]
    assert [bool(event["warnings"]) for event in events] == [False] * 3 + [True] + [False] * 3
    assert events[3]["warnings"] == ["over 4 iterations the process reward rose by 4.0 standard errors, success by 0.2"]
    assert [each["alarm"] for each in watched(result.run)] == [False] * 3 + [True] + [False] * 3
    weights = [each["weight"] for each in watched(result.run)]
    assert weights == pytest.approx([1.0 - 0.5 * i / 6 for i in range(7)])
    assert all(event["ledger"]["score_seconds"] > 0.0 for event in events)
    curves = b"".join(path.read_bytes() for path in result.run.tensorboard.iterdir())
    for tag in (b"reward/process/weight", b"reward/process/process_rise", b"time/score_seconds"):
        assert tag in curves, tag


@pytest.mark.parametrize("until", [4, *(pytest.param(until, marks=pytest.mark.slow) for until in (2, 6))])
def test_a_decay_is_the_same_after_a_stop_anywhere(tmp_path: Path, model: Path, hacked: None, until: int) -> None:
    whole = run_it(tmp_path / "whole", model, "decay")
    weights = [each["weight"] for each in watched(whole.run)]
    assert weights == pytest.approx([(1.0 - 0.5 * i / 6) * (1.0 if i < 4 else 0.5) for i in range(7)])
    begun = run_it(tmp_path / f"until-{until}", model, "decay", until=until)
    assert resume(begun.run, command=["test"]).chain == whole.chain
    assert watched(begun.run) == watched(whole.run)


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_a_checkpoint_and_may_go_on(
    tmp_path: Path, model: Path, hacked: None, capsys: pytest.CaptureFixture[str]
) -> None:
    warned = run_it(tmp_path / "warned", model, "warn")
    path = written(tmp_path / "stopped", model, "stop")
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(path), "--set", f"run.folder={tmp_path / 'runs'}"])
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("error[")) == (int(Exit.RUN_FAILED), 1), err
    assert "error[X515]" in err
    assert "success by 0.2 standard errors" not in err
    assert "warning: iteration 3: over 4 iterations" in " ".join(err.split())
    [run] = find_runs(tmp_path / "runs")
    assert max(iterations(run.checkpoints)) == 4
    assert resume(run, command=["test"]).iterations == 7
    assert [each["weight"] for each in watched(run)] == [each["weight"] for each in watched(warned.run)]


def test_a_run_killed_between_alarm_and_stop_stops_when_it_is_resumed(
    tmp_path: Path, model: Path, hacked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlarl.errors import RunError
    from vlarl.recorder import Recorder

    heed = Recorder.heed_alarm

    def killed(self: Recorder) -> None:
        if self.progress.iteration == 4:
            raise KeyboardInterrupt
        heed(self)

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "heed_alarm", killed)
        with pytest.raises(KeyboardInterrupt):
            run_it(tmp_path / "cut", model, "stop")
    [run] = find_runs(tmp_path / "cut" / "runs")
    with pytest.raises(RunError) as caught:
        resume(run, command=["test"])
    assert caught.value.code == "X515"


def test_a_schedule_is_spread_over_the_iterations_that_a_resume_then_cannot_change(tmp_path: Path, model: Path) -> None:
    from vlarl.errors import RecipeError

    begun = run_it(tmp_path / "begun", model, "warn", until=1)
    with pytest.raises(RecipeError) as caught:
        resume(begun.run, command=["test"], iterations=9)
    assert caught.value.code == "R220"
