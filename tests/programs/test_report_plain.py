"""The report of a run as Markdown and as CSV, and the endings of files that choose."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import NAMES, STEPS_PER_ITERATION, make_document, make_run, make_trials

from vlarl.errors import UsageError
from vlarl.intervals import wilson
from vlarl.report import report, report_json, report_notes
from vlarl.results import compare, read_document, write
from vlarl.results_text import sentence
from vlarl.run.coverage import SIDE
from vlarl.run.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, iterations=12, episodes=16)


def table_after(text: str, heading: str) -> list[list[str]]:
    """Cells of the first Markdown table below a heading, without the line under its head."""
    lines = text[text.index(heading) :].splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [row for row in rows if set("".join(row)) != {"-"}]


def test_csv_has_a_row_an_evaluation_and_task(run: RunFolder, tmp_path: Path) -> None:
    written = report(run.path, out=tmp_path / "a.csv")
    rows = list(csv.DictReader(written.path.read_text().splitlines()))
    assert [(row["iteration"], row["task"]) for row in rows] == [(str(i), n) for i in (0, 4, 8, 12) for n in NAMES]
    assert [row["env_steps"] for row in rows[:: len(NAMES)]] == [str(STEPS_PER_ITERATION * i) for i in (0, 4, 8, 12)]
    document = read_document(run.evaluations / "tabletop_basic-000012.json")
    for row, task in zip(rows[-len(NAMES) :], document["tasks"], strict=True):
        k, n = task["successes"], task["episodes"]
        interval = wilson(k, n)
        assert (int(row["k"]), int(row["n"])) == (k, n)
        numbers = [float(row[name]) for name in ("rate", "low", "high")]
        assert numbers == pytest.approx([k / n, interval.low, interval.high], rel=1e-5)
    assert not run.report.exists()


def test_csv_of_an_evaluation_whose_iteration_is_not_in_the_events(run: RunFolder, tmp_path: Path) -> None:
    lines = run.events.read_text().splitlines(keepends=True)
    run.events.write_text("".join(lines[:5]))
    rows = list(csv.DictReader(report(run.path, out=tmp_path / "a.csv").path.read_text().splitlines()))
    assert {row["iteration"]: row["env_steps"] for row in rows} == {"0": "0", "4": "16384", "8": "", "12": ""}


def test_markdown_has_headline_tasks_and_provenance(run: RunFolder, tmp_path: Path) -> None:
    text = report(run.path, out=tmp_path / "a.md").path.read_text()
    first, last = (read_document(run.evaluations / f"tabletop_basic-{i:06d}.json") for i in (0, 12))
    compared = compare(first, last)
    assert text.startswith("# quickstart\n\nsuite tabletop_basic, recipe 3f9a1c000000, status done, iterations 12, ")
    assert f"Paired difference: {sentence(compared)}." in text
    head, before, after = table_after(text, "# quickstart")
    assert head == ["evaluation", "success", "Wilson 95 %"]
    for row, document in ((before, first), (after, last)):
        overall = document["overall"]
        assert row[1].startswith(f"{overall['successes']}/{overall['episodes']} ")
        assert row[2] == f"[{100 * overall['low']:.1f}, {100 * overall['high']:.1f}]"
    head, *rows = table_after(text, "## Tasks")
    assert head == [
        "task", "before (step 0)", "95 %", "after 12 iterations", "95 %", "paired difference", "95 %", "McNemar p",
    ]  # fmt: skip
    assert [row[0] for row in rows] == [*NAMES, "all 6 tasks"]
    for row in rows[:-1]:
        assert row[5] == f"{100 * compared.tasks[row[0]].difference:+.1f}"
    assert {len(row) for row in rows} == {len(head)}
    assert "- command: `vlarl train recipes/quickstart.yaml`" in text
    assert f"- recipe digest: `3f9a1c{'0' * 58}`" in text
    assert not re.search(r"\bNone\b|<[a-z]", text)


def test_markdown_says_how_far_actions_spread(run: RunFolder, tmp_path: Path) -> None:
    for iteration in (0, 4, 8, 12):
        actions = np.zeros((SIDE, 7), np.float32)
        actions[:, 1] = np.linspace(-1, 1, SIDE) if iteration else 0.0
        made = [replace(trial, length=SIDE, actions=actions) for trial in make_trials(lambda task, init: True, 2)]
        write(make_document(made, iteration=iteration), made, run.evaluations)
    text = report(run.path, out=tmp_path / "a.md").path.read_text()
    assert "that the greedy policy used on the same 12 held-out episodes: 0.4 % over 192 actions at step 0" in text
    assert ", 6.2 % over 192 after 12 iterations." in text
    (run.evaluations / "tabletop_basic-000012.safetensors").unlink()
    text = report(run.path, out=tmp_path / "a.md").path.read_text()
    assert "## Spread of actions\n\nNot known: the actions of the evaluations" in text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=3, episodes=2)
    for path in (*run.evaluations.iterdir(), run.events):
        path.unlink()
    text = report(run.path, out=tmp_path / "a.md").path.read_text()
    assert "No evaluation has been made yet." in text
    assert "## Tasks" not in text
    assert report(run.path, out=tmp_path / "a.csv").path.read_text() == "iteration,env_steps,task,k,n,rate,low,high\n"


def test_only_the_first_evaluation_is_not_compared_with_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=3, episodes=2)
    for path in run.evaluations.iterdir():
        if "000000" not in path.name:
            path.unlink()
    text = report(run.path, out=tmp_path / "a.md").path.read_text()
    assert "Paired difference" not in text
    assert table_after(text, "## Tasks")[0] == ["task", "before (step 0)", "95 %"]


def test_pipes_and_line_ends_stay_in_their_cell(run: RunFolder, tmp_path: Path) -> None:
    described = json.loads(run.manifest.read_text())
    run.manifest.write_text(json.dumps({**described, "command": ["vlarl", "a\nb"]}))
    for path in run.evaluations.glob("*.json"):
        path.write_text(path.read_text().replace('"reach_red"', '"reach|red"'))
    text = report(run.path, out=tmp_path / "a.md").path.read_text()
    assert "| reach\\|red |" in text
    assert "- command: `vlarl a b`" in text


@pytest.mark.parametrize(
    ("name", "chosen"), [("a.html", "html"), ("a.HTM", "html"), ("a.md", "markdown"), ("a.csv", "csv")]
)
def test_the_ending_chooses(run: RunFolder, tmp_path: Path, name: str, chosen: str) -> None:
    written = report(run.path, out=tmp_path / "deep" / name)
    assert report_json(written)["format"] == chosen
    assert written.path.read_text().startswith("<!doctype html>") == (chosen == "html")
    assert report_notes(written)[-1].endswith("needs no other file") == (chosen == "html")
    assert written.size == written.path.stat().st_size


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.html.gz", "."])
def test_another_ending_is_refused(run: RunFolder, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        report(run.path, out=tmp_path / name)
    assert (caught.value.code, caught.value.hint) == ("U280", "end it in .html, .md or .csv")
    assert not (tmp_path / name).is_file()
