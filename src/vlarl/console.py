"""What a person or a program gets to read: diagnostics, tables, JSON documents, errors.

Data goes to stdout, everything meant for people to stderr. Colour only repeats what the words say;
`rich` is loaded for it and for nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TextIO

from vlarl.errors import Diagnostic, RecipeError, VlarlError

Paint = Callable[[str, str], str]  # text, style → text
Step = Callable[[int, Mapping[str, object]], None]  # rounds done, facts by name


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_RAW_IN_JSON = re.compile(r"[\x7f-\x9f\ud800-\udfff]")


class Display(StrEnum):
    """How stderr is written."""

    rich = "rich"  # colour and live progress
    plain = "plain"  # lines without control characters
    none = "none"  # errors only


@contextmanager
def _rich_progress(what: str, total: int, done: int) -> Iterator[Step]:
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    facts = TextColumn("{task.fields[facts]}", markup=False)
    columns = (TextColumn(what, markup=False), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), facts)
    with Progress(*columns, console=Terminal(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=done, facts="")
        yield lambda now, said: bar.update(task, completed=now, facts=_facts_text(said))


def clean(text: str) -> str:
    """``text`` with its control characters written out: a name of somebody else's must not steer the terminal."""
    return _CONTROL.sub(lambda c: f"\\x{ord(c[0]):02x}" if c[0] < "\ud800" else f"\\u{ord(c[0]):04x}", text)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:  # not of the encoding that the environment asks for
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))


def json_text(value: Any) -> str:
    """``value`` as JSON on one line, readable where stdout can hold it; every character of it survives."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8", "surrogatepass")
    except UnicodeEncodeError:
        return json.dumps(value, default=str)
    return _RAW_IN_JSON.sub(lambda c: f"\\u{ord(c[0]):04x}", text)


def no_paint(text: str, style: str) -> str:
    return text


def rich_paint(text: str, style: str) -> str:
    from rich.style import Style

    return Style.parse(style).render(text) if text else text


@dataclass(frozen=True)
class Console:
    """Where one command writes."""

    command: str
    as_json: bool = False
    verbose: bool = False
    display: Display = Display.plain

    @classmethod
    def for_command(cls, command: str, *, as_json: bool, verbose: bool, display: Display | None) -> Console:
        """``display`` None chooses by the terminal; NO_COLOR and a dumb terminal turn `rich` into `plain`."""
        colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        chosen = display or (Display.rich if sys.stderr.isatty() else Display.plain)
        if chosen is Display.rich and not colour:
            chosen = Display.plain
        return cls(command, as_json, verbose, chosen)

    @property
    def paint(self) -> Paint:
        return rich_paint if self.display is Display.rich else no_paint

    @property
    def width(self) -> int:
        return max(40, shutil.get_terminal_size((100, 24)).columns)

    def data(self, text: str) -> None:
        """Text that the command was asked for; silent with `--json`, where ``document`` carries it."""
        if not self.as_json:
            _write(sys.stdout, clean(text if text.endswith("\n") else f"{text}\n"))

    def say(self, text: str = "") -> None:
        """A line for people."""
        if self.display is not Display.none:
            _write(sys.stderr, clean(f"{text}\n"))

    def document(self, *, ok: bool = True, diagnostics: Iterable[Diagnostic] = (), **fields: Any) -> None:
        """The command's one JSON document, where `--json` asked for it."""
        if self.as_json:
            head = {"schema": f"vlarl.{self.command}/1", "ok": ok, **fields}
            listed = [dataclasses.asdict(d) for d in diagnostics]
            sys.stdout.write(json_text({**head, "diagnostics": listed}) + "\n")

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.data(table_text(headers, rows))

    def diagnostics(self, found: Sequence[Diagnostic], *, summary: str | None = None) -> None:
        """Shows every diagnostic on stderr, also with `--display none` when there are errors among them."""
        errors = [d for d in found if d.severity == "error"]
        for diagnostic in errors if self.display is Display.none else found:
            _write(sys.stderr, diagnostic_text(diagnostic, paint=self.paint, width=self.width) + "\n\n")
        if found and summary:
            code = (errors or found)[0].code
            self.say(f"{summary}; `vlarl explain {code}` says more")

    @contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator[Step]:
        """Progress of a loop: call what it yields with the number of rounds done and what there is to say.

        A live bar on a terminal, one line a round elsewhere. ``done`` is where the loop starts, so
        that a resumed run's remaining time is not an overestimate.
        """
        if self.display is Display.rich:
            with _rich_progress(what, total, done) as step:
                yield step
            return
        first: list[tuple[int, float]] = []

        def line(now: int, facts: Mapping[str, object]) -> None:
            if not first:  # what came before it, the warm start for one, says nothing about a round
                first.append((now, time.monotonic()))
            rounds, seconds = now - first[0][0], time.monotonic() - first[0][1]
            known = {"eta": _duration(seconds / rounds * (total - now))} if rounds else {}
            self.say(f"{what} {now}/{total}  {_facts_text({**facts, **known})}")
            sys.stderr.flush()

        yield line

    def failure(self, error: VlarlError) -> None:
        """A user's error: the message, what can be done about it, and what was kept."""
        found = error.diagnostics if isinstance(error, RecipeError) else ()
        fields = {
            "code": error.code,
            "message": error.message,
            "place": error.place,
            "hint": error.hint,
            "kept": error.kept,
        }
        self.document(ok=False, error=fields, diagnostics=found)
        if found:
            self.diagnostics(found, summary=error.message)
        else:
            _write(sys.stderr, error_text(error, paint=self.paint) + "\n")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _facts_text(facts: Mapping[str, object]) -> str:
    return clean("  ".join(f"{name} {value}" for name, value in facts.items()))


