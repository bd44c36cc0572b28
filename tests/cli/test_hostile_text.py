"""Names and texts of somebody else's on stdout and stderr: no control character, no traceback, nothing lost in JSON."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlarl
from vlarl import cli_command, console
from vlarl.cli import main
from vlarl.console import Console, Display, clean, diagnostic_text, error_text, json_text, rich_paint, table_text
from vlarl.errors import Diagnostic, Exit, RecipeError, VlarlError

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
PAINT = re.compile(r"\x1b\[[0-9;]*m")
EVIL = "\x1b[2J\x1b]0;owned\x07\x1b[31m\x9b31m\x00\r\x7fx.yaml"
QUICK = settings(max_examples=60, deadline=None)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def status_of(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


@QUICK
@given(st.text())
def test_cleaned_text_has_no_controls_and_keeps_the_rest(text: str) -> None:
    cleaned = clean(text)
    assert not CONTROL.search(cleaned)
    cleaned.encode()
    assert clean(cleaned) == cleaned
    if not CONTROL.search(text):
        assert cleaned == text.encode("utf-8", "backslashreplace").decode()


def test_controls_are_written_out() -> None:
    assert clean("a\x1b[2J\x9b\x7f\r\n\tü\udcff") == "a\\x1b[2J\\x9b\\x7f\\x0d\n\tü\\udcff"


@pytest.mark.parametrize("colour", [False, True])
def test_errors_and_diagnostics_are_clean_and_keep_our_colours(colour: bool) -> None:
    paint = rich_paint if colour else console.no_paint
    error = VlarlError(EVIL, code="X500", place=EVIL, hint=EVIL, kept=EVIL)
    found = Diagnostic(
        "R102",
        EVIL,
        path=EVIL,
        file=EVIL,
        line=1,
        column=3,
        length=2,
        source=EVIL,
        origin=EVIL,
        notes=(EVIL,),
        hint=EVIL,
    )
    for text in (error_text(error, paint=paint), diagnostic_text(found, paint=paint)):
        assert bool(PAINT.search(text)) == colour
        assert not CONTROL.search(PAINT.sub("", text) if colour else text)
        assert "\\x1b[2J\\x1b]0;owned\\x07\\x1b[31m" in text


@pytest.mark.parametrize("display", Display)
def test_all_that_a_console_writes_is_clean(display: Display, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console("x", display=display)
    shown.data(EVIL)
    shown.say(EVIL)
    shown.table((EVIL, "n"), [(EVIL, 1), ("b", 2)])
    shown.diagnostics([Diagnostic("R102", EVIL)], summary=EVIL)
    shown.failure(VlarlError(EVIL))
    shown.failure(RecipeError(EVIL, (Diagnostic("R102", EVIL, hint=EVIL),)))
    if display is not Display.rich:
        with shown.progress("round", 3) as step:
            step(1, {EVIL: EVIL})
    out, err = capsys.readouterr()
    assert not CONTROL.search(out)
    assert not CONTROL.search(PAINT.sub("", err) if display is Display.rich else err)
    rows = table_text((EVIL, "n"), [(EVIL, 1), ("b", 2)]).splitlines()
    assert len({len(row) for row in rows}) == 1, "columns are as wide as what is shown"


@QUICK
@given(st.dictionaries(st.text(), st.text() | st.text("\x7f\x9b\udc80\udcffé"), max_size=3))
def test_json_keeps_every_character(data: dict[str, str]) -> None:
    text = json_text(data)
    assert not CONTROL.search(text)
    text.encode()
    assert json.loads(text) == data


def test_json_for_a_stdout_of_few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    shown = Console("x", as_json=True)
    shown.document(name="é\udcff")
    Console("x").data("é → 1")
    sys.stdout.flush()
    document, rest = raw.getvalue().decode("ascii").splitlines()
    assert json.loads(document)["name"] == "é\udcff"
    assert rest == "\\xe9 \\u2192 1"


@pytest.mark.parametrize("words", [("validate",), ("validate", "--json")])
def test_a_name_that_is_no_text(words: tuple[str, ...]) -> None:
    """An argument of bytes that are no UTF-8, where stdout takes nothing else."""
    command = [sys.executable, "-c", "from vlarl.cli import main; main()", *words, b"b\xff.yaml"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": str(Path(vlarl.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == Exit.RECIPE
    assert b"Traceback" not in done.stderr
    if "--json" in words:
        assert json.loads(done.stdout.decode())["recipes"][0]["path"] == "b\udcff.yaml"
    else:
        assert b"b\\udcff.yaml" in done.stderr


def test_a_valid_recipe_whose_name_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"b\xff.yaml")
    Path(name).write_text("seed: 1\n")
    assert status_of("validate", name) == Exit.OK
    assert "b\\udcff.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        'extends: "\\e[2J\\e]0;owned\\a\\e[31mx.yaml"\n',
        'extends: "\\e[2J\\e]0;owned\\a\\e[31mx"\n',
        'recipe: "\\e[2J\\ax.yaml"\nseeds: [1]\nbaseline: a\ncells: {a: {}}\n',
        'recipe: x.yaml\nseeds: [1]\nbaseline: a\ncells: {"\\e[2J\\a": {}}\n',
    ],
)
def test_names_in_a_file_do_not_steer_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.yaml").write_text("seed: 1\n")
    Path("evil.yaml").write_text(text)
    assert status_of("validate" if text.startswith("extends") else "study", "evil.yaml") == Exit.RECIPE
    out, err = capsys.readouterr()
    assert not CONTROL.search(out + err)
    assert "[2J" in err


@pytest.mark.parametrize("text", ["a" * 300, "a" * 300 + ".yaml", "b/" * 3000, "[" + "a" * 300, "a" * 300 + "*"])
@pytest.mark.parametrize("command", ["validate", "show", "study", "plan"])
def test_an_argument_that_no_file_can_be_called(command: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(command, text) in (Exit.USAGE, Exit.RECIPE)
    assert "\nhint: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a" * 300 + ".yaml", "none/" + "a" * 300 + ".yaml", "loop.yaml/x.yaml"])
def test_a_starter_that_cannot_be_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("loop.yaml").symlink_to("loop.yaml")
    assert status_of("init", name) == Exit.ENVIRONMENT
    assert "error[E431]" in capsys.readouterr().err


class PanicException(BaseException):
    """What pyo3 calls it."""


def test_a_panic_in_rust_is_an_unexpected_error(capsys: pytest.CaptureFixture[str]) -> None:
    def panics() -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    assert cli_command.guarded(Console("x", display=Display.plain), panics) == Exit.RUN_FAILED
    err = capsys.readouterr().err
    assert "error[X500]: unexpected PanicException: called `Option::unwrap()` on a `None` value" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit])
def test_what_ends_a_process_still_does(kind: type[BaseException]) -> None:
    def ends() -> None:
        raise kind

    with pytest.raises(kind):
        cli_command.guarded(Console("x"), ends)


@pytest.mark.parametrize("verbose", [False, True])
def test_an_unexpected_error_about_a_name_that_is_no_text(
    verbose: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vlarl", "train", "b\udcff.yaml"])

    def fails() -> None:
        raise ValueError("\x1b[2J\udcff")

    assert cli_command.guarded(Console("x", verbose=verbose), fails) == Exit.RUN_FAILED
    err = capsys.readouterr().err
    assert not CONTROL.search(err)
    (log,) = re.findall(r"--> (.+\.log)", err)
    assert "vlarl train b\\udcff.yaml\n" in Path(log).read_text(encoding="utf-8")
    Path(log).unlink()
