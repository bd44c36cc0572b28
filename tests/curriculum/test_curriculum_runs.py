"""Whole runs under a curriculum that learns: workers and a stop change nothing, and the record tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlarl.recipe.load import load_recipe
from vlarl.report import report
from vlarl.run.events import read_events
from vlarl.run.folder import RunFolder
from vlarl.train import TrainingResult, resume, train

RECIPE = """
seed: 3
suite:
  {kind: tabletop, name: tabletop_basic, tasks: [reach_red, reach_green], image_size: 32, num_envs: 4, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
curriculum: {kind: paper, tau: 0.1, window: 6, bucket_size: 50000}
imitation: null
ppo: {lr: 1e-4, minibatch_size: 64}
train: {iterations: 4, critic_warmup: 1, torch_threads: 1, rollout: {kind: steps, num_steps: 48}}
evaluation: {every: 4, episodes: 1, videos: false}
run: {checkpoint_every: 2}
determinism: strict
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("curriculum")
    (made / "paper.yaml").write_text(RECIPE)
    return made


def run_it(folder: Path, name: str, *overrides: str, **options: Any) -> TrainingResult:
    loaded = load_recipe(folder / "paper.yaml", [f"run.cache={folder / 'cache'}", *overrides])
    return train(loaded, command=["test"], run_folder=folder / name, **options)


@pytest.fixture(scope="module")
def one_worker(folder: Path) -> TrainingResult:
    return run_it(folder, "one", "suite.num_workers=1")


def iterations(run: RunFolder) -> list[dict[str, Any]]:
    return [event for event in read_events(run.events) if event["kind"] == "iteration"]


def told(run: RunFolder) -> list[Any]:
    return [(event["chain"], event["curriculum"]) for event in iterations(run)]


def test_events_hold_probabilities_that_move(one_worker: TrainingResult) -> None:
    events = iterations(one_worker.run)
    for event in events:
        found = event["curriculum"]["probability"]
        assert list(found) == ["reach_red", "reach_green"]
        assert sum(sum(row) for row in found.values()) == pytest.approx(1.0, abs=1e-5)
    assert len({str(event["curriculum"]) for event in events}) > 1


def test_the_number_of_workers_changes_nothing(folder: Path, one_worker: TrainingResult) -> None:
    assert told(run_it(folder, "two", "suite.num_workers=2").run) == told(one_worker.run)


def test_the_curriculum_has_an_effect(folder: Path, one_worker: TrainingResult) -> None:
    other = run_it(folder, "other", "curriculum.tau=5.0")
    chains = [[event["chain"] for event in iterations(result.run)] for result in (one_worker, other)]
    assert chains[0] != chains[1]


def test_a_resumed_run_makes_the_same_choices(folder: Path, one_worker: TrainingResult) -> None:
    stopped = run_it(folder, "stopped", until=2)
    resumed = resume(stopped.run, command=["test"])
    assert told(resumed.run) == told(one_worker.run)


def test_the_report_draws_the_probabilities(one_worker: TrainingResult, tmp_path: Path) -> None:
    text = report(one_worker.run.path, out=tmp_path / "report.html").path.read_text()
    assert "<h2>Curriculum</h2>" in text
    assert "reach_green, after iteration 4:" in text
