"""What a user can get wrong, from the command line: exit status, one clear message with a hint, nothing lost."""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import json
import os
import pty
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vlarl
from vlarl import cli, errors
from vlarl.digest import bytes_digest, canonical_json, file_digest
from vlarl.errors import Exit
from vlarl.run.folder import RunFolder, find_runs
from vlarl.suites import renderer

RECIPE = """
name: small
seed: 3
suite: {kind: tabletop, tasks: [reach_red, reach_green], image_size: 32, num_envs: 4, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
imitation: null
ppo: {minibatch_size: 16}
train: {iterations: 2, critic_warmup: 0, torch_threads: 1, rollout: {kind: steps, num_steps: 8}}
evaluation: {every: 2, episodes: 1, videos: false}
run: {checkpoint_every: 1, keep: {last: 10}}
"""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        data = json.loads(self.out)
        assert isinstance(data, dict)
        return data


def vlarl_command(*words: str) -> Done:
    """One command in this process; neither stdout nor stderr is a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
        cli.main(list(words))
    return Done(int(caught.value.code or 0), out.getvalue(), err.getvalue())


def refused(*words: str, status: Exit, code: str) -> str:
    """The command ends with ``status`` and exactly one message, that of ``code``, with a hint. Returns stderr."""
    done = vlarl_command(*words)
    assert done.status == status, done.err
    assert done.err.count("error[") == done.err.count(f"error[{code}]: ") == 1, done.err
    assert "\nhint: " in done.err
    assert "Traceback" not in done.err
    assert not CONTROL.search(done.err)
    assert done.out == ""
    return done.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of two iterations, never written to again."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(RECIPE)
    done = vlarl_command("train", str(folder / "small.yaml"), "--runs", str(folder / "runs"))
    assert done.status == Exit.OK, done.err
    assert not CONTROL.search(done.out + done.err)
    [run] = find_runs(folder / "runs")
    return run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(finished: RunFolder) -> RunFolder:
    """A copy of the run in `runs`, to be damaged."""
    return RunFolder(Path(shutil.copytree(finished.path, Path("runs") / finished.id, symlinks=True)))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``; the lock and the manifest's account of how the run ended may differ."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("lock", "manifest.json")
    }


# Recipes


@pytest.mark.parametrize(
    ("text", "code", "line", "says"),
    [
        ("seed: 1\nppo:\n  gama: 0.9\n", "R102", "bad.yaml:3:3", "did you mean `gamma`?"),
        ("ppo:\n  lr: fast\n", "R104", "bad.yaml:2:7", "a number"),
        ("seed: 1\nseed: 2\n", "R108", "bad.yaml:2:1", "twice"),
        ("extends: bad.yaml\n", "R109", "bad.yaml:1:10", "bad.yaml → bad.yaml"),
        ("extends: base.yaml\n", "R110", "bad.yaml:1:10", "no such file"),
        ("suite: {kind: table}\n", "R107", "bad.yaml:1:15", "did you mean `tabletop`?"),
        ("suite: {kind: tabletop, tasks: [reach_rde]}\n", "R206", "bad.yaml:1:33", "did you mean `reach_red`?"),
    ],
)
@pytest.mark.parametrize("command", [("train",), ("sft",), ("collect", "--out", "demos")])
def test_an_invalid_recipe_starts_nothing(text: str, code: str, line: str, says: str, command: Sequence[str]) -> None:
    Path("bad.yaml").write_text(text)
    err = refused(command[0], "bad.yaml", *command[1:], status=Exit.RECIPE, code=code)
    assert line in err
    assert says in err
    assert "`vlarl explain " in err
    assert os.listdir() == ["bad.yaml"]


def test_a_missing_recipe_file() -> None:
    Path("mine.yaml").write_text("seed: 1\n")
    assert "did you mean `mine.yaml`?" in refused("train", "mien.yaml", status=Exit.RECIPE, code="R110")
    refused("train", "nosuchrecipe", status=Exit.USAGE, code="U202")
    assert "ppo.lr=1e-4" in refused("train", "mine.yaml", "--set", "ppo.lr", status=Exit.RECIPE, code="R111")


# Names


@pytest.mark.parametrize(
    ("words", "status", "code", "says"),
    [
        (("eval", "--suite", "tabletop_basik"), Exit.USAGE, "U202", "did you mean `tabletop_basic`?"),
        (("eval", "--suite", "tabletop_basic"), Exit.ENVIRONMENT, "R363", "--policy expert"),
        (("eval", "--suite", "tabletop_basic", "--checkpoint", "nope"), Exit.ENVIRONMENT, "R301", "vlarl train"),
        (("eval", "--suite", "tabletop_basic", "--checkpoint", "last"), Exit.ENVIRONMENT, "R301", "vlarl train"),
        (("eval", "--suite", "tabletop_basic", "--checkpoint", "."), Exit.ENVIRONMENT, "R302", "manifest.json"),
        (("resume", "nope"), Exit.ENVIRONMENT, "R301", "vlarl train"),
        (("replay", "nope", "reach_red:0"), Exit.ENVIRONMENT, "R301", "vlarl train"),
        (("report", "nope"), Exit.ENVIRONMENT, "R301", "vlarl train"),
    ],
)
def test_a_name_that_nothing_has(words: Sequence[str], status: Exit, code: str, says: str) -> None:
    assert says in refused(*words, status=status, code=code)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--tasks", "reach_rde", "--policy", "expert"), "U212", "did you mean `reach_red`?"),
        (("--tasks", "reach_red,nope"), "U212", "its tasks are reach_red, "),
        (("--episodes", "100000", "--policy", "random"), "U213", "--episodes "),
        (("--episodes", "100000"), "U213", "--episodes "),
        (("--policy", "expert", "--checkpoint", "last"), "U210", "leave one of the two out"),
        (("--temperature", "1.5"), "U211", "--decoding sampled"),
        (("--temperature", "-1", "--decoding", "sampled"), "U211", "--decoding greedy"),
    ],
)
def test_evaluations_that_cannot_be(run: RunFolder, words: Sequence[str], code: str, says: str) -> None:
    before = contents(run.path)
    assert says in refused("eval", "--suite", "tabletop_basic", *words, status=Exit.USAGE, code=code)
    assert contents(run.path) == before


def test_the_hint_about_too_many_episodes_works(run: RunFolder) -> None:
    words = ("eval", "--suite", "tabletop_basic", "--tasks", "reach_red", "--policy", "expert", "--episodes")
    hint = refused(*words, "100000", status=Exit.USAGE, code="U213").rpartition("hint: ")[2]
    most = int(hint.removeprefix("--episodes "))
    refused(*words, str(most + 1), status=Exit.USAGE, code="U213")


@pytest.mark.parametrize(
    ("episode", "status", "code", "says"),
    [
        ("reach_red", Exit.USAGE, "U214", "reach_red:0"),
        ("reach_rde:0", Exit.ENVIRONMENT, "R364", "did you mean `reach_red:0`?"),
        ("reach_red:7", Exit.ENVIRONMENT, "R364", "it holds 0"),
    ],
)
def test_replay_of_what_was_not_evaluated(run: RunFolder, episode: str, status: Exit, code: str, says: str) -> None:
    assert says in refused("replay", run.id, episode, status=status, code=code)
    assert not run.videos.exists()


def test_a_resume_may_not_change_the_computation(run: RunFolder) -> None:
    before = contents(run.path)
    err = refused("resume", "last", "--set", "ppo.clip=0.3", status=Exit.RECIPE, code="R220")
    assert "`ppo.clip`" in err
    assert "train.iterations" in err
    assert contents(run.path) == before


def test_a_resume_cannot_ask_for_fewer_iterations_than_are_done(run: RunFolder) -> None:
    before, manifest = contents(run.path), run.manifest.read_bytes()
    err = refused("resume", "last", "--iterations", "1", status=Exit.RECIPE, code="R220")
    hint = re.search(r"hint: --iterations (\d+) or more", err)
    assert hint is not None
    assert int(hint[1]) > 1
    assert (contents(run.path), run.manifest.read_bytes()) == (before, manifest)


# Checkpoints


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


EVAL = ("eval", "--suite", "tabletop_basic", "--tasks", "reach_red", "--episodes", "1", "--checkpoint")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", ["policy.safetensors", "state.json", "digests.json", "COMPLETE"])
def test_a_damaged_checkpoint_is_refused(run: RunFolder, damage: Callable[[Path], None], name: str) -> None:
    newest = run.checkpoints / "000002"
    damage(newest / name)
    before = contents(run.path)
    err = refused(*EVAL, str(newest), status=Exit.ENVIRONMENT, code="R351")
    assert "checkpoint 000002 is damaged" in err
    assert "name the run" in err
    assert contents(run.path) == before


def test_a_missing_checkpoint(run: RunFolder) -> None:
    refused(*EVAL, str(run.checkpoints / "000099"), status=Exit.ENVIRONMENT, code="R301")
    shutil.rmtree(run.checkpoints)
    assert "warm start" in refused(*EVAL, run.id, status=Exit.ENVIRONMENT, code="R350")


def test_the_checkpoint_before_a_damaged_one_is_used_and_said_so(run: RunFolder) -> None:
    truncate(run.checkpoints / "000002" / "policy.safetensors")
    done = vlarl_command(*EVAL, run.id, "--json")
    assert done.status == Exit.OK, done.err
    assert done.document["evaluation"]["iteration"] == 1
    assert "passed over a checkpoint: checkpoint 000002 is damaged" in done.err
    assert len(done.document["passed_over"]) == 1
    for number in ("000000", "000001"):
        flip_a_bit(run.checkpoints / number / "state.json")
    err = refused(*EVAL, run.id, status=Exit.ENVIRONMENT, code="R352")
    assert all(number in err for number in ("000000", "000001", "000002"))


def forge(checkpoint: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the state of a checkpoint and seal it again, so that only its meaning is wrong."""
    state = json.loads((checkpoint / "state.json").read_text())
    change(state)
    (checkpoint / "state.json").write_text(canonical_json(state))
    digests = json.loads((checkpoint / "digests.json").read_text())
    text = canonical_json({**digests, "state.json": file_digest(checkpoint / "state.json")})
    (checkpoint / "digests.json").write_text(text)
    (checkpoint / "COMPLETE").write_text(bytes_digest(text.encode()))


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda state: state["policy"].update(hidden_size=64), "R353", "hidden_size: 64"),
        (lambda state: state["policy"].update(kind="openvla"), "R353", "kind: 'openvla'"),
        (lambda state: state["policy"].update(action="joint angles"), "R353", "action: 'joint angles'"),
        (lambda state: state["policy"].update(num_bins=64), "R353", "num_bins: 64"),
        (lambda state: state.update(version=99), "R354", "version 99"),
        (lambda state: state.update(recipe='{"sweet": true}'), "R354", "does not understand"),
    ],
)
def test_a_checkpoint_of_something_else_is_not_evaluated(
    run: RunFolder, change: Callable[[dict[str, Any]], None], code: str, says: str
) -> None:
    newest = run.checkpoints / "000002"
    forge(newest, change)
    assert says in refused(*EVAL, str(newest), status=Exit.ENVIRONMENT, code=code)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda state: state["policy"].update(hidden_size=64), "R353", "hidden_size"),
        (lambda state: state["policy"].update(action="joint angles"), "R353", "joint angles"),
        (lambda state: state["critic"].update(hidden_sizes=[7]), "R355", "another critic"),
    ],
)
def test_a_checkpoint_of_something_else_is_not_resumed(
    run: RunFolder, change: Callable[[dict[str, Any]], None], code: str, says: str
) -> None:
    forge(run.checkpoints / "000002", change)
    before = contents(run.path)
    assert says in refused("resume", "last", "--iterations", "3", status=Exit.ENVIRONMENT, code=code)
    after = contents(run.path)
    assert {name: after[name] for name in before if "recipe" not in name} == {
        name: data for name, data in before.items() if "recipe" not in name
    }


