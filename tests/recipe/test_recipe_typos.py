"""One mistyped key anywhere in any shipped recipe is found where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from vlarl.errors import Exit, RecipeError
from vlarl.recipe.load import load_recipe
from vlarl.recipe.shipped import shipped_recipes


def keys(node: Any) -> Iterator[tuple[str, int, int]]:
    """(key, line, column) of every key, counted from 0, by ruamel's own bookkeeping."""
    if isinstance(node, dict):
        for key, value in node.items():
            line, column = node.lc.key(key)  # type: ignore[attr-defined]
            yield key, line, column
            yield from keys(value)
    elif isinstance(node, list):
        for item in node:
            yield from keys(item)


CASES = [
    pytest.param(path, *key, id=f"{name}:{key[1] + 1}:{key[0]}")
    for name, path in shipped_recipes().items()
    for key in keys(YAML(typ="rt").load(path.read_text(encoding="utf-8")))
]


def test_there_are_keys_to_mistype() -> None:
    assert len(CASES) > 40


@pytest.mark.parametrize(("path", "key", "line", "column"), CASES)
@pytest.mark.parametrize("mistype", ["doubled", "swapped", "cut"])
def test_a_mistyped_key_has_its_place(
    tmp_path: Path, path: Path, key: str, line: int, column: int, mistype: str
) -> None:
    middle = len(key) // 2
    wrong = {"doubled": key + key[-1], "swapped": key[:middle][::-1] + "q" + key[middle:], "cut": key[:-1] + "0"}[
        mistype
    ]
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines[line][column : column + len(key)] == key
    lines[line] = lines[line][:column] + wrong + lines[line][column + len(key) :]
    copy = tmp_path / path.name
    copy.write_text("\n".join(lines), encoding="utf-8")
    for base in path.parent.rglob("*.yaml"):
        other = tmp_path / base.relative_to(path.parent)
        if other != copy:
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(base.read_bytes())
    with pytest.raises(RecipeError) as caught:
        load_recipe(copy)
    assert caught.value.exit_status == Exit.RECIPE
    places = [(d.line, d.column, d.length) for d in caught.value.diagnostics if d.code == "R102"]
    assert (line + 1, column + 1, len(wrong)) in places
