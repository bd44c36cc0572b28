"""What an alarm of the regression guard does to a run, and that a kill in between changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from vlarl.errors import RunError
from vlarl.guard import finding
from vlarl.recipe.load import load_recipe
from vlarl.recorder import Recorder
from vlarl.run.events import read_events
from vlarl.run.folder import RunFolder, find_runs
from vlarl.train import TrainingResult, resume, train
from vlarl.trials import EvaluationResult, described_by
from vlarl.types import Trial

RECIPE = """
seed: 3
suite:
  {kind: tabletop, name: tabletop_basic, tasks: [reach_red, reach_green], image_size: 32, num_envs: 4, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
imitation: null
ppo: {lr: 1e-3, minibatch_size: 16}
train: {iterations: 4, critic_warmup: 0, torch_threads: 1, rollout: {kind: steps, num_steps: 12}}
rewards: [{kind: success, truncated: -1.0}]
evaluation: {every: 2, episodes: 12, videos: false}
run: {checkpoint_every: 2, keep: {last: 9}}
determinism: strict
"""
Bad = Callable[[int], bool]


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Bad], None]:
    """Makes evaluations fail altogether where told, and succeed elsewhere."""

    def set_up(bad: Bad) -> None:
        def made_up(policy: Any, spec: Any, suite: Any, specs: Any, *, evaluated: Any, **more: Any) -> EvaluationResult:
            actions = np.zeros((1, 7), np.float32)
            success = not bad(evaluated.iteration)
            trials = [Trial(spec=one, success=success, errored=False, length=1, actions=actions) for one in specs]
            return EvaluationResult(document=described_by(spec, suite, specs, evaluated)(trials), trials=tuple(trials))

        monkeypatch.setattr("vlarl.train.run_policy", made_up)

    return set_up


def run_it(folder: Path, *overrides: str) -> TrainingResult:
    path = folder / "guarded.yaml"
    path.write_text(RECIPE)
    return train(load_recipe(path, list(overrides)), command=["test"], run_folder=folder / "runs")


def evaluations(run: RunFolder) -> list[dict[str, Any]]:
    return [event for event in read_events(run.events) if event["kind"] == "evaluation"]


def policy(run: RunFolder, iteration: int) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(run.checkpoints / f"{iteration:06d}" / "policy.safetensors")
    return found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all((one[name] == other[name]).all() for name in one)


def test_a_warning_changes_nothing(tmp_path: Path, outcomes: Callable[[Bad], None]) -> None:
    outcomes(lambda iteration: iteration == 2)
    run = run_it(tmp_path).run
    first, second, third = evaluations(run)
    assert "guard" not in first
    assert second["warnings"] == [finding(0)]
    assert (second["guard"]["alarm"], second["guard"]["since"]) == (True, 0)
    assert third["warnings"] == []
    assert third["guard"]["since"] == 2
    assert third["guard"]["evaluations"] == 1, "after an alarm the evidence is gathered anew"
    assert not same(policy(run, 0), policy(run, 2))


def test_an_alarm_goes_back_to_the_best_weights(tmp_path: Path, outcomes: Callable[[Bad], None]) -> None:
    outcomes(lambda iteration: iteration > 0)
    run = run_it(tmp_path, "evaluation.guard.action=rollback").run
    assert same(policy(run, 0), policy(run, 2)), "the checkpoint is written again"
    assert same(policy(run, 0), policy(run, 4)), "also at the end"
    assert evaluations(run)[1]["warnings"][0].endswith("going back to the best evaluation's weights")


def test_without_an_alarm_nothing_goes_back(tmp_path: Path, outcomes: Callable[[Bad], None]) -> None:
    outcomes(lambda iteration: False)
    run = run_it(tmp_path, "evaluation.guard.action=rollback").run
    assert not same(policy(run, 0), policy(run, 2))
    assert evaluations(run)[-1]["guard"]["evidence"] == pytest.approx(1 / 2 + 1 / 6)


def test_a_run_killed_before_it_went_back_does_so_when_resumed(
    tmp_path: Path, outcomes: Callable[[Bad], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes(lambda iteration: iteration == 2)
    (tmp_path / "whole").mkdir()
    whole = run_it(tmp_path / "whole", "evaluation.guard.action=rollback")

    heed = Recorder.heed_guard

    def killed(self: Recorder) -> None:
        if self.progress.iteration == 2:
            raise KeyboardInterrupt
        heed(self)

    (tmp_path / "cut").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "heed_guard", killed)
        with pytest.raises(KeyboardInterrupt):
            run_it(tmp_path / "cut", "evaluation.guard.action=rollback")
    [cut] = find_runs(tmp_path / "cut" / "runs")
    assert not same(policy(cut, 0), policy(cut, 2))
    resumed = resume(cut, command=["test"])
    assert resumed.chain == whole.chain
    assert same(policy(resumed.run, 4), policy(whole.run, 4))


def test_a_stopped_run_keeps_its_state_and_may_go_on(tmp_path: Path, outcomes: Callable[[Bad], None]) -> None:
    outcomes(lambda iteration: iteration == 2)
    with pytest.raises(RunError) as caught:
        run_it(tmp_path, "evaluation.guard.action=stop")
    assert caught.value.code == "X514"
    assert caught.value.message == f"{finding(0)} (iteration 2)"
    [run] = find_runs(tmp_path / "runs")
    assert resume(run, command=["test"]).iterations == 4
