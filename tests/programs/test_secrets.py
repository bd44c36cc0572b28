"""A whole run with secrets in its environment and in the address of the code's remote: none is in any of its files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import vlarl

RECIPE = """
name: small
suite: {kind: tabletop, name: tabletop_basic, tasks: [reach_red], image_size: 32, num_envs: 2, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
imitation: null
ppo: {minibatch_size: 8, epochs: 1}
train: {iterations: 1, critic_warmup: 0, torch_threads: 1, rollout: {kind: steps, num_steps: 8}}
evaluation: {every: 1, episodes: 1, videos: false}
"""
# Each with a mark of its own, so that a failure says which one came through.
SECRETS = {
    "HF_TOKEN": "hf_planted1token",
    "GH_PAT": "planted2pat",
    "SLURM_JWT": "planted3jwt.payload",
    "PIP_INDEX_URL": "https://me:planted4index@example.org/simple",
    "DATABASE_URL": "postgres://me:planted5database@example.org/x",
    "HTTPS_PROXY": "http://me:planted6proxy@example.org:3128",
    "WANDB_API_KEY": "planted7key",
    "SESSION_COOKIE": "planted8cookie",
}
REMOTE = "https://me:planted9remote@example.org/a.git?access_token=planted0query"


def checkout(folder: Path) -> Path:
    """The code in a repository of its own with a remote and an uncommitted change; its folder of sources."""
    shutil.copytree(Path(vlarl.__file__).parent, folder / "src" / "vlarl", ignore=shutil.ignore_patterns("__pycache__"))
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init"], ["add", "."], ["commit", "-m", "first"], ["remote", "add", "origin", REMOTE]):
        subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)
    with (folder / "src" / "vlarl" / "__init__.py").open("a") as stream:
        stream.write(f"# {SECRETS['HF_TOKEN']} {SECRETS['PIP_INDEX_URL']}\n")
    return folder / "src"


def test_no_file_of_a_run_holds_a_planted_secret(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    environment = {**os.environ, **SECRETS, "PYTHONPATH": str(checkout(tmp_path / "code"))}
    command = ["train", str(tmp_path / "small.yaml"), "--runs", str(tmp_path / "runs"), "--display", "plain"]
    cache = ["--set", f"run.cache={tmp_path / 'cache'}"]
    done = subprocess.run(
        [sys.executable, "-m", "vlarl", *command, *cache],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"manifest.json", "git.diff", "events.jsonl"} <= {path.name for path in files}
    assert any("tfevents" in path.name for path in files)
    found = {path.relative_to(tmp_path): path.read_bytes() for path in files}
    assert [str(name) for name, data in found.items() if b"planted" in data] == []
    assert [str(name) for name in found if "planted" in str(name)] == []
    assert any(b"[redacted]" in data for data in found.values())
