"""YAML 1.2 text as a tree in which every key and value knows its place.

Works on the parser's events, not on ruamel's objects: scalars are read by the YAML 1.2 core schema
and nothing else, so no tag, alias or directive can make a recipe mean more than it shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from vlarl.errors import Diagnostic

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key or value came from. ``line`` and ``column`` count from 1; ``origin`` is in words."""

    file: str | None = None
    line: int | None = None
    column: int | None = None
    length: int = 1
    source: str | None = None
    origin: str | None = None

    def __str__(self) -> str:
        if self.file is None:
            return self.origin or "unknown"
        spot = f"{self.file}:{self.line}:{self.column}"
        return f"{spot} ({self.origin})" if self.origin else spot

    def diagnostic(self, code: str, message: str, *, path: str = "", **fields: Any) -> Diagnostic:
        return Diagnostic(
            code=code,
            message=message,
            path=path,
            file=self.file,
            line=self.line,
            column=self.column,
            length=self.length,
            source=self.source,
            origin=self.origin,
            **fields,
        )


@dataclass(frozen=True, slots=True)
class Scalar:
    value: Value
    place: Place


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    key: Place
    node: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    entries: dict[str, Entry]
    place: Place


Node = Scalar | Sequence | Mapping


@dataclass
class _Open:
    """A collection whose end has not been read yet."""

    place: Place
    mapping: bool
    entries: dict[str, Entry] = field(default_factory=dict)
    items: list[Node] = field(default_factory=list)
    key: tuple[str, Place] | None = None


def plain(node: Node) -> Any:
    """The tree as dicts, lists and scalars."""
    if isinstance(node, Mapping):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return node.value