def error_text(error: VlarlError, *, paint: Paint = no_paint) -> str:
    """An error without diagnostics, as lines of text."""
    lines = [f"{paint(f'error[{error.code}]', 'bold red')}: {clean(error.message)}"]
    if error.place:
        lines.append(f"  {paint('-->', 'blue')} {clean(error.place)}")
    if error.kept:
        lines.append(f"  {paint('=', 'blue')} kept: {clean(error.kept)}")
    if error.hint:
        lines += ["", f"{paint('hint', 'bold cyan')}: {clean(error.hint)}"]
    return "\n".join(lines)


def diagnostic_text(diagnostic: Diagnostic, *, paint: Paint = no_paint, width: int = 100) -> str:
    """One diagnostic with its place, the line of text, a caret under the culprit, notes and hint."""
    d = diagnostic
    style = "bold red" if d.severity == "error" else "bold yellow"
    lines = [f"{paint(f'{d.severity}[{d.code}]', style)}: {paint(clean(d.message), 'bold')}"]
    lines.append(f"  {paint('-->', 'blue')} {clean(_place_text(d))}")
    if d.line is not None and d.column is not None and d.source is not None:
        gutter = " " * len(str(d.line))
        shown, offset, length = _excerpt(d.source, d.column, d.length, width - len(gutter) - 4)
        bar = paint("|", "blue")
        lines += [
            f" {gutter} {bar}",
            f" {paint(str(d.line), 'blue')} {bar} {shown}".rstrip(),
            f" {gutter} {bar} {' ' * offset}{paint('^' * length, style)}",
        ]
    for note in d.notes:
        wrapped = textwrap.wrap(clean(note), max(30, width - 5), break_on_hyphens=False) or [""]
        lines += [f"   {paint('=', 'blue')} {wrapped[0]}", *(f"     {line}" for line in wrapped[1:])]
    if d.hint:
        lines += ["", f"{paint('hint', 'bold cyan')}: {clean(d.hint)}"]
    return "\n".join(lines)


def _place_text(d: Diagnostic) -> str:
    if d.file is None:
        return d.origin or d.path or "the recipe"
    spot = f"{d.file}:{d.line}:{d.column}" if d.line is not None else d.file
    return f"{spot}   ({d.origin})" if d.origin else spot


def _excerpt(source: str, column: int, length: int, room: int) -> tuple[str, int, int]:
    """The part of a line that fits, the caret's offset in it in terminal cells, and its length."""
    text, size = source, len(source)
    start, end = column - 1, column - 1 + length
    if size > room:
        left = max(0, min(start - room // 3, size - room))
        right = min(size, left + room)
        text = ("…" if left else "") + text[left + bool(left) : right - (right < size)] + ("…" if right < size else "")
        start, end = start - left, min(end, right) - left
    text = "".join(c if c.isprintable() else " " for c in text)
    cells = [2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text]
    return text, sum(cells[:start]), max(1, sum(cells[start:end]))


def table_text(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of text; numbers stand to the right."""
    cells = [[("" if cell is None else clean(str(cell))) for cell in row] for row in rows]
    headers = [clean(header) for header in headers]
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), *(line(row) for row in cells)])
