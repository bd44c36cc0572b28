"""Plain data as YAML 1.2 that `vlarl.recipe.text` reads back to the same values."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vlarl.recipe.schema import Recipe
from vlarl.recipe.text import plain_scalar

WIDTH = 100
_BARE = re.compile(r"[A-Za-z0-9~/._+-](?:[A-Za-z0-9~/._+ -]*[A-Za-z0-9~/._+-])?\Z")
Note = Callable[[str], str | None]


def to_yaml(data: Mapping[str, Any], *, above: Note | None = None, beside: Note | None = None) -> str:
    """``data`` as block YAML; ``above`` and ``beside`` give a comment for a dotted path."""
    return "\n".join(_mapping(data, "", 0, above or _nothing, beside or _nothing)) + "\n"


def resolved_yaml(recipe: Recipe) -> str:
    """Every value of ``recipe``, defaults included; loads back to an equal recipe."""
    return to_yaml(recipe.model_dump(mode="json"))


def scalar_text(value: Any) -> str:
    """One value as flow YAML on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(scalar_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar_text(key)}: {scalar_text(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if (
        _BARE.match(text)
        and isinstance(plain_scalar(text), str)
        and not text.startswith(("- ", "---", "..."))
        and text != "-"
    ):
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if " " <= char <= "~" else _by_number(char)


def _by_number(char: str) -> str:
    return f"\\U{ord(char):08X}"


def json_text(value: Any) -> str:
    """One value on one line as JSON that is YAML too: `--set` reads any text of it back to the same."""
    written = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else _by_number(char) for char in written)


def _nothing(path: str) -> str | None:
    return None


def _mapping(data: Mapping[str, Any], prefix: str, indent: int, above: Note, beside: Note) -> Iterator[str]:
    pad = "  " * indent
    after_block = False
    for number, (key, value) in enumerate(data.items()):
        path = f"{prefix}.{key}" if prefix else key
        nested = _is_block(value)
        if indent == 0 and number and (nested or after_block):
            yield ""
        after_block = nested
        yield from _comment(above(path), pad)
        note = beside(path)
        tail = f"  # {note}" if note else ""
        if not nested:
            yield f"{pad}{scalar_text(key)}: {scalar_text(value)}{tail}"
            continue
        yield f"{pad}{scalar_text(key)}:{tail}"
        if isinstance(value, Mapping):
            yield from _mapping(value, path, indent + 1, above, beside)
        else:
            for index, item in enumerate(value):
                yield from _item(item, f"{path}.{index}", indent + 1, above, beside)


def _item(item: Any, path: str, indent: int, above: Note, beside: Note) -> Iterator[str]:
    pad = "  " * indent
    if not _is_block(item) or not isinstance(item, Mapping):
        yield f"{pad}- {scalar_text(item)}"
        return
    started = False
    for line in _mapping(item, path, indent + 1, above, beside):
        comment = line.lstrip().startswith("#")
        if comment and not started:
            yield line[2:]  # stands above the dash
        else:
            yield line if started else f"{pad}- {line[len(pad) + 2 :]}"
            started = True


def _is_block(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _comment(text: str | None, pad: str) -> Iterator[str]:
    if text:
        yield from textwrap.wrap(
            text, WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ", break_on_hyphens=False
        )
