"""Whole runs on two processes: the chain of one process, stopped and killed without loss."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launching import Ended, Pair, free_port
from safetensors.numpy import load_file

from vlarl.recipe.load import load_recipe
from vlarl.run.checkpoint import iterations
from vlarl.run.events import read_events
from vlarl.run.folder import RunFolder, find_runs
from vlarl.train import resume, train

RECIPE = """
name: pair
seed: 3
suite:
  {kind: tabletop, tasks: [reach_red], image_size: 32, num_envs: 4, num_shards: 2, num_groups: 1, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
imitation: null
rewards: [{kind: success, truncated: -1.0}]
ppo: {lr: 1e-4, minibatch_size: 32, ratio_tolerance: 1e-4}
train: {iterations: 12, critic_warmup: 1, torch_threads: 1, rollout: {kind: steps, num_steps: 16}}
evaluation: {every: 12, episodes: 3, videos: false}
run: {checkpoint_every: 1, keep: {last: 20}, tensorboard: false}
determinism: strict
"""


@dataclass(frozen=True)
class Bench:
    """A recipe and where its runs go."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "pair.yaml"

    def pair(self, runs: Path, *words: str) -> Pair:
        return Pair(runs / "output", "-m", "vlarl", *words)

    def train_pair(self, runs: Path, *words: str) -> Pair:
        return self.pair(runs, "train", str(self.recipe), "--runs", str(runs), *words)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "pair.yaml").write_text(RECIPE)
    return Bench(folder)


@pytest.fixture(scope="module")
def alone(bench: Bench) -> RunFolder:
    return train(load_recipe(bench.recipe), command=["test"], run_folder=bench.folder / "alone").run


@pytest.fixture(scope="module")
def together(bench: Bench) -> tuple[RunFolder, list[Ended]]:
    runs = bench.folder / "together"
    ended = bench.train_pair(runs).ended()
    assert [process.status for process in ended] == [0, 0], ended
    [run] = find_runs(runs)
    return run, ended


def steps(run: RunFolder) -> list[dict[str, Any]]:
    return [event for event in read_events(run.events) if event["kind"] == "iteration"]


def chain_of(run: RunFolder) -> list[str]:
    return [event["chain"] for event in steps(run)]


def begun(runs: Path, count: int) -> bool:
    """Whether a run has done ``count`` iterations."""
    return any(len(steps(run)) >= count for run in find_runs(runs))


def test_the_first_rollout_has_the_tokens_of_one_process(
    alone: RunFolder, together: tuple[RunFolder, list[Ended]]
) -> None:
    one, two = (load_file(run.episodes / "000000.safetensors") for run in (alone, together[0]))
    assert one["tokens"].shape == (4, 16, 7)
    assert (one["tokens"][:2] != one["tokens"][2:]).any()
    np.testing.assert_array_equal(one["tokens"], two["tokens"])
    for stage in ("tasks", "inits", "actions", "states", "pixels", "rewards"):
        assert steps(alone)[0]["digests"][stage] == steps(together[0])[0]["digests"][stage]


def test_with_a_shard_a_process_the_whole_chain_is_that_of_one(
    alone: RunFolder, together: tuple[RunFolder, list[Ended]]
) -> None:
    # Two addends have one sum, whoever adds them.
    assert chain_of(together[0]) == chain_of(alone)
    events = steps(alone)
    assert sum(event["success_rate"]["n"] for event in events) > 0
    assert any(event["stats"]["policy_grad_norm"] > 0 for event in events)
    name = "tabletop_basic-000012.json"
    one, two = (json.loads((run.evaluations / name).read_text()) for run in (alone, together[0]))
    assert one["overall"] == two["overall"]
    assert one["tasks"] == two["tasks"]


def test_the_first_process_alone_speaks_and_writes(together: tuple[RunFolder, list[Ended]]) -> None:
    run, (first, second) = together
    assert "tabletop_basic" in first.out
    assert second.out == second.err == ""
    assert len(iterations(run.checkpoints)) == 13
    assert json.loads(run.manifest.read_text())["processes"] == 2
    frames = {path.name: load_file(path)["images"] for path in run.batches.iterdir()}
    assert {name: len(images) for name, images in frames.items()} == {
        "000000.safetensors": 32,
        "000000-from-000032.safetensors": 32,
    }


@pytest.mark.slow
def test_sigterm_on_one_process_stops_both_and_a_resume_loses_nothing(
    bench: Bench, alone: RunFolder, tmp_path: Path
) -> None:
    pair = bench.train_pair(tmp_path)
    pair.when(lambda: begun(tmp_path, 2))
    pair.send(1, signal.SIGTERM)
    ended = pair.ended()
    assert [process.status for process in ended] == [75, 75], ended
    assert sum("stopped by SIGTERM" in process.err for process in ended) == 1
    [run] = find_runs(tmp_path)
    done = len(steps(run))
    assert iterations(run.checkpoints)[-1] == done < 12
    assert json.loads(run.manifest.read_text())["status"] == "stopped"
    again = bench.pair(tmp_path, "resume", str(run.path)).ended()
    assert [process.status for process in again] == [0, 0], again
    assert chain_of(run) == chain_of(alone)


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_job_with_one_message_and_a_checkpoint(
    bench: Bench, alone: RunFolder, tmp_path: Path, rank: int
) -> None:
    pair = bench.train_pair(tmp_path)
    pair.when(lambda: begun(tmp_path, 2))
    pair.send(rank, signal.SIGKILL)
    ended = pair.ended()
    assert [process.status for process in ended] == ([-9, 1] if rank == 0 else [1, -9]), ended
    told = ended[1 - rank].err
    assert len(re.findall(r"X550", told)) >= 1
    assert f"no word from process {rank}" in told
    assert "Traceback" not in told
    [run] = find_runs(tmp_path)
    # On as many processes as divide the shards: here one.
    assert chain_of(resume(run, command=["test"]).run) == chain_of(alone)


def test_processes_that_cannot_share_the_shards_say_so_once(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train_pair(tmp_path, "--set", "suite.num_shards=1").ended()
    assert [process.status for process in ended] == [3, 3]
    assert sum("R224" in process.err for process in ended) == 1
    assert find_runs(tmp_path) == []


@pytest.mark.slow  # torchrun itself takes seconds to start and to end
@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--nproc-per-node=2", "--master-port={port}"],
        ["accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1", "--main_process_port={port}"],
    ],
    ids=["torchrun", "accelerate"],
)
def test_launchers_give_the_same_chain(bench: Bench, alone: RunFolder, tmp_path: Path, launcher: list[str]) -> None:
    words = [word.format(port=free_port()) for word in launcher]
    command = [sys.executable, "-m", *words, "-m", "vlarl", "train", str(bench.recipe), "--runs", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    [run] = find_runs(tmp_path)
    assert chain_of(run) == chain_of(alone)
