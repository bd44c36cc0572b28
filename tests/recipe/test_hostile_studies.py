"""Study files that somebody wrote to do harm, and texts that must survive the way to their runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlarl.errors import Diagnostic, RecipeError
from vlarl.recipe.diagnose import MOST
from vlarl.recipe.load import load_recipe
from vlarl.recipe.study import MAX_RUNS, load_study
from vlarl.recipe.text import parse, plain
from vlarl.recipe.write import json_text, scalar_text

QUICK = settings(max_examples=50, deadline=None)
STUDY = "recipe: tiny.yaml\nseeds: [1, 2]\nbaseline: base\ncells:\n  base: {}\n  other: {overrides: {ppo.clip: 0.1}}\n"


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text("seed: 1\n")


def refused(text: str) -> tuple[Diagnostic, ...]:
    Path("s.yaml").write_text(text)
    return refused_file("s.yaml").diagnostics


def refused_file(name: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_study(Path(name))
    assert all(found.hint for found in caught.value.diagnostics)
    return caught.value


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("a" * 300 + ".yaml", "File name too long"),
        ("a\\0b.yaml", "null byte"),
        ("loop.yaml", "symbolic links"),
        ("fifo.yaml", "not a regular file"),
        ("folder.yaml", "it is a folder"),
        ("none.yaml", "no such file"),
        ("~nosuch/x.yaml", "no such file"),
        ("/etc/passwd", "ends in .yaml"),
        ("a\\0b", "ends in .yaml"),
        ("..", "ends in .yaml"),
        ("", "ends in .yaml"),
    ],
)
def test_a_recipe_that_cannot_be_read(recipe: str, says: str) -> None:
    Path("loop.yaml").symlink_to("loop.yaml")
    Path("folder.yaml").mkdir()
    os.mkfifo("fifo.yaml")
    (found,) = refused(STUDY.replace("tiny.yaml", f'"{recipe}"'))
    assert (found.code, found.line) == ("R110", 1)
    assert says in found.message


def test_a_pipe_or_a_circle_is_no_study() -> None:
    os.mkfifo("fifo.yaml")
    Path("loop.yaml").symlink_to("loop.yaml")
    for name in ("fifo.yaml", "loop.yaml", "a" * 300 + ".yaml", "lop.yaml"):
        (found,) = refused_file(name).diagnostics
        assert found.code == "R110"


def test_many_problems_are_counted() -> None:
    error = refused(STUDY + "".join(f"key{i}: 1\n" for i in range(2000)))
    assert len(error) == MOST
    assert error[-1].notes[-1] == f"and {2000 - MOST} more"
    assert refused_file("s.yaml").message == f"{MOST} errors and {2000 - MOST} more in s.yaml"


def test_a_study_has_a_limit_of_runs() -> None:
    seeds = ", ".join(map(str, range(5000)))
    (found,) = refused(STUDY.replace("1, 2", seeds))
    assert (found.code, found.message) == (
        "R105",
        f"cells and seeds make 10000 runs; a study has at most {MAX_RUNS}",
    )
    repeated = refused(STUDY.replace("1, 2", seeds + ", 7"))
    assert [each.code for each in repeated] == ["R241", "R105"]


@pytest.mark.parametrize("name", ["b\\n", "\\e[2J"])
def test_a_cell_is_called_like_a_folder(name: str) -> None:
    (found,) = refused(STUDY.replace("other", f'"{name}"'))
    assert found.code == "R105"
    assert found.path == "cells"


def test_a_study_is_called_like_a_folder() -> None:
    (found,) = refused(f'name: "b\\n"\n{STUDY}')
    assert (found.code, found.path) == ("R105", "name")
    Path("b\n.yaml").write_text(STUDY)
    assert load_study(Path("b\n.yaml")).spec.name == "unnamed"


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [
        "a\x85b",
        "a\x7fb",
        "a\u2028b",
        "\ufeff",
        "\x00",
        "null",
        "1e3",
        "~",
        "é日😀",
        '"\\',
        "- a",
        "\r\n\t",
        "\ud7ff\ue000",
    ]
)
any_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


@QUICK
@given(any_value)
def test_any_value_survives_on_one_line(value: object) -> None:
    for text in (json_text(value), scalar_text(value)):
        assert len(text.splitlines()) == 1
        node, problems = parse(text)
        if not any("merge keys" in found.message for found in problems):
            assert problems == []
            assert node is not None
            assert plain(node) == value


@settings(QUICK, max_examples=25)
@given(any_text)
def test_the_runs_of_a_study_get_its_texts_unchanged(text: str) -> None:
    folder = Path.cwd()
    (folder / "s.yaml").write_text(STUDY.replace("ppo.clip: 0.1", f"imitation.demonstrations: {scalar_text(text)}"))
    for job in load_study(folder / "s.yaml").jobs:
        loaded = load_recipe(folder / "tiny.yaml", job.overrides)
        assert loaded.digest == job.digest
        if job.cell == "other":
            assert loaded.recipe.imitation is not None
            assert loaded.recipe.imitation.demonstrations == text


def test_plain_values_stay_as_they_were_recorded() -> None:
    for value in ("tabletop_10", ["lift_red", "lift_blue"], 1e-6, None, True, {"kind": "paper"}, "the paper's “é”"):
        assert json_text(value) == json.dumps(value, ensure_ascii=False)
