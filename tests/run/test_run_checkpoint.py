"""Checkpoints: whole or not there, verified, kept as asked, and never of another policy."""

from __future__ import annotations

import errno
import importlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlarl.digest import bytes_digest, file_digest
from vlarl.errors import AssetError, EnvironmentUnusable
from vlarl.recipe.specs.learning import KeepSpec
from vlarl.run import checkpoint, files
from vlarl.run.checkpoint import load, save

POLICY = {"kind": "tiny", "num_bins": 256}
ALL = KeepSpec(last=100)


def write(run: Path, iteration: int, keep: KeepSpec = ALL, best: int | None = None) -> Path:
    rng = np.random.default_rng(iteration)
    tensors: dict[str, dict[str, Any]] = {
        "policy": {"w": rng.normal(size=(3, 4)).astype(np.float32), "transposed": rng.normal(size=(2, 5)).T},
        "slots": {"index": np.arange(4), "running": np.array([True, False]), "empty": np.zeros((0, 7), np.float32)},
    }
    return save(run / "checkpoints", iteration, tensors, {"policy": POLICY, "seed": 3}, keep, best=best)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = write(tmp_path, 50)
    assert path == tmp_path / "checkpoints" / "000050"
    for source in (tmp_path, tmp_path / "checkpoints", path, tmp_path / "checkpoints" / "last"):
        loaded = load(source, policy=POLICY)
        assert (loaded.path, loaded.iteration, loaded.warnings) == (path, 50, ())
        assert loaded.state["seed"] == 3
    rng = np.random.default_rng(50)
    arrays = loaded.arrays("policy")
    assert np.array_equal(arrays["w"], rng.normal(size=(3, 4)).astype(np.float32))
    assert np.array_equal(arrays["transposed"], rng.normal(size=(2, 5)).T)
    assert arrays["transposed"].dtype == np.float64
    assert loaded.arrays("slots")["running"].tolist() == [True, False]
    assert loaded.arrays("slots")["empty"].shape == (0, 7)
    assert loaded.parts == ("policy", "slots")
    assert sorted(p.name for p in path.iterdir()) == sorted(
        ["policy.safetensors", "slots.safetensors", "state.json", "digests.json", "COMPLETE"]
    )


def test_torch_tensors_keep_type_and_may_share_memory(tmp_path: Path) -> None:
    torch = importlib.import_module("torch")
    shared = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    tensors = {"policy": {"a": shared, "b": shared, "view": shared[:, 1], "array": np.ones(2, np.float32)}}
    save(tmp_path / "checkpoints", 1, tensors, {}, ALL)
    loaded = load(tmp_path).tensors("policy")
    assert loaded["a"].dtype == torch.bfloat16
    assert torch.equal(loaded["a"], shared)
    assert torch.equal(loaded["b"], shared)
    assert torch.equal(loaded["view"], shared[:, 1])


def test_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a", 5), write(tmp_path / "b", 5)
    assert (one / "COMPLETE").read_text() == (other / "COMPLETE").read_text()


def test_last_is_a_relative_link(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    assert os.readlink(tmp_path / "checkpoints" / "last") == "000002"


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [
        (KeepSpec(last=2), None, [5, 6]),
        (KeepSpec(last=1, best=True), 3, [3, 6]),
        (KeepSpec(last=1, best=False), 3, [6]),
        (KeepSpec(last=1, every=2), 1, [1, 2, 4, 6]),
    ],
)
def test_retention(tmp_path: Path, keep: KeepSpec, best: int | None, kept: list[int]) -> None:
    for iteration in range(1, 7):
        write(tmp_path, iteration, keep, best=best if best is not None and iteration >= best else None)
    assert checkpoint.iterations(tmp_path / "checkpoints") == kept
    assert not list((tmp_path / "checkpoints").glob(f"{files.TEMPORARY}*"))


