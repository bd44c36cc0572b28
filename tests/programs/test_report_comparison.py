"""`vlarl report RUN RUN`: runs that differ in their seed alone are one row, the others are held against the first."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run_cli
from html_reader import Page
from synthetic_run import make_document, make_run, make_trials

from vlarl.errors import AssetError, UsageError
from vlarl.report import report, report_json
from vlarl.report_comparison import comparison
from vlarl.report_findings import Findings
from vlarl.results import write
from vlarl.run import manifest
from vlarl.run.coverage import SIDE
from vlarl.run.folder import RunFolder

RECIPE = "name: {name}\nseed: {seed}\nsuite: {{kind: tabletop, name: tabletop_basic}}\nppo: {{lr: {lr}}}\n"


def made(base: Path, seed: int, *, name: str = "quick", lr: float = 1e-4, more: str = "", solved: int = 2) -> RunFolder:
    """A run whose last evaluation solves the first ``solved`` of four init states of each of six tasks."""
    run = make_run(base, iterations=3, episodes=4, name=name)
    run.resolved_recipe.write_text(RECIPE.format(name=name, seed=seed, lr=lr) + more)
    for path in run.evaluations.iterdir():
        path.unlink()
    for iteration, count in ((0, 1), (3, solved)):
        trials = make_trials(lambda task, init, count=count: init < count, 4)
        write(make_document(trials, iteration=iteration, seed=seed), trials, run.evaluations)
    return run


def rows(found: Findings) -> dict[str, Any]:
    return {row.cell: row for row in found.table.rows}


def test_runs_that_differ_in_their_seed_alone_are_one_row(tmp_path: Path) -> None:
    runs = [made(tmp_path, 1), made(tmp_path, 2, solved=4), made(tmp_path, 1, name="slow", lr=1e-5, solved=1)]
    found = comparison(runs, tmp_path)
    quick, slow = found.table.rows
    assert (quick.cell, quick.seeds, quick.k, quick.n) == ("quick", 2, 2 * 6 + 4 * 6, 48)
    assert (slow.cell, slow.seeds, slow.pairs) == ("slow", 1, 1)
    assert slow.difference == pytest.approx(-0.25)  # seed 1: one solved instead of two, of four
    assert found.baseline == "quick"
    assert found.changes == {"quick": (), "slow": ("ppo.lr=1e-05",)}


def test_what_changes_no_result_makes_no_row(tmp_path: Path) -> None:
    other = "run: {keep: {last: 7}}\n"
    fast = made(tmp_path, 2)
    fast.resolved_recipe.write_text(
        RECIPE.format(name="renamed", seed=2, lr=1e-4).replace("tabletop_basic", "tabletop_basic, num_workers: 7")
        + other
    )
    (row,) = comparison([made(tmp_path, 1), fast], tmp_path).table.rows
    assert (row.cell, row.seeds) == ("quick", 2)


def test_rows_of_one_name_say_what_differs(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, 1),
        made(tmp_path, 1, lr=2e-4),
        made(tmp_path, 1, more="curriculum: {kind: paper, bucket_size: 50}\n"),
    ]
    assert comparison(runs, tmp_path).cells == (
        "quick (curriculum.kind=uniform, ppo.lr=0.0001)",
        "quick (curriculum.kind=uniform, ppo.lr=0.0002)",
        "quick (curriculum.kind=paper, ppo.lr=0.0001)",
    )


def test_a_recipe_of_another_name_alone_is_the_same_row(tmp_path: Path) -> None:
    found = comparison([made(tmp_path, 1), made(tmp_path, 2, name="again")], tmp_path)
    assert found.cells == ("quick",)


def test_the_newer_of_two_runs_of_one_seed_counts(tmp_path: Path) -> None:
    older, newer = made(tmp_path, 1, solved=4), made(tmp_path, 1, solved=3)
    for run, started in ((older, "2026-01-01T00:00:00+00:00"), (newer, "2026-02-01T00:00:00+00:00")):
        run.manifest.write_text(json.dumps({**manifest.read(run), "started": started}))
    found = comparison([newer, older], tmp_path)
    assert (found.table.rows[0].seeds, found.table.rows[0].k) == (1, 18)
    assert f"{older.id} and {newer.id} are of one recipe and seed: the newer one counts" in found.table.notes
    assert comparison([older, older], tmp_path).num_done == 1


def test_other_suites_or_protocols_are_not_paired_and_it_is_said(tmp_path: Path) -> None:
    other = made(tmp_path, 1, name="fewer")
    for path in other.evaluations.iterdir():
        path.unlink()
    trials = make_trials(lambda task, init: True, 4, tasks=2)
    write(make_document(trials, iteration=3), trials, other.evaluations)
    egl = made(tmp_path, 2, name="egl")
    for path in egl.evaluations.iterdir():
        path.unlink()
    trials = make_trials(lambda task, init: True, 4)
    write(make_document(trials, iteration=3, renderer="egl"), trials, egl.evaluations)
    found = comparison([made(tmp_path, 1), other, egl], tmp_path)
    assert [row.difference for row in found.table.rows] == [None, None, None]
    assert "fewer was evaluated under another protocol than quick, so they are not paired" in found.table.notes
    assert "the protocols of fewer and quick differ in tasks" in found.table.notes
    assert "the protocols of egl and quick differ in renderer, so they are not paired" in found.table.notes


def test_runs_without_a_common_seed_are_not_paired_and_it_is_said(tmp_path: Path) -> None:
    found = comparison([made(tmp_path, 1), made(tmp_path, 2, name="other", lr=1e-5)], tmp_path)
    assert rows(found)["other"].difference is None
    assert "other and quick share no seed, so they are not paired" in found.table.notes


def test_one_recipe_under_two_protocols_is_two_rows(tmp_path: Path) -> None:
    runs = [made(tmp_path, 1), made(tmp_path, 2)]
    for path in runs[1].evaluations.iterdir():
        path.unlink()
    trials = make_trials(lambda task, init: True, 4)
    write(make_document(trials, iteration=3, renderer="egl"), trials, runs[1].evaluations)
    found = comparison(runs, tmp_path)
    assert found.cells == ("quick (protocol.renderer=osmesa)", "quick (protocol.renderer=egl)")


def test_an_unfinished_run_counts_and_it_is_said(tmp_path: Path) -> None:
    stopped = made(tmp_path, 1, name="other", lr=1e-5)
    manifest.finish(stopped, "stopped", 75)
    found = comparison([made(tmp_path, 1), stopped], tmp_path)
    assert rows(found)["other"].seeds == 1
    note = f"{stopped.id} has not finished (stopped): what counts is its evaluation after 3 iterations"
    assert note in found.table.notes
    assert [found.state(run) for run in found.runs] == ["done", "stopped"]


def test_a_run_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    runs = [made(tmp_path, 1), made(tmp_path, 2)]
    shutil.rmtree(runs[1].evaluations)
    with pytest.raises(AssetError, match="has no evaluation of its policy") as caught:
        report(*(run.path for run in runs), out=tmp_path / "a.html")
    assert caught.value.code == "R369"
    assert str(runs[1].path) in str(caught.value.hint)
    assert not (tmp_path / "a.html").exists()


def test_only_evaluations_of_the_run_s_own_policy_count(tmp_path: Path) -> None:
    run = made(tmp_path, 1, solved=2)
    for fields in ({"policy": "expert", "decoding": None, "iteration": None}, {"iteration": None}):
        trials = make_trials(lambda task, init: True, 4)
        write(make_document(trials, **fields), trials, run.evaluations)  # type: ignore[arg-type]
    assert comparison([run, made(tmp_path, 2)], tmp_path).table.rows[0].k == 24
    for path in run.evaluations.glob("tabletop_basic-0*"):
        path.unlink()
    with pytest.raises(AssetError, match="has no evaluation of its policy"):
        comparison([run], tmp_path)


def test_the_page(tmp_path: Path) -> None:
    runs = [made(tmp_path, 1), made(tmp_path, 2), made(tmp_path, 1, name="slow", lr=1e-5, solved=3)]
    runs[0].report.write_text("its own")
    written = report(runs[0].id, *(run.path for run in runs[1:]), runs=tmp_path)
    assert written.path == tmp_path / "comparison.html"
    assert re.fullmatch(r"slow: \+25\.0 \[.*\] points \(episodes only\) against quick", str(written.summary))
    text = written.path.read_text()
    shown = Page(text)
    for words in (
        "Comparison of 3 runs",
        "recipes 2",
        "Success over env steps",
        "what each recipe changes, against quick",
        "ppo.lr=1e-05",
        runs[2].id,
        "difference: to quick, in points",
    ):
        assert words in shown.text, words
    assert "paper" not in re.findall(r"<th[^>]*>([^<]+)</th>", text)
    assert f'<a href="./{runs[0].id}/report.html">quick</a>' in text
    assert not re.search(r"https?://|@import|url\(", text)
    assert report_json(written)["runs"] == [run.id for run in runs]
    assert report_json(written)["run"] is None


def test_spread_and_gpu_hours_are_compared_too(tmp_path: Path) -> None:
    runs = [made(tmp_path, 1), made(tmp_path, 1, name="wide", lr=1e-3)]
    for run, cells in zip(runs, (1, SIDE), strict=True):
        actions = np.zeros((SIDE, 7), np.float32)
        actions[:cells, 0] = np.linspace(-1, 1, SIDE)[:cells] if cells > 1 else 0.0
        for iteration in (0, 3):
            acting = actions if iteration else np.zeros((SIDE, 7), np.float32)
            trials = [replace(t, length=SIDE, actions=acting) for t in make_trials(lambda task, init: init < 2, 4)]
            write(make_document(trials, iteration=iteration, seed=1), trials, run.evaluations)
    text = Page(report(*(run.path for run in runs), out=tmp_path / "a.htm").path.read_text()).text
    assert "wide10.46.2+5.9" in text  # seeds, at step 0, last evaluation, change
    assert "GPU-hours" not in text


def test_markdown_and_csv_of_a_comparison(tmp_path: Path) -> None:
    runs = [made(tmp_path, 1), made(tmp_path, 1, name="slow", lr=1e-5, solved=3)]
    written = report(*(run.path for run in runs), out=tmp_path / "a.md")
    assert "| slow | 1 | 18/24 | 75.0 [" in written.path.read_text()
    table = report(*(run.path for run in runs), out=tmp_path / "a.csv").path.read_text()
    quick, slow = csv.DictReader(table.splitlines())
    assert (quick["cell"], slow["k"], slow["difference"]) == ("quick", "18", "0.25")


def test_a_study_among_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "results.json").write_text("{}")
    with pytest.raises(UsageError, match="is a study") as caught:
        report(made(tmp_path, 1).path, tmp_path / "study")
    assert caught.value.code == "U280"


def test_the_command_takes_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [made(tmp_path, 1), made(tmp_path, 2)]
    words = ["report", *(run.id for run in runs), "--runs", str(tmp_path), "--json"]
    status, out, _ = run_cli(*words, capsys=capsys)
    assert status == 0
    document = json.loads(out)
    assert document["path"] == str(tmp_path / "comparison.html")
    assert document["runs"] == [run.id for run in runs]
    status, out, _ = run_cli(*words, "--out", str(tmp_path / "a.pdf"), capsys=capsys)
    assert (status, json.loads(out)["error"]["code"]) == (2, "U280")
