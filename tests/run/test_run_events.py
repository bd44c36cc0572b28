"""The event log: every record on disk at once, cut back on resume."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vlarl.errors import AssetError, EnvironmentUnusable
from vlarl.run.events import EventLog, read_events


def fill(path: Path, count: int) -> None:
    with EventLog(path) as log:
        log.append({"kind": "evaluation", "iteration": 0, "successes": 3})
        for iteration in range(count):
            log.append({"kind": "iteration", "iteration": iteration, "chain": f"{iteration:064x}"})
            if iteration % 2:
                log.append({"kind": "evaluation", "iteration": iteration + 1, "successes": iteration})


def test_a_record_is_readable_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append({"kind": "iteration", "iteration": 0, "stats": {"loss": 0.5, "odd": float("nan")}, "who": "µ"})
        text = (tmp_path / "events.jsonl").read_text()
    assert text == '{"kind":"iteration","iteration":0,"stats":{"loss":0.5,"odd":null},"who":"µ"}\n'


def test_truncation_keeps_the_evaluation_of_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    fill(path, 6)
    with EventLog(path) as log:
        log.truncate_to(4)
        kept = [(record["kind"], record["iteration"]) for record in read_events(path)]
        log.append({"kind": "iteration", "iteration": 4})
    assert kept == [
        ("evaluation", 0),
        *[("iteration", 0), ("iteration", 1), ("evaluation", 2)],
        *[("iteration", 2), ("iteration", 3), ("evaluation", 4)],
    ]
    assert read_events(path)[-1] == {"kind": "iteration", "iteration": 4}
    assert len(read_events(path)) == len(kept) + 1


def test_truncated_and_refilled_log_is_byte_equal(tmp_path: Path) -> None:
    fill(tmp_path / "whole.jsonl", 6)
    fill(tmp_path / "cut.jsonl", 6)
    with EventLog(tmp_path / "cut.jsonl") as log:
        log.truncate_to(0)
        for record in read_events(tmp_path / "whole.jsonl")[1:]:
            log.append(record)
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_crash_while_cutting_keeps_the_whole_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    fill(path, 6)
    before = path.read_bytes()

    def crash(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with EventLog(path) as log, pytest.raises(KeyboardInterrupt):
        log.truncate_to(2)
    assert path.read_bytes() == before


@pytest.mark.parametrize("torn", [b'{"kind":"iteration","itera', b'{"kind":"iteration","iteration":9}', b"\xff\xfe"])
def test_torn_last_line_is_left_out_and_cut_off_when_writing_goes_on(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    fill(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert len(read_events(path)) == 4
    with EventLog(path) as log:
        log.append({"kind": "iteration", "iteration": 2})
    assert path.read_bytes() == whole + b'{"kind":"iteration","iteration":2}\n'


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    fill(path, 2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1][:9] + b"\n", *lines[2:]]))
    with pytest.raises(AssetError, match="line 2") as caught:
        read_events(path)
    assert caught.value.code == "R320"


def test_missing_log_is_empty(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == []


def test_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    fill(path, 2)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with EventLog(path) as log:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentUnusable, match="full"):
            log.append({"kind": "iteration", "iteration": 2})
    assert path.read_bytes() == before
