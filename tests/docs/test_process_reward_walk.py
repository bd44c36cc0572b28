"""docs/process_reward.md: its blocks of commands, typed one after the other, at a small size."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import vlarl
from vlarl import cli
from vlarl.run.events import read_events
from vlarl.run.folder import find_runs

ROOT = Path(vlarl.__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
SMALL = """
suite: {tasks: [lift_red, push_green], num_envs: 4, num_workers: 1}
imitation: {num_episodes: 6, updates: 4, warmup_updates: 1, batch_size: 16}
labels: {negatives: {failed: 1.0}}
prm: {hidden_size: 32, num_layers: 1, num_heads: 2, training: {updates: 30, batch_size: 16, bootstrap: 10}}
ppo: {minibatch_size: 32}
train: {iterations: 2, rollout: {kind: steps, num_steps: 48}, critic_warmup: 1, torch_threads: 1}
evaluation: {every: 2, episodes: 1, videos: false}
run: {cache: cache, tensorboard: false, batches: []}
"""


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = ROOT / "recipes" / "prm" / "tiny.yaml"
    (tmp_path / "recipes" / "prm").mkdir(parents=True)
    (tmp_path / "recipes" / "prm" / "tiny.yaml").write_text(f"extends: {shipped}\n{SMALL}")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "process_reward.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for block in BLOCK.findall(page) for line in block.splitlines()]
    assert [words[1] for words in commands] == ["label-segments", "train-prm", "train"] * 2
    for words in commands:
        with pytest.raises(SystemExit) as ended:
            cli.main(words[1:])
        assert ended.value.code in (0, None), f"{words}\n{capsys.readouterr().err}"

    first, second = (json.loads((tmp_path / "prm" / name / "card.json").read_text()) for name in ("model", "model-2"))
    assert first["model"] != second["model"]
    assert "failed" not in first["held_out"]["auc_by_source"]
    sources = [source["file"] for source in second["data"]["sources"]]
    assert {"lift_red_demo.hdf5", "lift_red_rollouts.hdf5"} <= set(sources)
    runs = find_runs(tmp_path / "runs")
    assert len(runs) == 2
    for run in runs:
        rewards = [event["reward"] for event in read_events(run.events) if event["kind"] == "iteration"]
        assert [set(each) for each in rewards] == [{"success", "process"}] * 2
        assert any(each["process"] != 0.0 for each in rewards)