def flip(path: Path) -> None:
    data = bytearray((path / "policy.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "policy.safetensors").write_bytes(data)


def cut(path: Path) -> None:
    data = (path / "slots.safetensors").read_bytes()
    (path / "slots.safetensors").write_bytes(data[: len(data) // 2])


def edit_both(path: Path) -> None:
    flip(path)
    (path / "digests.json").write_text((path / "digests.json").read_text().replace("a", "b"))


def empty(path: Path) -> None:
    for file in path.iterdir():
        file.write_bytes(b"")


def signed(change: Callable[[Path, dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A change whose digests are right: what somebody who means harm would write."""

    def harm(path: Path) -> None:
        digests = json.loads((path / "digests.json").read_text())
        text = json.dumps(change(path, digests) or digests)
        (path / "digests.json").write_text(text)
        (path / "COMPLETE").write_text(bytes_digest(text.encode()))

    return harm


def other_state(text: str) -> Callable[[Path], None]:
    def change(path: Path, digests: dict[str, Any]) -> None:
        (path / "state.json").write_text(text)
        digests["state.json"] = file_digest(path / "state.json")

    return signed(change)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped bit": (flip, "policy.safetensors differs"),
    "truncated": (cut, "slots.safetensors differs"),
    "no COMPLETE": (lambda path: (path / "COMPLETE").unlink(), "COMPLETE is missing"),
    "no state": (lambda path: (path / "state.json").unlink(), "state.json is missing"),
    "no tensors": (lambda path: (path / "policy.safetensors").unlink(), "policy.safetensors is missing"),
    "digests edited": (edit_both, "digests.json differs"),
    "emptied": (empty, "differs"),
    "digests of a file elsewhere": (signed(lambda _, digests: digests | {"../../x": "0"}), "is not a file of it"),
    "a part without digest": (signed(lambda _, digests: digests.pop("slots.safetensors") and digests), "every file"),
    "digests in a list": (signed(lambda _, digests: list(digests)), "does not name every file"),
    "state in a list": (other_state("[1]"), "not a JSON object"),
    "state without iteration": (other_state('{"version": 1}'), "has no 'iteration'"),
    "state of another kind": (other_state('{"version": 1, "iteration": []}'), "int"),
    "policy in a text": (other_state('{"version": 1, "iteration": 20, "policy": "x"}'), "the policy is no object"),
    "state too deep": (other_state("[" * 100_000), "nested too deeply"),
    "state with NaN": (other_state('{"version": 1, "iteration": NaN}'), "NaN is not a number"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over_and_said_so(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 10)
    newest = write(tmp_path, 20)
    harm, reason = DAMAGES[damage]
    harm(newest)
    loaded = load(tmp_path)
    assert loaded.iteration == 10
    assert len(loaded.warnings) == 1
    assert "000020 is damaged" in loaded.warnings[0]
    assert reason in loaded.warnings[0]
    with pytest.raises(AssetError, match="damaged") as caught:
        load(newest)
    assert (caught.value.code, caught.value.exit_status) == ("R351", 4)


def test_none_usable_and_none_there(tmp_path: Path) -> None:
    source = tmp_path / "none-20260102T000000Z-abcdef"
    with pytest.raises(AssetError, match="has no checkpoint") as empty:
        load(source)
    assert "no run beside it" in str(empty.value.hint)
    write(tmp_path / "one-20260101T000000Z-abcdef", 1)
    (tmp_path / "one-20260101T000000Z-abcdef/manifest.json").write_text("{}")
    with pytest.raises(AssetError, match="has no checkpoint") as beside:
        load(source)
    assert "one-20260101T000000Z-abcdef` is the newest run" in str(beside.value.hint)
    flip(write(tmp_path, 1))
    cut(write(tmp_path, 2))
    with pytest.raises(AssetError, match="no checkpoint of") as damaged:
        load(tmp_path)
    assert (empty.value.code, damaged.value.code) == ("R350", "R352")
    assert "000001" in damaged.value.message
    assert "000002" in damaged.value.message


def test_another_policy_is_refused_with_both_descriptions(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(AssetError) as caught:
        load(tmp_path, policy={**POLICY, "num_bins": 128})
    assert caught.value.code == "R353"
    assert "num_bins: 256" in caught.value.message
    assert "num_bins: 128" in caught.value.message
    assert "kind" not in caught.value.message


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    path = write(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(AssetError, match="version 2") as caught:
        load(path)
    assert caught.value.code == "R354"


NUM_MOMENTS = 14  # calls that change the disk while one checkpoint replaces another


class Crash(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", range(NUM_MOMENTS + 1))
def test_a_crash_at_any_moment_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    keep = KeepSpec(last=1)
    write(tmp_path, 10, keep)
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > moment:
                raise Crash
            return real(*arguments, **named)

        return call

    # All further calls fail too: after a kill nothing is tidied up.
    for name in ("replace", "fsync", "symlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", counted(checkpoint.shutil.rmtree))
    with suppress(Crash):
        write(tmp_path, 20, keep)
    monkeypatch.undo()
    loaded = load(tmp_path)
    assert loaded.iteration in (10, 20)
    assert loaded.warnings == ()
    assert (calls <= moment) == (moment == NUM_MOMENTS), "a step was added to or taken from saving: adapt NUM_MOMENTS"
    assert loaded.iteration == 20 or moment < NUM_MOMENTS
    write(tmp_path, 30, keep)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000030", "last"]


def test_a_full_disk_keeps_the_one_before_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 10)

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with pytest.raises(EnvironmentUnusable, match="full") as caught:
        write(tmp_path, 20)
    assert "000010" in str(caught.value.kept)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000010", "last"]
    assert load(tmp_path).iteration == 10


def test_saving_an_iteration_again_replaces_it(tmp_path: Path) -> None:
    write(tmp_path, 10)
    before = (tmp_path / "checkpoints" / "000010").stat().st_ino
    write(tmp_path, 10)
    assert (tmp_path / "checkpoints" / "000010").stat().st_ino == before, "the same bytes are not published again"
    save(tmp_path / "checkpoints", 10, {"policy": {"w": np.ones(1)}}, {"seed": 4}, ALL)
    assert load(tmp_path).state["seed"] == 4
    assert json.loads((tmp_path / "checkpoints" / "000010" / "digests.json").read_text()).keys() == {
        "policy.safetensors",
        "state.json",
    }


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, (3).to_bytes(8, "little") + b"{}x"])
def test_a_part_that_is_no_safetensors_file_though_its_digest_is_right(tmp_path: Path, data: bytes) -> None:
    def change(path: Path, digests: dict[str, Any]) -> None:
        (path / "policy.safetensors").write_bytes(data)
        digests["policy.safetensors"] = file_digest(path / "policy.safetensors")

    path = write(tmp_path, 10)
    signed(change)(path)
    loaded = load(tmp_path)
    for read in (loaded.arrays, loaded.tensors, lambda part: list(loaded.stream(part))):
        with pytest.raises(AssetError, match=r"policy\.safetensors") as caught:
            read("policy")
        assert caught.value.code == "R351"
    with pytest.raises(AssetError, match=r"has no critic\.safetensors"):
        loaded.tensors("critic")


def test_weights_that_do_not_fit_are_one_message(tmp_path: Path) -> None:
    torch = importlib.import_module("torch")
    save(tmp_path / "checkpoints", 1, {"policy": {"weight": np.zeros((2, 3), np.float32)}}, {}, ALL)
    with pytest.raises(AssetError, match="does not fit what it is for") as caught:
        load(tmp_path).fill(torch.nn.Linear(3, 5), "policy")
    assert caught.value.code == "R351"
    fits = torch.nn.Linear(3, 2, bias=False)
    load(tmp_path).fill(fits, "policy")
    assert fits.weight.abs().sum() == 0


def test_a_folder_named_by_another_alphabets_digit_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / "checkpoints" / "²").mkdir()
    (tmp_path / "checkpoints" / "²" / "COMPLETE").write_text("")
    assert checkpoint.iterations(tmp_path / "checkpoints") == [3]
    assert load(tmp_path).iteration == 3
