"""Whole runs: equal chains, resume, signals, damage. Small, but with real physics, pixels and updates."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlarl.errors import EnvironmentUnusable, RecipeError, RunError, Stopped
from vlarl.recipe.load import load_recipe
from vlarl.rewards.success import SuccessReward
from vlarl.run import manifest
from vlarl.run.checkpoint import iterations
from vlarl.run.events import read_events
from vlarl.run.folder import RunFolder, find_runs
from vlarl.train import TrainingResult, Watcher, resume, train
from vlarl.types import Rollout

RECIPE = """
name: small
seed: 3
suite:
  {kind: tabletop, name: tabletop_basic, tasks: [reach_red, reach_green], image_size: 32, num_envs: 4, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
imitation: {num_episodes: 60, updates: 150, warmup_updates: 10, batch_size: 64, lr: 3e-3}
ppo: {lr: 1e-4, minibatch_size: 32, epochs: 2, ratio_tolerance: 1e-4}
train: {iterations: 6, critic_warmup: 1, torch_threads: 1, rollout: {kind: steps, num_steps: 24}}
evaluation: {every: 6, episodes: 2, videos: false}
run: {checkpoint_every: 2, keep: {last: 10}}
determinism: strict
"""


@dataclass(frozen=True)
class Bench:
    """Where small runs happen; all share one cache, so that the warm start is cloned once."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "small.yaml"

    def overrides(self, *more: str) -> list[str]:
        return [f"run.cache={self.folder / 'cache'}", *more]

    def train(self, runs: Path, *overrides: str, **options: Any) -> TrainingResult:
        loaded = load_recipe(self.recipe, self.overrides(*overrides))
        return train(loaded, command=["test"], run_folder=runs, **options)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "small.yaml").write_text(RECIPE)
    return Bench(folder)


@pytest.fixture(scope="module")
def uninterrupted(bench: Bench) -> TrainingResult:
    return bench.train(bench.folder / "uninterrupted")


@pytest.fixture(scope="module")
def stopped_at_four(bench: Bench) -> RunFolder:
    return bench.train(bench.folder / "stopped", until=4).run