@pytest.mark.parametrize(
    ("name", "damage", "words", "code"),
    [
        ("events.jsonl", lambda path: path.write_text("{\n" + path.read_text()), ("report", "last"), "R320"),
        ("manifest.json", truncate, ("resume", "last", "--iterations", "3"), "R330"),
        ("eval/tabletop_basic-000002.json", truncate, ("replay", "last", "reach_red:0"), "R360"),
        ("eval/tabletop_basic-000002.safetensors", truncate, ("replay", "last", "reach_red:0"), "R360"),
    ],
)
def test_other_damaged_files_of_a_run(
    run: RunFolder, name: str, damage: Callable[[Path], None], words: Sequence[str], code: str
) -> None:
    damage(run.path / name)
    before = contents(run.path)
    assert Path(name).name in refused(*words, status=Exit.ENVIRONMENT, code=code)
    assert contents(run.path) == before


def test_a_run_in_use_names_the_process(run: RunFolder) -> None:
    before = contents(run.path)
    with run.lock():
        err = refused("resume", "last", "--iterations", "3", status=Exit.ENVIRONMENT, code="E420")
    assert f"pid {os.getpid()} " in err
    assert contents(run.path) == before


# Demonstrations


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demonstrations")
    (folder / "small.yaml").write_text(RECIPE)
    words = ("--episodes", "1", "--set", "suite.tasks=[reach_red]", "--out", str(folder / "demos"))
    done = vlarl_command("collect", str(folder / "small.yaml"), *words)
    assert done.status == Exit.OK, done.err
    return folder / "demos"


