"""Streams of results from processes: each as it comes, whatever the order; failures and deaths are told."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vlarl.errors import DriftError, EnvironmentUnusable
from vlarl.suites.streams import stream


def count(job: int) -> Iterator[int]:
    yield from range(job)


def endless(job: int) -> Iterator[int]:
    while True:
        yield job


def failing(job: int) -> Iterator[int]:
    yield job
    raise DriftError("planted", code="D610")


def dying(job: int) -> Iterator[int]:
    yield job
    os._exit(3)


def test_every_result_of_every_job_arrives() -> None:
    assert sorted(stream(count, [3, 0, 2, 1], num_workers=2)) == sorted([0, 1, 2, 0, 1, 0])


def test_results_arrive_before_their_job_is_done() -> None:
    with closing(stream(endless, [7, 8], num_workers=1)) as found:
        assert [next(found) for _ in range(3)] == [7, 7, 7]


def test_an_error_is_raised_here_after_what_came_before_it() -> None:
    found = stream(failing, [5], num_workers=1)
    assert next(found) == 5
    with pytest.raises(DriftError, match="planted") as caught:
        next(found)
    assert caught.value.code == "D610"


def test_a_death_is_told_as_such() -> None:
    with pytest.raises(EnvironmentUnusable) as caught:
        list(stream(dying, [5, 6], num_workers=1))
    assert caught.value.code == "E412"


@pytest.mark.parametrize("before", [None, "yes"])
def test_a_module_that_lies_in_the_current_folder_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONSAFEPATH", before)
    for name in ("multiprocessing", "json", "numpy"):
        (tmp_path / f"{name}.py").write_text("open('RUN', 'w').write('x'); raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert list(stream(count, [2], num_workers=1)) == [0, 1]
    assert not (tmp_path / "RUN").exists()
    assert os.environ.get("PYTHONSAFEPATH") == before
