"""Evaluations that were interrupted, grew, or ran in shards: the result is that of one piece, byte for byte."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import run_cli
from synthetic_run import make_document, make_run, make_trials
from test_evaluate import RECIPE, save_checkpoint

from vlarl.errors import AssetError, EnvironmentUnusable, Exit, UsageError
from vlarl.evaluate import EvaluationOutcome, evaluate
from vlarl.evaluate_fill import Filled, Watch, Work, fill
from vlarl.evaluate_merge import merge_shards
from vlarl.evaluation import held_out
from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.registry import build
from vlarl.results import Evaluated, read, write
from vlarl.results_export import vla_eval_result
from vlarl.results_shards import Shard, parse_shard, shard_document
from vlarl.results_store import PartialFile, identity
from vlarl.results_study import results_lock
from vlarl.results_text import headline
from vlarl.suites.baselines import BaselineJob, run_job
from vlarl.types import EpisodeSpec, Trial

SPEC = TabletopSpec()
SUITE = build(SPEC)
ALL = held_out(2, 3)


class Stop(BaseException):
    """Ends an evaluation in the middle."""


class Bench:
    """Random actions in this process; counts what is run, stops or fails where told."""

    def __init__(self, *, seed: int = 0, specs: tuple[EpisodeSpec, ...] = ALL, stop_after: int = 99) -> None:
        self.ran: list[EpisodeSpec] = []
        self.said: list[str] = []
        self.failing: set[EpisodeSpec] = set()
        self._seed, self._stop_after = seed, stop_after
        self.work = Work(
            suite_spec=SPEC,
            suite=SUITE,
            specs=specs,
            evaluated=Evaluated(policy="random", seed=seed),
            run=self._run,
        )

    def fill(self, folder: Path, shard: Shard | None = None, *, fresh: bool = False) -> Filled:
        return fill(self.work, folder, shard, fresh=fresh, watch=Watch(say=self.said.append))

    def _run(self, specs: Sequence[EpisodeSpec], ended: Callable[[Trial], None]) -> list[Trial]:
        trials = []
        for spec in specs:
            if len(self.ran) == self._stop_after:
                raise Stop
            job = BaselineJob(suite=SPEC, baseline="random", specs=(spec,), seed=self._seed)
            [trial] = run_job(job)
            if spec in self.failing:
                trial = Trial(spec=spec, success=False, errored=True, length=trial.length, actions=trial.actions)
            self.ran.append(spec)
            trials.append(trial)
            ended(trial)
        return trials


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    Bench().fill(folder)
    return contents(folder)


def interrupted(folder: Path, after: int = 4) -> Path:
    """An evaluation that stopped after some episodes; returns its partial file."""
    with pytest.raises(Stop):
        Bench(stop_after=after).fill(folder)
    [partial] = folder.iterdir()
    return partial


def test_what_was_interrupted_is_filled(tmp_path: Path, whole: dict[str, bytes]) -> None:
    partial = interrupted(tmp_path)
    assert len(partial.read_text().splitlines()) == 1 + 4
    bench = Bench()
    assert bench.fill(tmp_path).read_back == 4
    assert bench.ran == list(ALL[4:])
    assert any("read back 4 of 6 episodes" in line for line in bench.said)
    assert contents(tmp_path) == whole
    again = Bench()
    again.fill(tmp_path)
    assert again.ran == []
    assert contents(tmp_path) == whole


def test_fresh_runs_everything_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    interrupted(tmp_path)
    for _ in range(2):
        bench = Bench()
        assert bench.fill(tmp_path, fresh=True).read_back == 0
        assert bench.ran == list(ALL)
        assert contents(tmp_path) == whole


def test_more_episodes_run_only_the_new_ones_and_leave_the_old_document(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    Bench().fill(tmp_path)
    more, fewer = Bench(specs=held_out(2, 4)), Bench(specs=held_out(2, 1))
    path = more.fill(tmp_path).path
    assert more.ran == [EpisodeSpec(0, "eval", 3, 0), EpisodeSpec(1, "eval", 3, 0)]
    assert whole.items() <= contents(tmp_path).items()
    alone = Bench(specs=held_out(2, 4)).fill(tmp_path / "alone").path
    assert path is not None
    assert alone is not None
    assert path.read_bytes() == alone.read_bytes()
    fewer.fill(tmp_path)
    assert fewer.ran == []


def test_other_settings_take_nothing_over(tmp_path: Path) -> None:
    Bench().fill(tmp_path)
    other = Bench(seed=1)
    other.fill(tmp_path)
    assert other.ran == list(ALL)
    assert other.said == []


def test_errored_episodes_are_run_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    bench = Bench()
    bench.failing = {ALL[2]}
    assert bench.fill(tmp_path).document["overall"]["errors"] == 1
    again = Bench()
    again.fill(tmp_path)
    assert again.ran == [ALL[2]]
    assert contents(tmp_path) == whole


def tear(partial: Path) -> None:
    partial.write_bytes(partial.read_bytes()[:-30])


def break_a_line(partial: Path) -> None:
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join([*lines[:2], b"\x00{]\n", *lines[3:]]))


def lie(partial: Path) -> None:
    lines = partial.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"success":false', '"success":true')
    partial.write_text("".join(lines))


@pytest.mark.parametrize(("damage", "told"), [(tear, None), (break_a_line, "line 3 is damaged"), (lie, "line 3 is")])
def test_a_damaged_line_costs_its_episode_only(
    tmp_path: Path, whole: dict[str, bytes], damage: Callable[[Path], None], told: str | None
) -> None:
    damage(interrupted(tmp_path))
    bench = Bench()
    bench.fill(tmp_path)
    assert len(bench.ran) == 3
    assert [told is not None and told in line for line in bench.said] == ([True, False] if told else [False])
    assert contents(tmp_path) == whole


def foreign(partial: Path) -> None:
    other = partial.parent / "other"
    with pytest.raises(Stop):
        Bench(seed=5, stop_after=4).fill(other)
    [found] = other.iterdir()
    os.replace(found, partial)
    other.rmdir()


@pytest.mark.parametrize("damage", [foreign, lambda partial: partial.write_text("[]\n{}\n")])
def test_a_foreign_file_is_told_set_aside_and_not_mixed_in(
    tmp_path: Path, whole: dict[str, bytes], damage: Callable[[Path], None]
) -> None:
    partial = interrupted(tmp_path)
    damage(partial)
    kept = partial.read_bytes()
    bench = Bench()
    bench.fill(tmp_path)
    assert bench.ran == list(ALL)
    assert partial.name in bench.said[0]
    found = contents(tmp_path)
    assert found.pop(partial.with_suffix(".unusable").name) == kept
    assert found == whole


def test_a_foreign_line_is_not_mixed_in(tmp_path: Path, whole: dict[str, bytes]) -> None:
    partial, other = interrupted(tmp_path), tmp_path / "other"
    with pytest.raises(Stop):
        Bench(seed=5, stop_after=6 - 1).fill(other)
    [found] = other.iterdir()
    with partial.open("ab") as stream:
        stream.write(found.read_bytes().splitlines(keepends=True)[-1])
    found.unlink()
    other.rmdir()
    bench = Bench()
    bench.fill(tmp_path)
    assert bench.ran == list(ALL[4:])
    assert "line 6 is damaged" in bench.said[0]
    assert contents(tmp_path) == whole


def halve(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [(".json", halve), (".safetensors", halve), (".json", lambda data: data.replace(b":false", b":true", 1))],
)
def test_a_damaged_evaluation_is_told_and_written_anew(
    tmp_path: Path, whole: dict[str, bytes], suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    Bench().fill(tmp_path)
    path = tmp_path / f"tabletop_basic-random{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    bench = Bench()
    bench.fill(tmp_path)
    assert bench.ran == list(ALL)
    assert "run again" in bench.said[0]
    assert contents(tmp_path) == whole


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(EnvironmentUnusable) as caught:
        Bench().fill(tmp_path)
    assert caught.value.code == "E421"
    with pytest.raises(EnvironmentUnusable) as caught, results_lock(tmp_path):
        pass
    assert caught.value.code == "E421"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    plan = Bench().work.described(())
    with PartialFile(tmp_path, plan, SUITE.tasks()), pytest.raises(EnvironmentUnusable) as caught:
        Bench().fill(tmp_path)
    assert caught.value.code == "E420"
    Bench(stop_after=6).fill(tmp_path)


def test_weights_sampling_conventions_and_slots_make_another_identity() -> None:
    trials = make_trials(lambda task, init: True, 2)
    one = make_document(trials)
    assert identity(make_document(make_trials(lambda task, init: False, 5))) == identity(one)
    changes: list[dict[str, Any]] = [{"digest": "cd"}, {"seed": 8}, {"renderer": "egl"}, {"decoding": "sampled"}]
    assert all(identity(make_document(trials, **change)) != identity(one) for change in changes)
    assert identity({**one, "suite_spec": {"num_envs": 3}}) != identity(one)


COMMAND = ("eval", "--suite", "tabletop_basic", "--policy", "random", "--episodes", "20", "--tasks", "push_red")


def test_a_killed_command_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed, unharmed = tmp_path / "killed", tmp_path / "unharmed"
    command = [sys.executable, "-m", "vlarl", *COMMAND, "--out", str(killed)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("evaluated 4/"):
                process.send_signal(signal.SIGKILL)
                break
    [partial] = killed.iterdir()
    assert len(partial.read_text().splitlines()) > 4
    status, _, err = run_cli(*COMMAND, "--out", str(killed), capsys=capsys)
    assert status == Exit.OK
    assert "of 20 episodes from" in err
    evaluate("tabletop_basic", policy="random", episodes=20, tasks=["push_red"], out=unharmed)
    assert contents(killed) == contents(unharmed)


# Shards


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    save_checkpoint(make_run(folder, iterations=1, episodes=1, name="small"), RECIPE)
    return folder


def sampled(runs: Path, **options: Any) -> EvaluationOutcome:
    """Tasks with prompts of different length, so that neighbours would show."""
    tasks = ["lift_red", "push_green"]
    return evaluate(
        "tabletop_basic", tasks=tasks, episodes=3, decoding="sampled", temperature=1.5, runs=runs, **options
    )


@pytest.mark.slow
def test_shards_of_a_checkpoint_merge_to_the_whole(runs: Path, tmp_path: Path) -> None:
    [run] = runs.iterdir()
    parts = [sampled(runs, shard=Shard(number, 4)).path for number in (1, 2, 3, 4)]
    assert {path.parent for path in parts if path} == {run / "eval" / "shards"}
    merged = merge_shards([path for path in reversed(parts) if path])
    assert merged.path == run / "eval" / "tabletop_basic-000005.json"
    outcome = sampled(runs, out=tmp_path)
    assert outcome.read_back == 0
    assert contents(tmp_path) == {name: (run / "eval" / name).read_bytes() for name in contents(tmp_path)}
    assert sampled(runs).read_back == 6
    assert sampled(runs, shard=Shard(2, 4)).read_back == len(Shard(2, 4).part(ALL))
    assert "shard 2/4: 2 of 6 episodes" in headline(json.loads(Path(str(parts[1])).read_text()))


@pytest.mark.parametrize(("count", "of"), [(6, 4), (7, 7), (10, 3), (5, 1)])
def test_shards_are_disjoint_and_complete(count: int, of: int) -> None:
    parts = [Shard(number, of).part(range(count)) for number in range(1, of + 1)]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def make_shards(folder: Path, of: int = 3, **fields: Any) -> list[Path]:
    trials = sorted(make_trials(lambda task, init: init > task, 2), key=lambda trial: trial.spec)
    described = make_document(trials, **fields)
    paths = []
    for number in range(1, of + 1):
        part = Shard(number, of).part(trials)
        document = {**make_document(list(part), **fields), "protocol": described["protocol"]}
        document["protocol_digest"] = described["protocol_digest"]
        document["tasks"] = described["tasks"]
        held = make_document(list(part), **fields)["tasks"]
        empty = {"successes": 0, "episodes": 0, "errors": 0, "low": 0.0, "high": 1.0}
        by_name = {row["task"]: row for row in held}
        document["tasks"] = [by_name.get(row["task"], {"task": row["task"], **empty}) for row in described["tasks"]]
        paths.append(write(shard_document(document, Shard(number, of), len(trials)), part, folder, f"s{number}of{of}"))
    return paths


def refused(paths: list[Path], out: Path, code: str, *says: str) -> None:
    with pytest.raises(AssetError) as caught:
        merge_shards(paths, out=out)
    assert caught.value.code == code
    assert caught.value.hint is not None
    assert all(word in caught.value.message for word in says), caught.value.message
    assert not out.exists()


def test_shards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    paths, out = make_shards(tmp_path / "a"), tmp_path / "out"
    refused(paths[:1] + paths[2:], out, "R365", "of 3 shards 2 is missing")
    refused(paths[1:2], out, "R365", "of 3 shards 1, 3 are missing")
    refused([*paths, paths[0]], out, "R365", "shard 1/3 is given twice")
    others: dict[str, dict[str, Any]] = {
        "digest: 'abab": {"digest": "cd" * 32},
        "seed: '7' against '9'": {"seed": 9},
        "renderer: 'osmesa' against 'egl'": {"renderer": "egl"},
        "iteration": {"iteration": 9},
    }
    for number, (says, fields) in enumerate(others.items()):
        other = make_shards(tmp_path / str(number), **fields)
        refused([paths[0], other[1], paths[2]], out, "R365", "not of one evaluation", says)
    refused([paths[0], make_shards(tmp_path / "halves", of=2)[1]], out, "R365", "of: '3' against '2'")


def test_shards_that_overlap_are_refused(tmp_path: Path) -> None:
    paths = make_shards(tmp_path / "a")
    lying = json.loads(paths[0].read_text())
    lying["shard"]["number"] = 2
    stored = read(paths[0], lying["schema"])
    overlapping = write(lying, stored.trials, tmp_path / "b", "lying")
    refused([paths[0], overlapping, paths[2]], tmp_path / "out", "R365", "4 episodes are in more than one shard")


def test_unusable_shards_are_refused(tmp_path: Path) -> None:
    paths, out = make_shards(tmp_path / "a"), tmp_path / "out"
    merged = merge_shards(paths, out=tmp_path / "whole").path
    assert merged is not None
    refused([paths[0], merged, paths[2]], out, "R360", "its schema is")
    with pytest.raises(AssetError, match="one shard") as caught:
        read(paths[0])
    assert "vlarl merge" in str(caught.value.hint)
    paths[1].write_text(paths[1].read_text().replace('"successes": ', '"successes": 1', 1))
    refused(paths, out, "R360", "counts")
    paths[1].write_text("{")
    refused(paths, out, "R360", paths[1].name)
    refused([*paths[:1], tmp_path / "nothing.json"], out, "R360", "nothing.json")


@pytest.mark.parametrize("text", ["", "1", "a/b", "0/3", "4/3", "1/0", "-1/2", "1/2/3", "1.0/2"])
def test_text_that_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_shard(text)
    assert caught.value.code == "U215"
    assert "--shard 1/" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"shard": Shard(1, 13), "out": Path("x")}, "U215"),
        ({"shard": Shard(1, 2)}, "U216"),
        ({"videos": 1}, "U216"),
        ({"videos": 1, "shard": Shard(1, 2), "out": Path("x")}, "U216"),
    ],
)
def test_shards_and_videos_that_cannot_be(options: dict[str, Any], code: str, tmp_path: Path) -> None:
    if "out" in options:
        options = {**options, "out": tmp_path / "x"}
    with pytest.raises(UsageError) as caught:
        evaluate("tabletop_basic", policy="expert", episodes=2, **options)
    assert caught.value.code == code
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


# Videos and export


def test_videos_lie_beside_the_document(tmp_path: Path) -> None:
    outcome = evaluate("tabletop_basic", policy="expert", tasks=["reach_red"], episodes=2, out=tmp_path, videos=1)
    assert [path.stem.startswith("reach_red-first") for path in outcome.videos] == [True]
    assert outcome.videos[0].parent == tmp_path / "tabletop_basic-expert-videos"
    assert outcome.videos[0].stat().st_size > 1000
    more = evaluate("tabletop_basic", policy="expert", tasks=["reach_red"], episodes=2, out=tmp_path, videos=3)
    assert (more.read_back, len(more.videos)) == (2, 2)


def test_an_export_has_the_other_formats_counts() -> None:
    trials = make_trials(lambda task, init: init > task, 3, errored=frozenset({4}))
    document = make_document(trials)
    found = vla_eval_result(document, created_at="2026-01-01T00:00:00+00:00")
    assert (found["benchmark"], found["mode"], found["metric_keys"]) == ("tabletop_basic", "sync", {"success": "mean"})
    assert found["mean_success"] == round(document["overall"]["successes"] / 18, 4)
    first = found["tasks"][0]
    assert (first["task"], first["num_episodes"], first["mean_success"]) == ("do reach red", 3, 0.6667)
    assert first["episodes"][1] == {"episode_id": 1, "metrics": {"success": True}, "steps": trials[6].length}
    errored = found["tasks"][4]
    assert errored["num_errors"] == 1
    assert errored["episodes"][0] == {"episode_id": 0, "metrics": {"success": False}, "failure_reason": "exception"}
    assert errored["avg_steps"] == 80 / 3
    json.dumps(found, allow_nan=False)


def test_an_export_of_libero_names_the_harness_class_and_joins_tasks_of_one_instruction() -> None:
    document = make_document(make_trials(lambda task, init: True, 2))
    tasks = [{**task, "instruction": "turn on the stove"} for task in document["protocol"]["tasks"]]
    libero = {**document, "suite": "libero_90", "protocol": {**document["protocol"], "tasks": tasks}}
    found = vla_eval_result(libero, created_at="")
    assert found["benchmark"] == "LIBEROBenchmark_libero_90"
    assert found["config"]["params"] == {"suite": "libero_90", "seed": 0, "num_steps_wait": 0}
    [task] = found["tasks"]
    assert task["num_episodes"] == 12


def test_the_commands_merge_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_shards(tmp_path / "shards")
    status, out, err = run_cli("merge", *map(str, paths), "--json", capsys=capsys)
    assert (status, json.loads(out)["path"]) == (Exit.OK, str(tmp_path / "tabletop_basic-000000.json"))
    target = tmp_path / "deep" / "result.json"
    words = ("export-results", str(tmp_path / "tabletop_basic-000000.json"), "--format", "vla-eval", "--out")
    assert run_cli(*words, str(target), capsys=capsys)[:2] == (Exit.OK, f"{target}\n")
    assert json.loads(target.read_text())["benchmark"] == "tabletop_basic"
    status, out, err = run_cli("export-results", str(paths[0]), "--out", str(tmp_path / "y"), capsys=capsys)
    assert (status, out) == (Exit.ENVIRONMENT, "")
    assert "vlarl merge" in err
    status, out, err = run_cli("eval", "--suite", "tabletop_basic", "--shard", "5/4", capsys=capsys)
    assert status == Exit.USAGE
    assert err.startswith("error[U215]: there is no shard 5 of 4")