def test_collect_never_writes_into_a_folder_that_exists(demonstrations: Path) -> None:
    before = contents(demonstrations)
    Path("small.yaml").write_text(RECIPE)
    err = refused("collect", "small.yaml", "--out", str(demonstrations), status=Exit.ENVIRONMENT, code="R314")
    assert "--out" in err
    assert contents(demonstrations) == before


@pytest.mark.parametrize(
    ("damage", "override", "code", "says"),
    [
        (truncate, "seed=3", "R311", "reach_red_demo.hdf5"),
        (lambda path: path.write_text("not HDF5"), "seed=3", "R311", "reach_red_demo.hdf5"),
        (Path.unlink, "seed=3", "R310", "vlarl collect"),
        (lambda path: shutil.rmtree(path.parent), "seed=3", "R310", "vlarl collect"),
        (lambda path: None, "suite.image_size=64", "R312", "--set suite.image_size=32"),
    ],
)
def test_demonstrations_that_cannot_be_used(
    demonstrations: Path, damage: Callable[[Path], None], override: str, code: str, says: str
) -> None:
    shutil.copytree(demonstrations, "demos")
    damage(Path("demos/reach_red_demo.hdf5"))
    Path("small.yaml").write_text(RECIPE.replace("imitation: null", "imitation: {demonstrations: demos, updates: 60}"))
    words = ("--set", override, "--set", "run.cache=cache")
    assert says in refused("sft", "small.yaml", *words, status=Exit.ENVIRONMENT, code=code)
    [run] = find_runs(Path("runs"))
    described = json.loads(run.manifest.read_text())
    assert (described["status"], described["outcome"]["error"]) == ("failed", code)
    assert not list(Path("cache").rglob("*.safetensors"))
    assert not list(Path("cache").glob("warmstarts/*"))


