"""Atomic files: whatever happens in the middle, the old content or the new, and a clear error."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from vlarl.errors import EnvironmentUnusable
from vlarl.run import files


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1, "a": [1.5]})
    files.write_json(path, {"b": 2})
    assert path.read_text() == '{\n  "b": 2\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_crash_before_the_rename_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def crash(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "E430"), (errno.EDQUOT, "E430"), (errno.EFBIG, "E430"), (errno.EROFS, "E431")]
)
def test_disk_problems_become_errors_that_say_what_was_kept(tmp_path: Path, number: int, code: str) -> None:
    with pytest.raises(EnvironmentUnusable) as caught, files.disk_errors(tmp_path, kept="checkpoint 7"):
        raise OSError(number, os.strerror(number))
    assert (caught.value.code, caught.value.kept, caught.value.exit_status) == (code, "checkpoint 7", 4)
    assert caught.value.hint


def test_other_os_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.disk_errors(tmp_path):
        (tmp_path / "missing").read_text()


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_published_folder_replaces_the_one_before(tmp_path: Path) -> None:
    for text in ("old", "new"):
        temporary = tmp_path / f"{files.TEMPORARY}x"
        temporary.mkdir()
        files.write_synced(temporary / text, b"")
        files.publish_folder(temporary, tmp_path / "x")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_leftovers_go_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f"{files.TEMPORARY}folder").mkdir()
    (tmp_path / f"{files.TEMPORARY}folder" / "file").touch()
    (tmp_path / f"{files.TEMPORARY}file").touch()
    (tmp_path / "kept").touch()
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_link_replaces_the_one_before_and_the_folder_a_copy_made_of_it(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    files.link("old", tmp_path / "last")
    files.link("new", tmp_path / "last")
    assert (tmp_path / "last/file").read_text() == "new"
    (tmp_path / "last").unlink()
    shutil.copytree(tmp_path / "old", tmp_path / "last")
    files.link("new", tmp_path / "last")
    assert (tmp_path / "last").is_symlink()
    assert (tmp_path / "last/file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "new", "old"]
    assert (tmp_path / "old/file").read_text() == "old"