_INT = re.compile(r"[-+]?[0-9]+\Z")
_BASED = re.compile(r"0(?:o[0-7]+|x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_MAX_DIGITS = 400  # more than any float can hold; keeps conversion cheap


def plain_scalar(text: str) -> Value:
    """What an unquoted scalar means under the YAML 1.2 core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _MAX_DIGITS:
        if _INT.match(text):
            return int(text)
        if _BASED.match(text):
            return int(text, 0)
        if _FLOAT.match(text):
            return float(text)
    if _SPECIAL.match(text):
        return float(text.replace(".", "", 1))
    return text


class _Reader:
    """Builds one document's tree and collects what is wrong with it."""

    def __init__(self, text: str, file: str | None, origin: str | None, *, excerpts: bool) -> None:
        self.lines = re.split(r"\r\n|[\r\n\x85\u2028\u2029]", text)  # the parser's own line breaks
        self.origin = origin
        self.file = file
        self.excerpts = excerpts
        self.diagnostics: list[Diagnostic] = []
        self.open: list[_Open] = []
        self.root: Node | None = None

    def place(self, start: Any, end: Any = None) -> Place:
        if self.file is None:
            return Place(origin=self.origin)
        source = self.lines[start.line] if start.line < len(self.lines) else ""
        length = end.column - start.column if end is not None and end.line == start.line else len(source) - start.column
        shown_line = source if self.excerpts else None
        return Place(self.file, start.line + 1, start.column + 1, max(1, length), shown_line, self.origin)

    def complain(self, code: str, message: str, place: Place, hint: str | None = None) -> None:
        self.diagnostics.append(place.diagnostic(code, message, hint=hint))

    def add(self, node: Node) -> None:
        if not self.open:
            self.root = node
            return
        top = self.open[-1]
        if not top.mapping:
            top.items.append(node)
        elif top.key is None:
            top.key = self.as_key(node)
        else:
            key, place = top.key
            top.key = None
            if key == "<<":
                hint = "put the shared part into a file and name it under `extends`"
                self.complain("R112", "merge keys (`<<`) are not part of YAML 1.2", place, hint)
                return
            if key in top.entries:
                first = top.entries[key].key
                where = f" (first at {first.line}:{first.column})" if first.line else ""
                self.complain("R108", f"key `{shown(key)}` is given twice{where}", place, "remove one of the two")
            top.entries[key] = Entry(place, node)

    def as_key(self, node: Node) -> tuple[str, Place]:
        if isinstance(node, Scalar):
            return str(node.value), node.place
        self.complain("R112", "a key must be a word, not a list or a mapping", node.place, "write `key: value`")
        return "", node.place

    def read(self, event: Any) -> bool:
        """Take one event; False when nothing after it is worth reading."""
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            return self.begin_document(event)
        if kind == "AliasEvent":
            place = self.place(event.start_mark, event.end_mark)
            self.complain("R112", "aliases (`*name`) are not part of the recipe language", place, "write the value out")
            self.add(Scalar(None, place))
        elif kind == "ScalarEvent":
            self.scalar(event)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self.check_tag(event)
            place = self.place(event.start_mark, event.end_mark if event.flow_style else None)
            self.open.append(_Open(place, mapping=kind == "MappingStartEvent"))
            if len(self.open) > MAX_DEPTH:
                self.complain("R112", f"nested deeper than {MAX_DEPTH} levels", place, "look for a bracket too many")
                return False
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            done = self.open.pop()
            self.add(Mapping(done.entries, done.place) if done.mapping else Sequence(tuple(done.items), done.place))
        return True

    def begin_document(self, event: Any) -> bool:
        if self.root is None:
            return True
        place = self.place(event.start_mark, event.end_mark)
        self.complain("R112", "a recipe is one YAML document", place, "remove this and what follows it")
        return False

    def scalar(self, event: Any) -> None:
        self.check_tag(event)
        place = self.place(event.start_mark, event.end_mark)
        in_key = bool(self.open) and self.open[-1].mapping and self.open[-1].key is None
        text = event.value
        if any("\ud800" <= c <= "\udfff" for c in text):
            self.complain("R112", "half of a surrogate pair is not text", place, "remove the escape")
            text = ""
        # Keys stay as written: `1:` and `null:` are words like any other.
        self.add(Scalar(text if in_key or event.style is not None else plain_scalar(text), place))

    def check_tag(self, event: Any) -> None:
        # An explicit tag clears the first of the two flags; a quoted scalar does so without having a tag.
        tag = getattr(event, "tag", None)
        if tag is not None and str(tag) not in ("", "None"):
            place = self.place(event.start_mark, event.end_mark)
            self.complain(
                "R112", f"tags (`{shown(str(tag))}`) are not part of the recipe language", place, "remove the tag"
            )


def shown(text: str, limit: int = 60) -> str:
    """``text`` fit for one line of a message."""
    clean = "".join(c if c.isprintable() else "�" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


_LOOK = "look here and one line above for a missing quote, bracket or colon, a tab or wrong indentation"


def parse(
    text: str, *, file: str | None = None, origin: str | None = None, excerpts: bool = True
) -> tuple[Node | None, list[Diagnostic]]:
    """Tree of ``text`` (None for an empty document or a syntax error) and everything wrong with it.

    ``file`` None means that the text has no file (``--set``): places then carry ``origin`` only. Without ``excerpts``
    no place holds a line of the text.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    reader = _Reader(text, file, origin, excerpts=excerpts)
    try:
        for event in _events(YAML(typ="safe", pure=True), text):
            if not reader.read(event):
                return None, reader.diagnostics
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = reader.place(mark) if mark is not None else Place(file, origin=origin)
        message = f"not valid YAML: {error.problem or error.context}"
        reader.complain("R101", message, replace(place, length=1), _LOOK)
        return None, reader.diagnostics
    except (YAMLError, ValueError) as error:
        # The reader's own errors (control characters, bad escapes) carry no mark.
        message = shown(str(error).split("\n")[0], 100)
        hint = "look for control characters and backslashes; single quotes take text as it is"
        reader.diagnostics.append(Diagnostic("R101", f"not valid YAML: {message}", file=file, origin=origin, hint=hint))
        return None, reader.diagnostics
    return reader.root, reader.diagnostics


def _events(yaml: Any, text: str) -> Iterator[Any]:
    yield from yaml.parse(text)
