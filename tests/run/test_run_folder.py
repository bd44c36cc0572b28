"""Run folders: names that are never reused, finding one, and the lock."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vlarl.errors import AssetError, EnvironmentUnusable
from vlarl.run.folder import RunFolder, create, find_runs, latest, open_run

MOMENT = datetime(2026, 11, 22, 7, 15, 30, tzinfo=UTC)
DIGEST = "3f9a1c" + "0" * 58


def make(base: Path, name: str = "goal", seconds: int = 0, finished: bool = True) -> RunFolder:
    run = create(base, name, DIGEST, MOMENT + timedelta(seconds=seconds))
    if finished:
        run.manifest.write_text("{}")
    return run


def test_name_is_recipe_time_and_hash(tmp_path: Path) -> None:
    run = make(tmp_path / "deep" / "runs", "goal-with-dashes")
    assert run.id == "goal-with-dashes-20261122T071530Z-3f9a1c"
    assert run.name == "goal-with-dashes"
    assert all(
        folder.is_dir() for folder in (run.checkpoints, run.episodes, run.evaluations, run.environment, run.logs)
    )


def test_a_name_is_never_reused(tmp_path: Path) -> None:
    ids = [make(tmp_path).id for _ in range(3)]
    assert ids[1:] == [f"{ids[0]}-2", f"{ids[0]}-3"]
    assert [run.id for run in find_runs(tmp_path)] == ids[::-1]


def test_runs_are_found_newest_first_whatever_their_name(tmp_path: Path) -> None:
    late, early = make(tmp_path, "a", seconds=5), make(tmp_path, "z", seconds=1)
    make(tmp_path, "b", seconds=9, finished=False)  # it died before it had a manifest
    (tmp_path / "notes").mkdir()
    assert find_runs(tmp_path) == [late, early]
    assert latest(tmp_path) == late
    assert latest(tmp_path, lambda run: run.name == "z") == early
    assert latest(tmp_path, lambda run: False) is None
    assert find_runs(tmp_path / "nowhere") == []


def test_a_run_is_opened_by_path_by_name_and_as_last(tmp_path: Path) -> None:
    run, newest = make(tmp_path), make(tmp_path, seconds=1)
    assert open_run(run.path) == run
    assert open_run(run.id, tmp_path) == run
    assert open_run("last", tmp_path) == newest


def test_what_cannot_be_opened_is_said_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no run in") as none:
        open_run("last", tmp_path)
    run = make(tmp_path)
    with pytest.raises(AssetError, match="no run called") as misspelt:
        open_run(run.id.replace("goal", "gaol"), tmp_path)
    with pytest.raises(AssetError, match="not a run folder") as other:
        open_run(tmp_path, tmp_path)
    assert run.id in str(misspelt.value.hint)
    assert [caught.value.code for caught in (none, misspelt, other)] == ["R301", "R301", "R302"]
    assert none.value.exit_status == 4


def test_unwritable_base_is_an_environment_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(EnvironmentUnusable, match="cannot be written"):
        create(tmp_path / "runs", "goal", DIGEST)


HOLD = """
import sys
from pathlib import Path
from vlarl.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(run: RunFolder) -> subprocess.Popen[str]:
    source = str(Path(__file__).parents[2] / "src")
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r}){HOLD}", str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def finish(holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.close()
    holder.stdout.close()
    holder.wait()


def test_a_run_in_use_names_its_owner_and_is_free_again_afterwards(tmp_path: Path) -> None:
    run = make(tmp_path)
    holder = hold(run)
    with pytest.raises(EnvironmentUnusable, match=f"in use by pid {holder.pid} on ") as caught:
        run.lock().acquire()
    assert (caught.value.code, caught.value.exit_status) == ("E420", 4)
    finish(holder)
    with run.lock() as lock:
        assert lock.taken_over_from is None


def test_the_lock_of_a_killed_process_is_taken_over_and_said_so(tmp_path: Path) -> None:
    run = make(tmp_path)
    holder = hold(run)
    holder.kill()
    holder.wait()
    with run.lock() as lock:
        assert lock.taken_over_from is not None
        assert lock.taken_over_from.startswith(f"pid {holder.pid} on ")
    finish(holder)


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    run = make(tmp_path)
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock() as lock:
        assert lock.taken_over_from is None
