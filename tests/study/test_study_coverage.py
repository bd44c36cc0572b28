"""What a study keeps of its runs' actions and GPUs, and shows of them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_study import STUDY, made_result, made_study, make_run

from vlarl.recipe.specs.study import StudySpec
from vlarl.report import report
from vlarl.report_study_charts import cell_series
from vlarl.results_study import RESULTS, gather, read_results, runs_of
from vlarl.results_study_table import csv_text, make_table, markdown
from vlarl.run.coverage import SIDE
from vlarl.study import Order, refresh

SPEC = StudySpec.model_validate(
    {"recipe": "r.yaml", "seeds": [1, 2], "baseline": "base", "cells": {"base": {}, "new": {}}}
)


def acting(iteration: int) -> np.ndarray:
    """Actions of an episode: one cell of the plane of commands at step 0 and half-way, sixteen of them in the end."""
    actions = np.zeros((SIDE, 7))
    if iteration == 2:
        actions[:, 0] = np.linspace(-1, 1, SIDE)
    return actions


def covered(cell: str, seed: int, before: float, after: float) -> Any:
    return made_result(cell, seed, [0.0, 0.5], {"a": "10"}, action_shares=(before, after))


def test_results_keep_the_shares_of_a_run(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    for job in study.jobs:
        make_run(job, tmp_path / "out", ("00", "01", "11"), actions=acting)
    refresh(study, Order(out=tmp_path / "out", cache=tmp_path))
    runs = runs_of(read_results(tmp_path / "out" / RESULTS))
    assert runs == gather(study, tmp_path / "out")
    for run in runs:
        assert run.action_shares == pytest.approx((1 / 256, 16 / 256))
    assert "| slow | 2 | 0.4 [0.4, 0.4] | 6.2 [6.2, 6.2] | +5.9 [+5.9, +5.9] |" in (
        (tmp_path / "out" / "table.md").read_text()
    )


def test_shares_are_not_known_where_the_actions_are_gone(tmp_path: Path) -> None:
    study, out = made_study(tmp_path), tmp_path / "out"
    for job in study.jobs:
        run = make_run(job, out, ("00", "01", "11"), actions=acting)
        if job.cell == "slow":
            (run.evaluations / "tabletop_basic-000000.safetensors").unlink()
    refresh(study, Order(out=out, cache=tmp_path))
    text = (out / "table.md").read_text()
    assert "| base | 2 | 0.4 [0.4, 0.4] |" in text
    assert "Spread of actions of `slow`: not known, the actions of the evaluations are not there." in text
    assert "Spread of actions of <code>slow</code>: not known" in report(out).path.read_text()


def test_results_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    study, out = made_study(tmp_path), tmp_path / "out"
    for job in study.jobs:
        make_run(job, out, ("00", "01"))
    refresh(study, Order(out=out, cache=tmp_path))
    document = json.loads((out / RESULTS).read_text())
    for run in document["runs"]:
        assert run.pop("action_shares") == pytest.approx((1 / 256, 1 / 256))
        assert run.pop("num_gpus") == 0
        run["coverage"] = (0.1, 0.2)  # over rollouts
        for point in run["evaluations"]:
            assert point.pop("outcomes")
    del document["table"]["coverage"]
    (out / RESULTS).write_text(json.dumps(document))
    for earlier, now in zip(runs_of(read_results(out / RESULTS)), gather(study, out), strict=True):
        assert (earlier.outcomes, earlier.chain) == (now.outcomes, now.chain)
        assert [(p.k, p.n, p.outcomes) for p in earlier.evaluations] == [(p.k, p.n, None) for p in now.evaluations]
        assert earlier.action_shares is None
    page = report(out).path.read_text()
    assert "Spread of actions: not known" in page
    assert page.count('<polygon class="k0 band"') == 4, "bands from counts: wide and narrow, env steps and minutes"


def test_the_page_has_no_column_without_a_number(tmp_path: Path) -> None:
    for text, shown in ((STUDY, True), (STUDY.replace(", paper: 80.5", ""), False)):
        study, out = made_study(tmp_path, text), tmp_path / str(shown)
        refresh(study, Order(out=out, cache=tmp_path))
        page = report(out).path.read_text()
        assert ('">paper</th>' in page) == shown
        assert page.count("80.5") == shown


def test_the_table_has_means_over_seeds() -> None:
    runs = [covered("base", 1, 0.1, 0.2), covered("base", 2, 0.2, 0.5), covered("new", 1, 0.3, 0.25)]
    base, new = make_table(SPEC, runs).coverage
    assert (base.cell, base.seeds, new.seeds) == ("base", 2, 1)
    assert (base.before.value, base.after.value, base.change.value) == pytest.approx((0.15, 0.35, 0.2))
    assert base.change.interval is not None
    assert (base.change.interval.low, base.change.interval.high) == pytest.approx((0.1, 0.3))  # of two seeds, either
    assert new.after.interval is None, "one seed says nothing of others"


def test_markdown_and_csv_have_them() -> None:
    runs = [covered("base", 1, 0.1, 0.2), covered("base", 2, 0.2, 0.5)]
    table = make_table(SPEC, runs)
    text = markdown(table, "ours")
    assert "| cell | seeds | at step 0 | last evaluation | change |" in text
    assert "| base | 2 | 15.0 [10.0, 20.0] | 35.0 [20.0, 50.0] | +20.0 [+10.0, +30.0] |" in text
    base, new = csv.DictReader(io.StringIO(csv_text(table)))
    assert [base[f"coverage_{name}"] for name in ("before", "after_low", "after_high", "change")] == [
        "0.15",
        "0.2",
        "0.5",
        "0.2",
    ]
    assert new["coverage_before"] == ""


def test_a_study_without_actions_has_no_such_table() -> None:
    table = make_table(SPEC, [made_result("base", 1, [0.0, 0.5], {"a": "10"})])
    assert table.coverage == ()
    text = markdown(table, "ours")
    assert "| at step 0 |" not in text
    assert text.endswith("Spread of actions: not known, the actions of the evaluations are not there.\n")


def test_unfinished_runs_do_not_count() -> None:
    run = made_result("base", 1, [0.5], {"a": "1"}, state="unfinished", action_shares=(0.1, 0.2))
    table = make_table(SPEC, [run])
    assert table.coverage == ()
    assert "Spread of actions" not in markdown(table, "ours")


# GPU-hours


def test_gpu_hours_are_those_of_runs_on_gpus() -> None:
    runs = [
        made_result("base", 1, [0.0, 0.5, 0.6], {"a": "1"}, num_gpus=4),
        made_result("base", 2, [0.0, 0.5, 0.6], {"a": "1"}, num_gpus=2),
        made_result("new", 1, [0.0, 0.5, 0.6], {"a": "1"}),
    ]
    series = cell_series("base", "k0", runs, "gpu_hours")
    assert series is not None
    assert series.x == pytest.approx([0.0, 3 / 60, 6 / 60])  # a minute an iteration, three GPUs in the mean
    assert cell_series("new", "k1", runs, "gpu_hours") is None
    minutes = cell_series("base", "k0", runs, "minutes")
    assert minutes is not None
    assert minutes.x == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("gpus", [0, 4])
def test_the_page_shows_spread_and_gpu_hours(tmp_path: Path, gpus: int) -> None:
    study, out = made_study(tmp_path, STUDY), tmp_path / "out"
    for job in study.jobs:
        make_run(job, out, ("00", "01", "11"), actions=acting)
    refresh(study, Order(out=out, cache=tmp_path))
    document = json.loads((out / RESULTS).read_text())
    for run in document["runs"]:
        run["num_gpus"] = gpus
    (out / RESULTS).write_text(json.dumps(document))
    page = report(out).path.read_text()
    assert ("Success over GPU-hours" in page) == (gpus > 0)
    section = re.search(r"<h2>Spread of actions</h2>.*?</section>", page)
    assert section is not None
    assert section[0].count('6.2<span class="sub">[6.2, 6.2]</span>') == 2
    assert section[0].count('+5.9<span class="sub">[+5.9, +5.9]</span>') == 2
