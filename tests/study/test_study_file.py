"""Study files: what they mean, and what is said of one that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_study import RECIPE, STUDY, made_study, write_study

from vlarl.errors import Diagnostic, RecipeError
from vlarl.recipe.load import load_recipe
from vlarl.recipe.shipped import shipped_recipes, shipped_studies
from vlarl.recipe.study import load_study


def problems(base: Path, text: str, recipe: str = RECIPE) -> list[Diagnostic]:
    with pytest.raises(RecipeError) as caught:
        load_study(write_study(base, text, recipe))
    return [each for each in caught.value.diagnostics if each.severity == "error"]


def test_runs_go_seed_by_seed(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    assert [job.label for job in study.jobs] == ["base seed 1", "slow seed 1", "base seed 2", "slow seed 2"]
    assert [job.index for job in study.jobs] == [0, 1, 2, 3]
    assert len({job.digest for job in study.jobs}) == 4
    assert study.spec.name == "ours"


def test_a_cell_may_have_more_seeds_than_the_others(tmp_path: Path) -> None:
    study = made_study(tmp_path, STUDY.replace("  base: {}", "  base: {seeds: [2, 3]}"))
    assert [job.label for job in study.jobs] == ["slow seed 1", "base seed 2", "slow seed 2", "base seed 3"]


def test_what_a_run_is_told_gives_the_recipe_that_was_validated(tmp_path: Path) -> None:
    text = STUDY.replace(
        "{overrides: {ppo.lr: 1e-6}, paper: 80.5}",
        "{overrides: {suite.tasks: [push_red], 'rewards[success].weight': 2, ppo: {clip: 0.1}, policy.kind: tiny}}",
    )
    study = made_study(tmp_path, text.replace("seeds:", "overrides: {ppo.lr: 2e-6, suite.tasks: null}\nseeds:", 1))
    for job in study.jobs:
        loaded = load_recipe(tmp_path / "tiny.yaml", job.overrides)
        assert loaded.digest == job.digest
        assert loaded.recipe == job.recipe
        assert loaded.recipe.ppo.lr == 2e-6
    assert study.jobs[1].recipe.suite.tasks == ["push_red"]
    assert study.jobs[0].recipe.suite.tasks is None


@pytest.mark.parametrize(
    ("wrong", "right", "code", "at", "says"),
    [
        ("basline: base", "baseline: base", "R102", 4, "did you mean `baseline`"),
        ("baseline: bsae", "baseline: base", "R240", 4, "did you mean `base`"),
        ("seeds: [1, 1]", "seeds: [1, 2]", "R241", 3, "listed twice"),
        ("seeds: []", "seeds: [1, 2]", "R105", 3, "at least 1 item"),
        ("seeds: [1, two]", "seeds: [1, 2]", "R104", 3, "a whole number"),
        ("", "seeds: [1, 2]", "R103", 2, "add `seeds: ...`"),
        ("recipe: tiyn.yaml", "recipe: tiny.yaml", "R110", 2, "tiny.yaml"),
        ("{overrides: {ppo.lrr: 1e-6}}", "{overrides: {ppo.lr: 1e-6}, paper: 80.5}", "R102", 7, "did you mean `lr`"),
        ("{overrides: {ppo.lr: fast}}", "{overrides: {ppo.lr: 1e-6}, paper: 80.5}", "R104", 7, "a number"),
        ("{overrides: {ppo.clip: -1}}", "{overrides: {ppo.lr: 1e-6}, paper: 80.5}", "R105", 7, "above 0"),
        ("{overrides: {'ppo..lr': 1}}", "{overrides: {ppo.lr: 1e-6}, paper: 80.5}", "R111", 7, "not a path"),
        ("{overrides: {seed: 3}}", "{overrides: {ppo.lr: 1e-6}, paper: 80.5}", "R242", 7, "under `seeds`"),
        ("{overrides: {run: {cache: x}}}", "{overrides: {ppo.lr: 1e-6}, paper: 80.5}", "R242", 7, "run.cache"),
        ("{ppo.lr: 1e-6}", "{overrides: {ppo.lr: 1e-6}, paper: 80.5}", "R102", 7, "under `overrides`"),
        ("{paper: [1]}", "{overrides: {ppo.lr: 1e-6}, paper: 80.5}", "R104", 7, "not a list"),
        ("{overrides: {ppo.minibatch_size: 15}}", "{overrides: {ppo.lr: 1e-6}, paper: 80.5}", "R201", 7, "15"),
        ("  ../slow: {}", "  slow: {overrides: {ppo.lr: 1e-6}, paper: 80.5}", "R105", 7, "a folder's"),
    ],
)
def test_a_mistake_is_shown_where_it_stands(
    tmp_path: Path, wrong: str, right: str, code: str, at: int, says: str
) -> None:
    assert right in STUDY
    found = problems(tmp_path, STUDY.replace(right, wrong))
    first = next(each for each in found if each.code == code)
    assert first.file is not None
    assert first.file.endswith("ours.yaml")
    assert first.line == at
    assert says in f"{first.message} {first.hint}"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = STUDY.replace("  base: {}", "  base: {overrides: {ppo.lr: no}}").replace("1e-6", "[]")
    assert [(each.code, each.line, each.notes) for each in problems(tmp_path, text)] == [
        ("R104", 6, ("in cell `base`",)),
        ("R104", 7, ("in cell `slow`",)),
    ]


def test_a_mistake_of_the_recipe_itself_is_told_once(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, STUDY, RECIPE + "gamma: 0.9\n")
    assert found.code == "R102"
    assert found.file is not None
    assert found.file.endswith("tiny.yaml")


@pytest.mark.parametrize("text", ["[1, 2]", "recipe: [", "", "recipe: !!str x\n", "a: &a 1\nb: *a\n"])
def test_what_is_no_study_is_refused_with_a_code(tmp_path: Path, text: str) -> None:
    found = problems(tmp_path, text)
    assert found
    assert all(re.fullmatch(r"R1\d\d", each.code) and each.hint for each in found)


def test_a_missing_file_is_named_with_its_neighbour(tmp_path: Path) -> None:
    write_study(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_study(tmp_path / "ous.yaml")
    assert caught.value.diagnostics[0].code == "R110"
    assert "ours.yaml" in str(caught.value.diagnostics[0].hint)


@pytest.mark.parametrize("name", shipped_studies())
def test_a_shipped_study_is_valid(name: str) -> None:
    study = load_study(shipped_studies()[name])
    assert study.warnings == ()
    assert study.spec.name == name
    assert len({job.digest for job in study.jobs}) == len(study.jobs), "two cells are the same run"


def test_studies_are_not_among_the_recipes() -> None:
    assert {"paper_table2", "smoke"} <= shipped_studies().keys()
    assert "smoke" in shipped_recipes()
    assert not any("studies" in path.parts for path in shipped_recipes().values())
