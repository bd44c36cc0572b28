"""What cannot be repeated is one clear message: code, hint, exit status, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from publish_run import publish
from vlarl.errors import UsageError
from vlarl.reproduce import Order
from vlarl.reproduce import reproduce as reproduce_run
from vlarl.run import manifest
from vlarl.run.folder import RunFolder

Reproduce = Callable[..., Any]
Copy = Callable[[RunFolder], RunFolder]


def told(answer: Any) -> tuple[int, str]:
    """Exit status and code; there is a hint, and nothing of Python."""
    error = answer.document["error"]
    assert error["hint"]
    assert "Traceback" not in answer.errors
    assert f"error[{error['code']}]" in answer.errors
    return answer.status, error["code"]


@pytest.mark.parametrize(
    ("options", "code", "hint"),
    [
        (["--iterations", "4"], "U270", "--iterations 3 takes all of them"),
        (["--from-checkpoint", "2", "--iterations", "2"], "U270", "--iterations 1 takes all of them"),
        (["--from-checkpoint", "3"], "U270", "its checkpoints are 2, 3"),
        (["--stage", "update", "--from-checkpoint", "1"], "U270", "are there for 0, 2"),
    ],
)
def test_iterations_that_are_not_there(
    small: RunFolder, reproduce: Reproduce, options: list[str], code: str, hint: str
) -> None:
    answer = reproduce(small, *options)
    assert told(answer) == (2, code)
    assert hint in answer.document["error"]["hint"]


@pytest.mark.parametrize("options", [["--from-checkpoint", "1"], ["--from-checkpoint", "1", "--stage", "physics"]])
def test_a_checkpoint_that_was_not_kept(small: RunFolder, reproduce: Reproduce, options: list[str]) -> None:
    answer = reproduce(small, *options)
    assert told(answer) == (4, "R367")
    assert "there are 2, 3; `run.keep`" in answer.document["error"]["hint"]


def test_episodes_that_were_not_kept(small: RunFolder, copy_of: Copy, reproduce: Reproduce) -> None:
    run = copy_of(small)
    (run.episodes / "000002.safetensors").unlink()
    answer = reproduce(run, "--stage", "physics", "--from-checkpoint", "2")
    assert told(answer) == (4, "R367")
    assert "run.episodes" in answer.document["error"]["hint"]


@pytest.mark.parametrize("override", ["ppo.clip=0.3", "train.iterations=5", "suite.num_envs=8"])
def test_what_would_be_another_run(small: RunFolder, reproduce: Reproduce, override: str) -> None:
    assert told(reproduce(small, "--set", override)) == (3, "R220")


def test_what_is_no_run(reproduce: Reproduce, tmp_path: Path) -> None:
    assert told(reproduce("no-such-run", "--runs", str(tmp_path))) == (4, "R301")
    (tmp_path / "folder").mkdir()
    assert told(reproduce(tmp_path / "folder")) == (4, "R302")


def test_a_run_without_an_iteration(small: RunFolder, copy_of: Copy, reproduce: Reproduce) -> None:
    run = copy_of(small)
    run.events.write_text("")
    answer = reproduce(run)
    assert told(answer) == (4, "R366")


@pytest.mark.parametrize("field", ["digest", "chain"])
def test_a_tampered_chain(small: RunFolder, copy_of: Copy, reproduce: Reproduce, field: str) -> None:
    run = copy_of(small)
    records = [json.loads(line) for line in run.events.read_text().splitlines()]
    (record,) = (one for one in records if one["kind"] == "iteration" and one["iteration"] == 1)
    if field == "digest":
        record["digests"]["rewards"] = "0" * 64
    else:
        record["chain"] = "0" * 64
    run.events.write_text("".join(json.dumps(one) + "\n" for one in records))
    answer = reproduce(run)
    assert told(answer) == (4, "R368")
    assert "iteration 1" in answer.document["error"]["message"]


def test_a_chain_with_another_end_or_start(small: RunFolder, copy_of: Copy, reproduce: Reproduce) -> None:
    run = copy_of(small)
    record = manifest.read(run)
    run.manifest.write_text(json.dumps({**record, "outcome": {**record["outcome"], "chain": "0" * 64}}))
    assert "last link" in reproduce(run).document["error"]["message"]
    run.manifest.write_text(json.dumps({**record, "start": {**record["start"], "parameters": "0" * 64}}))
    answer = reproduce(run)
    assert told(answer) == (4, "R368")
    assert "first link" in answer.document["error"]["message"]


def test_recorded_actions_that_are_not_those_of_the_chain(
    small: RunFolder, copy_of: Copy, reproduce: Reproduce
) -> None:
    from safetensors.numpy import load_file, save_file

    run = copy_of(small)
    path = run.episodes / "000000.safetensors"
    arrays = load_file(path)
    arrays["tokens"][1, 3, 2] ^= 1
    save_file(arrays, path)
    assert told(reproduce(run, "--stage", "physics")) == (4, "R368")


@pytest.mark.parametrize("options", [["--stage", "physics"], ["--stage", "update"], ["--from-checkpoint", "1"]])
def test_a_published_run_has_no_stages(
    small: RunFolder, reproduce: Reproduce, tmp_path: Path, options: list[str]
) -> None:
    publish(small.path, tmp_path / "published")
    assert told(reproduce(tmp_path / "published", *options)) == (4, "R367")


@pytest.mark.parametrize(
    ("missing", "code"), [("manifest.json", "R302"), ("recipe.resolved.yaml", "R366"), ("chain.jsonl", "R366")]
)
def test_what_a_published_run_lacks_is_named(
    small: RunFolder, reproduce: Reproduce, tmp_path: Path, missing: str, code: str
) -> None:
    publish(small.path, tmp_path / "published", reference=True)
    (tmp_path / "published" / missing).unlink()
    answer = reproduce(tmp_path / "published")
    assert told(answer)[1] == code
    assert missing in str(answer.document["error"])


def test_one_process_only(small: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the command: with WORLD_SIZE set it leaves without a way back."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process") as refused:
        reproduce_run(Order(run=str(small.path), runs=tmp_path), pytest.fail)
    assert refused.value.code == "U270"
