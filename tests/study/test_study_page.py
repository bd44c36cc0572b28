"""The page of a study: legends, what cells change, verdicts, and names that are no markup."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_study import made_result

from vlarl.errors import AssetError
from vlarl.report_findings import study_findings
from vlarl.report_study import study_page
from vlarl.report_study_charts import curves, curves_svg
from vlarl.results_study import SCHEMA, RunResult
from vlarl.results_study_table import table_data

CELLS = ("base", "one", "two", "three")
OUTCOMES = {"base": "11100000", "one": "11111110", "two": "11100000", "three": "11000000"}


def runs(seeds: dict[str, tuple[int, ...]], **fields: Any) -> list[RunResult]:
    return [
        made_result(cell, seed, [0.1, 0.5, 0.6], {"a": OUTCOMES[cell]}, **fields)
        for cell, own in seeds.items()
        for seed in own
    ]


def write_results(folder: Path, found: list[RunResult], **fields: Any) -> Path:
    cells = {
        name: {"overrides": ["ppo.lr=1e-4", f"ppo.clip={at}"], "seeds": [1, 2], "paper": None, "note": None}
        for at, name in enumerate(CELLS)
    }
    document = {
        "schema": SCHEMA,
        "name": "ours",
        "study_sha256": "s",
        "recipe": "tiny.yaml",
        "baseline": "base",
        "threshold": None,
        "cells": cells,
        **fields,
    }
    kept = [json.loads(json.dumps(run.__dict__, default=lambda point: point.__dict__)) for run in found]
    (folder / "results.json").write_text(json.dumps({**document, "table": {}, "runs": kept}))
    return folder


def shown(folder: Path) -> str:
    return study_page(study_findings(folder))


def part(page: str, title: str) -> str:
    found = re.search(rf"<section[^>]*><h2>{re.escape(title)}</h2>.*?</section>", page, re.DOTALL)
    assert found is not None, title
    return found[0]


def test_the_small_charts_have_the_legend_again(tmp_path: Path) -> None:
    page = shown(write_results(tmp_path, runs(dict.fromkeys(CELLS, (1, 2)))))
    small = part(page, "Each cell against base")
    for position, name in enumerate(CELLS):
        assert f'<span class="swatch  c-k{position}"></span><span>{name}</span>' in small
    assert small.count("<h3>") == 3


def test_curves_say_how_many_seeds_where_that_differs() -> None:
    uneven = runs({"base": (1, 2), "one": (1,)})
    assert [one.name for one in curves(CELLS, uneven, "env_steps")] == ["base (2 seeds)", "one (1 seed)"]
    assert "one (1 seed)" in curves_svg(CELLS, uneven)
    even = runs({"base": (1, 2), "one": (1, 2)})
    assert [one.name for one in curves(CELLS, even, "env_steps", only=("one",))] == ["one"]


def test_curves_leave_out_what_the_table_leaves_out() -> None:
    other = made_result("base", 3, [0.9, 0.9, 0.9], {"b": "1"})
    with_it, without = (curves(CELLS, [*runs({"base": (1, 2)}), *more], "env_steps") for more in ([other], []))
    assert with_it == without


def test_what_all_cells_change_is_listed_once(tmp_path: Path) -> None:
    folder = write_results(tmp_path, runs(dict.fromkeys(CELLS, (1, 2))))
    found = study_findings(folder)
    assert found.shared == ("ppo.lr=1e-4",)
    assert found.changes["two"] == ("ppo.clip=2",)
    listed = part(shown(folder), "Provenance")
    assert listed.count("ppo.lr=1e-4") == 1
    assert "all cells\n    ppo.lr=1e-4\nbase\n    ppo.clip=0\n" in listed


def test_a_cell_alone_shares_nothing(tmp_path: Path) -> None:
    cells = {"base": {"overrides": ["ppo.lr=1e-4"], "seeds": [1], "paper": None, "note": None}}
    found = study_findings(write_results(tmp_path, runs({"base": (1,)}), cells=cells))
    assert (found.shared, found.changes) == ((), {"base": ("ppo.lr=1e-4",)})


@pytest.mark.parametrize(("seeds", "css"), [((1, 2), "good"), ((1,), "muted")])
def test_a_single_pair_has_no_verdict(tmp_path: Path, seeds: tuple[int, ...], css: str) -> None:
    always = [made_result("base", seed, [0.0, 0.0], {"a": "0" * 20}) for seed in seeds]
    always += [made_result("one", seed, [0.0, 1.0], {"a": "1" * 20}) for seed in seeds]
    table = part(shown(write_results(tmp_path, always)), "Cells")
    assert f'<span class="{css}">+100.0</span>' in table
    assert ("(episodes only)" in table) == (css == "muted")


def test_chains_are_no_markup_and_other_states_no_results(tmp_path: Path) -> None:
    page = shown(write_results(tmp_path, runs({"base": (1, 2)}, chain="<i>0123456789")))
    assert "<i>" not in page
    assert "&lt;i&gt;012" in page
    with pytest.raises(AssetError, match="holds no results of a study") as caught:
        shown(write_results(tmp_path, runs({"base": (1, 2)}, state="<b>done")))
    assert caught.value.code == "R360"


def test_seeds_with_other_tasks_do_not_end_the_page(tmp_path: Path) -> None:
    other = made_result("base", 2, [0.1, 0.5, 0.6], {"a": "1", "b": "0"})
    page = shown(write_results(tmp_path, [*runs({"base": (1,), "one": (1,)}), other]))
    assert "seed 2 of base was not evaluated on the tasks and episodes" in page
    assert "<td>b</td>" not in part(page, "Tasks")


def test_the_table_in_the_results_is_plain_json(tmp_path: Path) -> None:
    folder = write_results(tmp_path, runs(dict.fromkeys(CELLS, (1, 2))))
    table = table_data(study_findings(folder).table)
    assert json.loads(json.dumps(table))["rows"][1]["pairs"] == 2
    assert "pooled" not in table["rows"][0]
