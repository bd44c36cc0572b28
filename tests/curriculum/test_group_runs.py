"""Whole runs on groups of episodes, without a critic."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from vlarl.recipe.load import load_recipe
from vlarl.run.episodes import read_episode, read_rows
from vlarl.run.events import read_events
from vlarl.train import TrainingResult, resume, train

RECIPE = """
seed: 3
suite:
  {kind: tabletop, name: tabletop_basic, tasks: [reach_red, reach_green], image_size: 32, num_envs: 4, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
curriculum: {kind: frontier}
imitation: null
rewards: [{kind: success}]
ppo: {advantage: rloo, lr: 1e-3, minibatch_size: 32}
train:
  {iterations: 2, critic_warmup: 0, torch_threads: 1, temperature: 2.0, rollout: {kind: episodes, group_size: 2,
  num_groups: 4}}
evaluation: {every: 2, episodes: 1, videos: false}
run: {checkpoint_every: 1}
determinism: strict
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("groups")
    (made / "groups.yaml").write_text(RECIPE)
    return made


def run_it(folder: Path, name: str, *overrides: str, **options: Any) -> TrainingResult:
    loaded = load_recipe(folder / "groups.yaml", list(overrides))
    return train(loaded, command=["test"], run_folder=folder / name, **options)


@pytest.fixture(scope="module")
def whole(folder: Path) -> TrainingResult:
    return run_it(folder, "whole", "suite.num_workers=1")


def test_every_group_begins_alike_and_acts_apart(whole: TrainingResult) -> None:
    rows = read_rows(whole.run.episodes)
    assert len(rows) == 2 * 8
    groups = defaultdict(list)
    for row in rows:
        groups[row["task"], row["init"], row["seed"]].append(row)
    assert len(groups) == 8
    for first, second in groups.values():
        assert (first["iteration"], first["index"]) == (second["iteration"], second["index"])
        assert second["slot"] == first["slot"] + 1 == 2 * (first["slot"] // 2) + 1
        one, other = (read_episode(whole.run.episodes, row["slot"], row["index"]) for row in (first, second))
        assert len(one.tokens) == first["length"]
        assert (one.tokens[0] != other.tokens[0]).any()


def test_env_steps_are_those_of_episodes(whole: TrainingResult) -> None:
    rows = read_rows(whole.run.episodes)
    events = [event for event in read_events(whole.run.events) if event["kind"] == "iteration"]
    assert events[-1]["env_steps"] == sum(row["length"] for row in rows)
    assert events[-1]["success_rate"]["n"] == 8


def test_the_critic_is_left_alone(whole: TrainingResult) -> None:
    first, last = (load_file(whole.run.checkpoints / name / "critic.safetensors") for name in ("000000", "000002"))
    assert all((first[name] == last[name]).all() for name in first)


def test_the_number_of_workers_changes_nothing(folder: Path, whole: TrainingResult) -> None:
    assert run_it(folder, "two", "suite.num_workers=2").chain == whole.chain


def test_a_resumed_run_is_the_same(folder: Path, whole: TrainingResult) -> None:
    stopped = run_it(folder, "stopped", until=1)
    assert resume(stopped.run, command=["test"]).chain == whole.chain


def test_the_critic_learns_from_episodes_too(folder: Path) -> None:
    result = run_it(folder, "gae", "ppo.advantage=gae", "train.iterations=1")
    lines = result.run.events.read_text().splitlines()
    stats = next(json.loads(line) for line in lines if '"stats"' in line)["stats"]
    assert stats["critic_grad_norm"] > 0
    assert stats["first_ratio_error"] < 1e-4