# The machine


def test_a_suite_without_rendering_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "_loads_library", lambda library: False)
    Path("small.yaml").write_text(RECIPE)
    err = refused("train", "small.yaml", status=Exit.ENVIRONMENT, code="E410")
    assert "apt-get install libosmesa6" in err
    assert os.listdir() == ["small.yaml"]


@contextlib.contextmanager
def no_file_may_outgrow(size: int) -> Iterator[None]:
    """The kernel refuses whatever makes a file larger, whoever writes it: a full disk that needs no mounting."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100_000])  # nothing can be written; everything but a checkpoint's weights
def test_no_room_for_a_file_keeps_the_run_resumable(run: RunFolder, size: int) -> None:
    before = contents(run.checkpoints)
    with no_file_may_outgrow(size):
        err = refused("resume", "last", "--iterations", "40", status=Exit.ENVIRONMENT, code="E430")
    assert "free some space" in err
    kept = {name: data for name, data in contents(run.checkpoints).items() if name in before}
    assert kept == before
    reached = max(int(path.name) for path in run.checkpoints.iterdir() if path.name.isdigit())
    again = vlarl_command("resume", "last", "--iterations", str(reached + 1), "--json")
    assert again.status == Exit.OK, again.err
    assert again.document["iterations"] == reached + 1


def test_no_room_while_recording_leaves_nothing_half_done() -> None:
    Path("small.yaml").write_text(RECIPE)
    with no_file_may_outgrow(40_000):
        refused("collect", "small.yaml", "--episodes", "40", "--out", "demos", status=Exit.ENVIRONMENT, code="E430")
    assert os.listdir() == ["small.yaml"]


def test_a_write_without_space_is_told_and_nothing_is_lost(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run.checkpoints)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused("resume", "last", "--iterations", "3", status=Exit.ENVIRONMENT, code="E430")
    assert contents(run.checkpoints) == before
    assert vlarl_command("resume", "last", "--iterations", "3").status == Exit.OK


# How errors are shown


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("train", "bad.yaml"), Exit.RECIPE, "R100"),
        (("sft", "bad.yaml"), Exit.RECIPE, "R100"),
        (("collect", "bad.yaml", "--out", "demos"), Exit.RECIPE, "R100"),
        (("show", "bad.yaml"), Exit.RECIPE, "R100"),
        (("resume", "nope"), Exit.ENVIRONMENT, "R301"),
        (("eval", "--suite", "nope"), Exit.USAGE, "U202"),
        (("eval",), Exit.USAGE, "U200"),
        (("nope",), Exit.USAGE, "U200"),
        (("train", "bad.yaml", "--faster"), Exit.USAGE, "U200"),
        (("replay", "nope", "reach_red:0"), Exit.ENVIRONMENT, "R301"),
        (("report", "nope"), Exit.ENVIRONMENT, "R301"),
        (("explain", "nope"), Exit.USAGE, "U202"),
        (("list", "nope"), Exit.USAGE, "U202"),
        (("doctor", "bad.yaml"), Exit.RECIPE, "R100"),
    ],
)
def test_errors_are_one_json_document_where_asked_for(words: Sequence[str], status: Exit, code: str) -> None:
    Path("bad.yaml").write_text("sede: 1\nppo: {clip: 0}\n")
    done = vlarl_command(*words, "--json")
    assert (done.status, done.document["ok"]) == (status, False)
    assert done.document["error"]["code"] == code
    if code == "R100":
        assert [found["code"] for found in done.document["diagnostics"]] == ["R102", "R105"]
        assert all(found["hint"] for found in done.document["diagnostics"])
    else:
        assert done.document["error"]["hint"]


def on_a_terminal(command: Sequence[str], **environment: str) -> bytes:
    """What a command writes to a terminal that is its stdin, stdout and stderr."""
    controller, terminal = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env={**kept, **environment}):
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError), open(controller, "rb", buffering=0) as stream:
            while piece := stream.read(4096):
                shown += piece
    return shown


def test_no_color_and_dumb_terminals_get_plain_text() -> None:
    Path("bad.yaml").write_text("sede: 1\n")
    source = str(Path(vlarl.__file__).parents[1])
    command = [sys.executable, "-c", "from vlarl.cli import main; main()", "validate", "bad.yaml"]
    shown = {
        name: on_a_terminal(command, PYTHONPATH=source, **environment)
        for name, environment in {
            "colour": {"TERM": "xterm"},
            "no colour": {"TERM": "xterm", "NO_COLOR": "1"},
            "dumb": {"TERM": "dumb"},
        }.items()
    }
    assert b"\x1b[" in shown["colour"]
    assert b"error[R102]" in shown["no colour"] == shown["dumb"]
    assert not CONTROL.search(shown["dumb"].decode().replace("\r\n", "\n"))


# Every error


def raised() -> Iterator[tuple[str, ast.Call]]:
    """(place, call) of every error that the source makes."""
    package = Path(vlarl.__file__).parent
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                yield f"{path.relative_to(package)}:{node.lineno}", node


def test_every_error_has_a_code_and_a_hint() -> None:
    found = list(raised())
    assert len(found) > 40, "the walk sees the errors"
    lacking = [
        (place, keyword)
        for place, call in found
        for keyword in ("code", "hint")
        if keyword not in {each.arg for each in call.keywords}
        # A recipe's error carries diagnostics, which have codes and hints; the codes of the others are their kind's.
        and not (isinstance(call.func, ast.Name) and call.func.id == "RecipeError" and len(call.args) == 2)
        and not (isinstance(call.func, ast.Name) and call.func.id in ("Stopped", "UsageError") and keyword == "code")
    ]
    assert lacking == []