@pytest.fixture
def stopped(stopped_at_four: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy, so that a test may damage it, of a run with two iterations to go; links are followed, as scp does."""
    shutil.copytree(stopped_at_four.path, tmp_path / stopped_at_four.path.name)
    [run] = find_runs(tmp_path)
    return run


def steps(run: RunFolder) -> list[dict[str, Any]]:
    return [event for event in read_events(run.events) if event["kind"] == "iteration"]


def chain_of(run: RunFolder) -> list[str]:
    return [event["chain"] for event in steps(run)]


def workers(of: int) -> list[int]:
    """Simulator processes of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            if parent == of and b"resource_tracker" not in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_the_small_run_moves(uninterrupted: TrainingResult) -> None:
    events = steps(uninterrupted.run)
    assert len(events) == 6
    assert sum(event["success_rate"]["k"] for event in events) > 0, "a run without success proves nothing"
    assert {event["reward"]["success"] for event in events} != {0.0}
    trained = [event["stats"] for event in events if event["stats"]["policy_updated"]]
    assert len(trained) == 5
    assert all(stats["policy_grad_norm"] > 0 for stats in trained)
    assert all(stats["critic_grad_norm"] > 0 for stats in trained)
    assert all(stats["ratio_spread"] > 10 * stats["first_ratio_error"] for stats in trained)
    parameters = [event["digests"]["parameters"] for event in events]
    assert len(set(parameters)) == 6, "every iteration changes a weight"


def test_critic_warmup_trains_the_critic_only(uninterrupted: TrainingResult) -> None:
    from safetensors.numpy import load_file

    before, after = (
        {part: load_file(uninterrupted.run.checkpoints / k / f"{part}.safetensors") for part in ("policy", "critic")}
        for k in ("000000", "000002")
    )
    first = steps(uninterrupted.run)[0]["stats"]
    assert not first["policy_updated"]
    assert any((before["critic"][name] != after["critic"][name]).any() for name in before["critic"])


def test_equal_recipes_give_equal_chains(bench: Bench, uninterrupted: TrainingResult, tmp_path: Path) -> None:
    again = bench.train(tmp_path)
    assert chain_of(again.run) == chain_of(uninterrupted.run)
    assert again.last["overall"] == uninterrupted.last["overall"]


@pytest.mark.parametrize("workers", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_the_number_of_workers_changes_nothing(
    bench: Bench, uninterrupted: TrainingResult, tmp_path: Path, workers: int
) -> None:
    other = bench.train(tmp_path, f"suite.num_workers={workers}")
    assert chain_of(other.run) == chain_of(uninterrupted.run)


def test_a_killed_worker_changes_nothing(bench: Bench, uninterrupted: TrainingResult, tmp_path: Path) -> None:
    killed = []

    def kill_one(event: Any) -> None:
        if event["iteration"] in (1, 3):
            victim = workers(os.getpid())[0]
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    other = bench.train(tmp_path, "suite.num_workers=2", watcher=Watcher(iteration=kill_one))
    assert len(killed) == 2
    assert chain_of(other.run) == chain_of(uninterrupted.run)


@pytest.mark.parametrize(
    "knob",
    ["ppo.clip=0.1", *(pytest.param(knob, marks=pytest.mark.slow) for knob in ("seed=4", "ppo.truncation=bootstrap"))],
)
def test_one_knob_gives_other_weights(bench: Bench, uninterrupted: TrainingResult, tmp_path: Path, knob: str) -> None:
    other = bench.train(tmp_path, knob, "evaluation.episodes=1", until=3)
    # The first link holds the recipe's hash, so the chain would differ even if the knob were never read.
    assert steps(other.run)[2]["digests"]["parameters"] != steps(uninterrupted.run)[2]["digests"]["parameters"]


def test_stopping_and_resuming_is_never_stopping(bench: Bench, uninterrupted: TrainingResult, tmp_path: Path) -> None:
    half = bench.train(tmp_path, until=3)
    assert half.iterations == 3
    whole = resume(half.run, command=["test"])
    assert whole.iterations == 6
    assert chain_of(whole.run) == chain_of(uninterrupted.run)
    assert whole.last["episodes"] == uninterrupted.last["episodes"]


@pytest.mark.slow
def test_imitation_alone_is_a_run_that_can_go_on(bench: Bench, uninterrupted: TrainingResult, tmp_path: Path) -> None:
    cloned = bench.train(tmp_path, until=0)
    assert cloned.iterations == 0
    assert cloned.first["overall"] == uninterrupted.first["overall"]
    assert chain_of(resume(cloned.run, command=["test"]).run) == chain_of(uninterrupted.run)


def test_runs_of_several_seeds_may_begin_with_one_clone(bench: Bench, tmp_path: Path) -> None:
    short = ["imitation.num_episodes=4", "imitation.updates=20", "evaluation.episodes=1"]
    overrides = ["imitation.seed=3", *short]
    one, other, same = (
        bench.train(tmp_path / name, *overrides, f"seed={seed}", until=1).run
        for name, seed in (("one", 4), ("other", 5), ("same", 4))
    )
    first, second = ((run.checkpoints / "000000" / "policy.safetensors").read_bytes() for run in (one, other))
    assert first == second
    assert steps(one)[0]["digests"] == steps(same)[0]["digests"]
    assert steps(one)[0]["digests"]["actions"] != steps(other)[0]["digests"]["actions"]


def test_a_resume_on_another_processor_is_told(stopped: RunFolder) -> None:
    told = manifest.read(stopped)
    told["machine"]["cpu_model"]["family_model_stepping"] = "6/1/1"
    stopped.manifest.write_text(json.dumps(told))
    said: list[str] = []
    resume(stopped, command=["test"], iterations=5, watcher=Watcher(say=said.append))
    [warning] = [text for text in said if "other kernels" in text]
    assert warning.startswith("warning: the run began with other kernels (processor 6/1/1, here ")
    assert "--instructions avx2" in warning


def test_iterations_can_be_added_and_nothing_else(bench: Bench, uninterrupted: TrainingResult, tmp_path: Path) -> None:
    short = bench.train(tmp_path, "train.iterations=4")
    longer = resume(short.run, command=["test"], iterations=6)
    # The first link holds the recipe's hash, which knows the number of iterations; what was computed is the same.
    assert [e["digests"] for e in steps(longer.run)] == [e["digests"] for e in steps(uninterrupted.run)]
    with pytest.raises(RecipeError, match=r"ppo\.clip"):
        resume(short.run, command=["test"], overrides=["ppo.clip=0.3"])


End = Callable[[subprocess.Popen[bytes], RunFolder], None]


def in_a_process(bench: Bench, runs: Path, end: End) -> tuple[int, str]:
    """`vlarl train` in a process that ``end`` brings to its end; its exit status and stderr."""
    words = [word for override in bench.overrides() for word in ("--set", override)]
    command = [sys.executable, "-m", "vlarl", "train", str(bench.recipe), "--runs", str(runs), *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (found := find_runs(runs)) or not chain_of(found[0]):
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < deadline, "the run never began"
            time.sleep(0.02)
        end(process, found[0])
        _, errors = process.communicate(timeout=120)
        return process.returncode, errors.decode()


def test_kill_9_loses_nothing(bench: Bench, uninterrupted: TrainingResult, tmp_path: Path) -> None:
    status, _ = in_a_process(bench, tmp_path, lambda process, run: process.kill())
    assert status == -signal.SIGKILL
    [run] = find_runs(tmp_path)
    assert chain_of(resume(run, command=["test"]).run) == chain_of(uninterrupted.run)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_checkpoints_and_exits_75(
    bench: Bench, uninterrupted: TrainingResult, tmp_path: Path, number: signal.Signals
) -> None:
    status, errors = in_a_process(bench, tmp_path, lambda process, run: process.send_signal(number))
    [run] = find_runs(tmp_path)
    assert status == 75, errors
    assert "vlarl resume" in errors
    assert json.loads(run.manifest.read_text())["status"] == "stopped"
    done = len(chain_of(run))
    assert iterations(run.checkpoints)[-1] == done < 6
    assert chain_of(resume(run, command=["test"]).run) == chain_of(uninterrupted.run)


def damage_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["byte", "truncated", "incomplete"])
def test_a_damaged_checkpoint_is_passed_over(uninterrupted: TrainingResult, stopped: RunFolder, damage: str) -> None:
    newest = stopped.checkpoints / "000004"
    if damage == "byte":
        damage_byte(newest / "policy.safetensors")
    elif damage == "truncated":
        os.truncate(newest / "optimizer.safetensors", 100)
    else:
        (newest / "COMPLETE").unlink()
    said: list[str] = []
    whole = resume(stopped, command=["test"], watcher=Watcher(say=said.append))
    assert any("000004" in line for line in said)
    assert chain_of(whole.run) == chain_of(uninterrupted.run)


@contextmanager
def small_disk(place: Path, kib: int) -> Iterator[None]:
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_one_message_and_with_more_room_the_run_goes_on(
    bench: Bench, uninterrupted: TrainingResult, tmp_path: Path
) -> None:
    needed = sum(path.stat().st_size for path in uninterrupted.run.path.rglob("*") if path.is_file())
    with small_disk(tmp_path / "disk", needed * 6 // 10 // 1024):
        with pytest.raises(EnvironmentUnusable) as full:
            bench.train(tmp_path / "disk")
        assert (full.value.code, full.value.exit_status) == ("E430", 4)
        [run] = find_runs(tmp_path / "disk")
        assert 0 < len(chain_of(run)) < 6
        subprocess.run(["mount", "-o", "remount,size=256m", str(tmp_path / "disk")], check=True)
        assert chain_of(resume(run, command=["test"]).run) == chain_of(uninterrupted.run)


def test_a_clock_that_jumps_back_changes_nothing(
    bench: Bench, uninterrupted: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jumped = time.time, []
    monkeypatch.setattr(time, "time", lambda: real() - 10**6 * len(jumped))
    half = bench.train(tmp_path, until=4, watcher=Watcher(iteration=jumped.append))
    assert len(jumped) == 4
    whole = resume(half.run, command=["test"])
    assert chain_of(whole.run) == chain_of(uninterrupted.run)
    assert all(seconds >= 0.0 for event in steps(whole.run) for seconds in event["ledger"].values())


def test_a_reward_that_is_no_number_stops_the_run_and_a_resume_loses_nothing(
    bench: Bench, uninterrupted: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, calls = SuccessReward.score, []

    def spoiled(reward: SuccessReward, rollout: Rollout) -> np.ndarray:
        calls.append(rollout)
        return score(reward, rollout) * np.float32("nan" if len(calls) == 4 else 1.0)

    with monkeypatch.context() as patched:
        patched.setattr(SuccessReward, "score", spoiled)
        with pytest.raises(RunError) as stopped:
            bench.train(tmp_path)
    assert (stopped.value.code, stopped.value.exit_status) == ("X513", 1)
    [run] = find_runs(tmp_path)
    assert len(chain_of(run)) == 3
    assert json.loads(run.manifest.read_text())["status"] == "failed"
    assert chain_of(resume(run, command=["test"]).run) == chain_of(uninterrupted.run)


def test_or_resume_goes_on_with_the_unfinished_run(bench: Bench, tmp_path: Path) -> None:
    half = bench.train(tmp_path, until=2)
    whole = bench.train(tmp_path, or_resume=True)
    assert whole.run.path == half.run.path
    assert len(find_runs(tmp_path)) == 1
    assert bench.train(tmp_path, "train.iterations=2", or_resume=True, until=0).run.path != half.run.path


def test_a_run_resumed_with_another_renderer_is_still_compared_with_its_start(bench: Bench, stopped: RunFolder) -> None:
    command = [sys.executable, "-m", "vlarl", "resume", str(stopped.path), "--set", "suite.renderer=egl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    last = [event for event in read_events(stopped.events) if event["kind"] == "evaluation"][-1]
    assert last["iteration"] == 6
    assert "against_baseline" in last
    assert any("renderer egl, and osmesa at step 0" in warning for warning in last["warnings"])


def test_packages_off_the_lock_end_a_run_that_insists_however_often_it_is_tried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = {"numpy": {"lock": "2.4.6", "installed": "2.4.5"}}
    monkeypatch.setattr(manifest, "lock_differences", lambda *_: other)
    for or_resume in (False, True):
        with pytest.raises(EnvironmentUnusable) as refused:
            bench.train(tmp_path, "run.require_lock=true", or_resume=or_resume)
        assert refused.value.code == "E403"
        assert "numpy 2.4.5 (lock: 2.4.6)" in refused.value.message
    [run] = find_runs(tmp_path)
    assert steps(run) == []
    monkeypatch.undo()
    assert bench.train(tmp_path, "run.require_lock=true", or_resume=True, until=1).run.path == run.path


def test_a_resumed_run_says_what_else_it_was_made_with(
    stopped: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = manifest.read(stopped)
    versions = {**before["packages"]["versions"], "numpy": "2.4.5"}
    monkeypatch.setattr(manifest.machine, "packages", lambda: versions)
    told: list[str] = []
    resume(stopped, command=["test"], watcher=Watcher(say=told.append))
    [stretch] = manifest.read(stopped)["resumed"]
    assert stretch["iteration"] == 4
    assert stretch["here"]["packages"]["versions"]["numpy"] == "2.4.5"
    assert manifest.read(stopped)["packages"] == before["packages"]
    assert any("numpy 2.4.5" in line for line in told)


def test_a_run_in_use_is_refused(stopped: RunFolder) -> None:
    with stopped.lock(), pytest.raises(EnvironmentUnusable) as refused:
        resume(stopped, command=["test"])
    assert refused.value.code == "E420"
    assert str(os.getpid()) in refused.value.message


def test_a_signal_during_the_warm_start_stops(bench: Bench, tmp_path: Path) -> None:
    def stop(update: int, loss: float) -> None:
        if update == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    from vlarl.warmstart import Progress

    with pytest.raises(Stopped):
        bench.train(tmp_path, "imitation.updates=149", watcher=Watcher(warm_start=Progress(cloned=stop)))
    [run] = find_runs(tmp_path)
    assert json.loads(run.manifest.read_text())["status"] == "stopped"


@pytest.mark.slow
def test_runs_that_begin_together_clone_once(bench: Bench, tmp_path: Path) -> None:
    words = ["--set", f"run.cache={tmp_path / 'cache'}", "--set", "imitation.updates=20", "--display", "plain"]
    command = [sys.executable, "-m", "vlarl", "sft", str(bench.recipe), *words, "--runs"]
    both = [
        subprocess.Popen([*command, str(tmp_path / name)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for name in ("one", "other")
    ]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sorted("from the cache" in text for text in told) == [False, True]
    assert sorted("waiting for it" in text for text in told) == [False, True]
    assert sum(text.count("recorded reach_red_demo") for text in told) == 1


def test_a_run_that_waits_for_the_warm_start_of_another_can_be_stopped(bench: Bench, tmp_path: Path) -> None:
    from vlarl.warmstart import Progress

    cache, locked = tmp_path / "cache", []

    def lock(update: int, loss: float) -> None:
        [path] = (cache / "warmstarts").glob("*.lock")
        locked.append(path)
        _terminate()

    with pytest.raises(Stopped):
        bench.train(tmp_path, f"run.cache={cache}", watcher=Watcher(warm_start=Progress(cloned=lock)))
    assert not locked[0].exists(), "a run that is stopped gives it back"
    with locked[0].open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Stopped):
            bench.train(
                tmp_path / "waits", f"run.cache={cache}", watcher=Watcher(warm_start=Progress(noted=_terminate))
            )
    [run] = find_runs(tmp_path / "waits")
    assert json.loads(run.manifest.read_text())["status"] == "stopped"


def _terminate(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_ledger_and_the_manifest_are_complete(uninterrupted: TrainingResult) -> None:
    stages = ("simulate", "render", "infer", "score", "update", "record", "idle", "total")
    for event in steps(uninterrupted.run):
        assert set(event["ledger"]) == {f"{stage}_seconds" for stage in stages}
        assert event["ledger"]["total_seconds"] > 0
    described = json.loads(uninterrupted.run.manifest.read_text())
    assert described["status"] == "done"
    assert described["outcome"]["chain"] == uninterrupted.chain == chain_of(uninterrupted.run)[-1]
    assert described["determinism"]["requested"] == "strict"


def names(of: Sequence[Path]) -> set[str]:
    return {path.name for path in of}


def test_a_run_leaves_no_temporary_file(uninterrupted: TrainingResult) -> None:
    left = [p for p in uninterrupted.run.path.rglob("*") if p.name.startswith(".writing") or p.suffix == ".partial"]
    assert names(left) == set()
