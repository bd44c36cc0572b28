"""Whatever the text: a recipe or a RecipeError, and every error can be shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlarl.console import diagnostic_text
from vlarl.errors import RecipeError
from vlarl.recipe.fields import documented
from vlarl.recipe.load import LoadedRecipe, load_recipe, parse_recipe
from vlarl.recipe.shipped import shipped_recipes
from vlarl.recipe.text import parse, plain
from vlarl.recipe.write import to_yaml

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
SHIPPED = [path.read_text(encoding="utf-8") for path in shipped_recipes().values()]
KEYS = sorted({field.name for field in documented()} | {"extends", "kind"})
WORDS = [
    "",
    "null",
    "true",
    "1",
    "-1",
    "0",
    "1e-5",
    ".inf",
    ".nan",
    "1e999",
    "9" * 30,
    "9" * 5000,
    "tiny",
    "tabletop",
    "success",
]
SNIPPETS = [
    "[",
    "]",
    "{",
    "}",
    ":",
    ": ",
    "- ",
    ",",
    "\n",
    "\n  ",
    "&a ",
    "*a",
    "!!x ",
    "|\n",
    ">\n",
    "'",
    '"',
    "#",
    "---\n",
    "%YAML 1.1\n",
    "\t",
    "? ",
]


def attempt(read: Callable[[], LoadedRecipe]) -> None:
    try:
        read()
        return
    except RecipeError as error:
        diagnostics = error.diagnostics
    assert any(found.severity == "error" for found in diagnostics)
    for found in diagnostics:
        assert diagnostic_text(found, width=60)


@QUICK
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    attempt(lambda: parse_recipe(text))


@QUICK
@given(st.lists(st.sampled_from([*KEYS, *WORDS, *SNIPPETS]), max_size=25).map("".join))
def test_text_that_looks_like_yaml(text: str) -> None:
    attempt(lambda: parse_recipe(text))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["tiny", "success", "steps"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@QUICK
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=5))
def test_wrong_shapes(data: dict[str, Any]) -> None:
    attempt(lambda: parse_recipe(to_yaml(data)))


@QUICK
@given(
    st.sampled_from(SHIPPED), st.integers(0, 2000), st.integers(0, 8), st.text(max_size=4) | st.sampled_from(SNIPPETS)
)
def test_damaged_recipes(text: str, start: int, length: int, insert: str) -> None:
    attempt(lambda: parse_recipe(text[:start] + insert + text[start + length :]))


@QUICK
@given(
    st.text(max_size=40)
    | st.tuples(st.sampled_from(KEYS), st.sampled_from([*KEYS, "0", "[success]"]), st.sampled_from(WORDS)).map(
        lambda t: f"{t[0]}.{t[1]}={t[2]}"
    )
)
def test_any_override(override: str) -> None:
    attempt(lambda: parse_recipe("rewards: [{kind: success}]", [override]))


@QUICK
@given(st.binary(max_size=100))
def test_any_bytes(tmp_path_factory: Any, data: bytes) -> None:
    path: Path = tmp_path_factory.mktemp("fuzz") / "a.yaml"
    path.write_bytes(data)
    attempt(lambda: load_recipe(path))


@QUICK
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(10**20), 10**20)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=12),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_written_text_reads_back(data: dict[str, Any]) -> None:
    node, problems = parse(to_yaml(data), file="x")
    assert problems == [] or {d.message.partition(" ")[0] for d in problems} == {"merge"}
    if not problems and data:
        assert node is not None
        assert plain(node) == data
