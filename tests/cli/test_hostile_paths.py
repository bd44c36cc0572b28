"""Paths that name nothing and never can: an error with a code and a hint, wherever they come from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vlarl.errors import AssetError
from vlarl.evaluate import _trained_on
from vlarl.policies.openvla.hub import resolve
from vlarl.recipe.paths import display, expanded, real
from vlarl.run.folder import RunFolder
from vlarl.suites.demonstrations import demonstration_files

LONG = "a" * 300


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")


def refusal(call: Callable[[], object]) -> AssetError:
    with pytest.raises(AssetError) as caught:
        call()
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("read", [expanded, resolve])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("~nosuchuser/x", "there is no user `nosuchuser`"),
        (LONG, "File name too long"),
        ("b/" * 3000, "File name too long"),
        ("a\0b", "zero byte"),
        ("loop", "symbolic links"),
        ("loop/x", "symbolic links"),
    ],
)
def test_a_path_that_nothing_can_have(read: Callable[[str], Path], text: str, says: str) -> None:
    error = refusal(lambda: read(text))
    assert (error.code, says in error.message) == ("R300", True)


def test_a_home_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    assert "no home folder" in refusal(lambda: expanded("~/x")).message


def test_other_paths_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for text in ("a/b", "/a/b", ".", "..", "x\n", os.fsdecode(b"\xff"), f"none/{LONG}"):
        assert expanded(text) == expanded(Path(text)) == resolve(text) == Path(text)
    assert expanded("~/x") == Path("/home/somebody/x")


@pytest.mark.parametrize("text", ["loop", "loop/x", LONG, "a\0b", "b/" * 3000, "."])
def test_every_path_can_be_shown(text: str) -> None:
    assert display(Path(text))
    assert real(Path(text))


@pytest.mark.parametrize("name", [LONG, "loop", "none", "folder", "b/" * 3000])
def test_demonstrations_that_are_not_there(name: str) -> None:
    Path("folder").mkdir()
    assert refusal(lambda: demonstration_files(Path(name))).code == "R310"


def test_demonstrations_that_are_no_files() -> None:
    Path("folder").mkdir()
    Path("folder/a.hdf5").write_bytes(b"")
    assert demonstration_files(Path("folder")) == [Path("folder/a.hdf5")]
    os.mkfifo("folder/b.hdf5")
    for source in ("folder", "folder/b.hdf5"):
        error = refusal(lambda source=source: demonstration_files(Path(source)))
        assert (error.code, "b.hdf5" in error.message) == ("R311", True)


@pytest.mark.parametrize(
    ("text", "suite"),
    [
        ("suite: {kind: tabletop, name: tabletop_10}\n", "tabletop_10"),
        ("a: &a [x, x]\nsuite: {name: *a}\n", None),
        ("suite: " + "[" * 5000, None),
        ("suite: {name: !!int x}\n", None),
        ("suite: {name: 2001-99-99}\n", "2001-99-99"),
        ("suite: {name: " + "9" * 5000 + "}\n", "9" * 5000),
        ("suite: {name: [x]}\n", None),
        ("suite: [x]\n", None),
        ("[x]\n", None),
        ("", None),
    ],
)
def test_the_suite_of_a_run_that_somebody_else_wrote(text: str, suite: str | None) -> None:
    run = RunFolder(Path("run"))
    assert _trained_on(run) is None
    run.path.mkdir()
    run.resolved_recipe.write_text(text)
    assert _trained_on(run) == suite
