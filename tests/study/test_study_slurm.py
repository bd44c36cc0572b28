"""A study as a Slurm array: what its script asks for, starts, and does when its run stops."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.base import PartSpec
from vlarl.recipe.specs.policies import OpenVlaOftSpec, OpenVlaSpec, TinySpec
from vlarl.recipe.specs.rewards import ProcessRewardSpec
from vlarl.study_slurm import slurm_script, wants_gpu


def test_the_slurm_script_is_bash_and_names_each_run(tmp_path: Path) -> None:
    script = slurm_script(
        study="a b.yaml",
        name="ours",
        num_tasks=4,
        num_cpus=3,
        out=tmp_path,
        cache=tmp_path / "c",
        only=["slow"],
        collected=Path("my docs"),
    )
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "#SBATCH --array=0-3\n" in script
    assert "#SBATCH --cpus-per-task=3\n" in script
    assert "\n##SBATCH --gres=gpu:1\n" in script
    assert "study 'a b.yaml' --out" in script
    assert "--only slow --collected 'my docs' --task \"$SLURM_ARRAY_TASK_ID\"" in script


def test_its_runs_compute_with_the_kernels_that_the_study_was_typed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLARL_INSTRUCTIONS", "avx2")
    assert '"${launch[@]}" --instructions avx2 study s.yaml --out' in plain_script()
    monkeypatch.setenv("VLARL_INSTRUCTIONS", "native")
    assert '"${launch[@]}" study s.yaml --out' in plain_script()


def plain_script(*, gpu: bool = False) -> str:
    out, cache = Path("o"), Path("c")
    return slurm_script(study="s.yaml", name="s", num_tasks=9, num_cpus=3, out=out, cache=cache, only=[], gpu=gpu)


@pytest.mark.parametrize(
    ("policy", "rewards", "wanted"),
    [
        (TinySpec(), None, False),
        (TinySpec(device="cuda"), None, True),
        (OpenVlaSpec(checkpoint="c"), None, True),
        (OpenVlaOftSpec(checkpoint="c"), None, True),
        (OpenVlaSpec(checkpoint="c", device="cpu"), None, False),
        (TinySpec(), [ProcessRewardSpec(model="m", device="cuda")], True),
    ],
)
def test_an_array_asks_for_a_card_where_its_runs_want_one(policy: PartSpec, rewards: Any, wanted: bool) -> None:
    recipe = Recipe(policy=policy, **({"rewards": rewards} if rewards else {}))
    assert wants_gpu(recipe) is wanted
    script = plain_script(gpu=wanted)
    assert ("\n#SBATCH --gres=gpu:1\n" in script) is wanted
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --mem=16G" in lines


def test_an_array_hears_a_signal_before_its_run_begins() -> None:
    script = plain_script()
    assert script.index("\ntrap ") < script.index('" study s.yaml')


@pytest.mark.parametrize(
    ("status", "left", "queued", "restarts", "state"),
    [
        (0, 0, False, "0", "RUNNING"),
        (75, 0, True, "49", "RUNNING"),
        (1, 1, False, "0", "RUNNING"),
        (75, 75, False, "50", "RUNNING"),
        (75, 75, False, "0", "COMPLETING"),
    ],
)
def test_a_task_of_the_array_queues_itself_again_when_stopped(
    tmp_path: Path, status: int, left: int, queued: bool, restarts: str, state: str
) -> None:
    told = f'if [ "$1" = show ]; then echo "JobState={state} Reason=None"; else echo "$@" > queued; fi'
    for name, body in (("vlarl", f'echo "$@" > words; exit {status}'), ("scontrol", told)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_RESTART_COUNT": restarts}
    environment |= {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "7"}
    command = ["bash", "-c", plain_script()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (b"VLARL_MAX_RESTARTS" in done.stderr) == (restarts == "50")
    assert done.returncode == left
    assert (tmp_path / "words").read_text() == "study s.yaml --out o --cache c --task 7 --display plain\n"
    assert (tmp_path / "queued").exists() == queued
    assert not queued or (tmp_path / "queued").read_text() == "requeue 40_7\n"
