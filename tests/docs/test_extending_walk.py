"""docs/extending.md: its package is written, installed and trained with, as the page says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import vlarl
from vlarl.run.events import read_events
from vlarl.run.folder import find_runs

ROOT = Path(vlarl.__file__).parents[2]
FILE = re.compile(r"^`(gentle/[\w/.]+)`\n\n```\w+\n(.*?)^```", re.M | re.S)
RECIPE = re.compile(r"recipe `mine.yaml`:\n\n```yaml\n(.*?)^```", re.M | re.S)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
SMALL = """
suite: {tasks: [reach_red], image_size: 32, num_envs: 4, num_workers: 1}
policy: {hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
imitation: {num_episodes: 2, updates: 5, warmup_updates: 1, batch_size: 16}
ppo: {minibatch_size: 32}
train: {iterations: 2, critic_warmup: 1, torch_threads: 1, rollout: {kind: steps, num_steps: 8}}
evaluation: {every: 2, episodes: 1, videos: false}
run: {cache: cache, tensorboard: false, batches: []}
"""


@pytest.mark.slow
def test_the_package_of_the_page_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for name, text in FILE.findall(page):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert len(list((tmp_path / "gentle").rglob("*.*"))) == 3
    (tmp_path / "gentle" / "src" / "gentle" / "__init__.py").touch()
    [recipe] = RECIPE.findall(page)
    (tmp_path / "mine.yaml").write_text(recipe + SMALL, encoding="utf-8")
    site = tmp_path / "site"
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT / 'src'}"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    [block] = COMMANDS.findall(page)
    install, *others = (shlex.split(line) for line in block.splitlines())
    run(*install, "--no-index", "--target", str(site))
    said = {words[1]: run(*words) for words in others}
    assert "gentle" in said["list"]
    assert "Takes off for large movements" in said["list"]
    assert "at full speed" in run("vlarl", "explain", "rewards[gentle].scale")
    [made] = find_runs(tmp_path / "runs")
    parts = [event["reward"]["gentle"] for event in read_events(made.events) if event["kind"] == "iteration"]
    assert len(parts) == 2
    assert all(-0.005 <= part < 0 for part in parts)
    assert '"gentle": "0.1"' in (made.path / "env" / "packages.json").read_text()
