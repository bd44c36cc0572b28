"""`vlarl study`: order, skipping, going on, stopping, results; with stand-ins for the runs, and once with real ones."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_study import STUDY, TASKS, Machine, made_study, make_run, write_study

from vlarl import cli
from vlarl.errors import AssetError, DriftError, Exit, UsageError
from vlarl.recipe.study import Study, StudyJob
from vlarl.report import report
from vlarl.results import Evaluated, document, protocol_block, write
from vlarl.results_study import RESULTS, find_job, gather, read_collected, read_results, read_run, runs_of
from vlarl.run.folder import RunLock, find_runs
from vlarl.study import Order, StudyOutcome, chosen_jobs, refresh, run_study
from vlarl.study_collect import collect, without_places
from vlarl.study_processes import words
from vlarl.types import EpisodeSpec, Trial

ALL = ["base seed 1", "slow seed 1", "base seed 2", "slow seed 2"]


def go(study: Study, out: Path, machine: Machine, **fields: Any) -> StudyOutcome:
    said: list[str] = []
    outcome = run_study(
        study, study.jobs, Order(out=out, cache=out / "cache", start=machine.start, **fields), said.append
    )
    assert said
    return outcome


def test_all_runs_once_seeds_outermost(tmp_path: Path) -> None:
    study, machine = made_study(tmp_path), Machine()
    outcome = go(study, tmp_path / "out", machine)
    assert machine.started == ALL
    assert machine.most == 1
    assert outcome.exit_status == Exit.OK
    assert [found.state for _, found in outcome.states] == ["done"] * 4
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "results.json",
        "table.md",
        "table.csv",
        "curves.svg",
        "study.yaml",
    }
    assert (tmp_path / "out" / "study.yaml").read_bytes() == study.text


def test_what_is_done_is_skipped_and_what_was_begun_goes_on(tmp_path: Path) -> None:
    study, out = made_study(tmp_path), tmp_path / "out"
    make_run(study.jobs[0], out)
    make_run(study.jobs[1], out, status="stopped")
    assert [find_job(job, out).state for job in study.jobs] == ["done", "unfinished", "new", "new"]
    machine = Machine()
    go(study, out, machine)
    assert machine.started == ALL[1:]


def test_a_changed_recipe_is_refused_before_anything_runs(tmp_path: Path) -> None:
    study, out, machine = made_study(tmp_path), tmp_path / "out", Machine()
    make_run(study.jobs[3], out)
    changed = made_study(tmp_path, STUDY.replace("1e-6", "2e-6"))
    with pytest.raises(DriftError) as caught:
        go(changed, out, machine)
    assert caught.value.code == "D650"
    assert "slow seed 2" in caught.value.message
    assert f"mv {out / 'runs/slow/seed-2'} " in str(caught.value.hint)
    assert machine.started == []
    assert find_job(changed.jobs[0], out).state == "new"  # the other cell is what it was


def test_an_evaluation_of_other_episodes_is_not_the_runs_own(tmp_path: Path) -> None:
    study, out = made_study(tmp_path), tmp_path / "out"
    job = study.jobs[0]
    run = make_run(job, out, ("00", "01"))
    before = read_run(job, run, "done", out)
    trials = [
        Trial(
            spec=EpisodeSpec(task, "sampled", 0, 0),
            success=True,
            errored=False,
            length=1,
            actions=np.zeros((1, 7), np.float32),
        )
        for task in range(2)
    ]
    protocol = protocol_block(
        TASKS, [t.spec for t in trials], suite="tabletop_basic", conventions={}, renderer="osmesa"
    )
    for iteration in (0, 1):
        evaluated = Evaluated(run=run.id, iteration=iteration, decoding="greedy", seed=job.seed)
        other = document(trials, TASKS, protocol=protocol, evaluated=evaluated)
        write(other, trials, run.evaluations, f"tabletop_basic-{iteration:06d}-s123456")
    assert len(list(run.evaluations.glob("*.json"))) == 4
    assert read_run(job, run, "done", out) == before


def test_a_note_or_a_paper_number_is_not_part_of_a_run(tmp_path: Path) -> None:
    study, out = made_study(tmp_path), tmp_path / "out"
    make_run(study.jobs[1], out)
    again = made_study(tmp_path, STUDY.replace("paper: 80.5", "paper: 81, note: hm"))
    assert find_job(again.jobs[1], out).state == "done"


def test_a_failed_run_does_not_stop_the_others(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    machine = Machine(lambda job: 1 if job.label == "slow seed 1" else 0)
    outcome = go(study, tmp_path / "out", machine)
    assert machine.started == ALL
    assert outcome.failed == {"slow seed 1": "exit status 1"}
    assert outcome.exit_status == Exit.RUN_FAILED
    assert [row.seeds for row in outcome.table.rows] == [2, 1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The study's time in its one item, which only the test moves."""
    now = [0.0]
    monkeypatch.setattr("vlarl.study.time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    return now


def ends_with(label: str, clock: list[float]) -> Callable[[StudyJob], int | None]:
    """Runs of seed 1 go on for ever; when that of ``label`` begins, the time is over."""

    def behave(job: StudyJob) -> int | None:
        clock[0] = 10.0 if job.label == label else clock[0]
        return None if job.seed == 1 else 0

    return behave


def test_several_at_a_time(tmp_path: Path, clock: list[float]) -> None:
    machine = Machine(ends_with(ALL[1], clock))
    outcome = go(made_study(tmp_path), tmp_path / "out", machine, num_jobs=2, budget=3.0)
    assert machine.most == 2
    assert machine.stopped == ALL[:2]
    assert outcome.exit_status == Exit.RESUMABLE


def test_the_end_of_the_budget_stops_what_runs_and_begins_nothing(tmp_path: Path, clock: list[float]) -> None:
    behave = ends_with("slow seed 1", clock)
    machine = Machine(lambda job: 0 if job.label == "base seed 1" else behave(job))
    outcome = go(made_study(tmp_path), tmp_path / "out", machine, budget=3.0)
    assert machine.started == ALL[:2]
    assert machine.stopped == ["slow seed 1"]
    assert outcome.exit_status == Exit.RESUMABLE
    assert outcome.table.rows[0].seeds == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_what_runs(tmp_path: Path, number: signal.Signals) -> None:
    def behave(job: StudyJob) -> int | None:
        if job.label == "slow seed 1":
            os.kill(os.getpid(), number)
            return None
        return 0

    machine = Machine(behave)
    outcome = go(made_study(tmp_path), tmp_path / "out", machine)
    assert machine.stopped == ["slow seed 1"]
    assert outcome.exit_status == Exit.RESUMABLE


def test_ctrl_c_after_a_signal_interrupts(tmp_path: Path) -> None:
    def behave(job: StudyJob) -> int | None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return None

    machine = Machine(behave)
    with pytest.raises(KeyboardInterrupt):
        go(made_study(tmp_path), tmp_path / "out", machine)


def test_a_run_that_another_process_has_is_left_to_it(tmp_path: Path) -> None:
    study, out, machine = made_study(tmp_path), tmp_path / "out", Machine()
    (out / study.jobs[1].place).mkdir(parents=True)
    with RunLock(out / study.jobs[1].place / "lock"):
        outcome = go(study, out, machine)
    assert machine.started == [ALL[0], *ALL[2:]]
    assert outcome.exit_status == Exit.RESUMABLE


def test_a_run_that_a_killed_study_left_behind_is_no_failure(tmp_path: Path) -> None:
    outcome = go(made_study(tmp_path), tmp_path / "out", Machine(lambda job: 4 if job.label == ALL[1] else 0))
    assert outcome.failed == {}
    assert outcome.exit_status == Exit.RESUMABLE


def test_another_cell_may_have_changed(tmp_path: Path) -> None:
    study, out, machine = made_study(tmp_path), tmp_path / "out", Machine()
    make_run(study.jobs[1], out)
    changed = made_study(tmp_path, STUDY.replace("1e-6", "2e-6"))
    outcome = run_study(
        changed, chosen_jobs(changed, ["base"]), Order(out=out, cache=out / "cache", start=machine.start)
    )
    assert machine.started == [ALL[0], ALL[2]]
    assert [row.seeds for row in outcome.table.rows] == [2, 0]


def test_some_cells_or_one_task(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    assert [job.label for job in chosen_jobs(study, ["slow"])] == [ALL[1], ALL[3]]
    assert [job.label for job in chosen_jobs(study, task=2)] == [ALL[2]]
    assert [job.label for job in chosen_jobs(study, ["slow"], task=1)] == [ALL[3]]
    with pytest.raises(UsageError, match="no cell `slwo`"):
        chosen_jobs(study, ["slwo"])
    with pytest.raises(UsageError, match="no task 4"):
        chosen_jobs(study, task=4)


# Results


def test_what_results_say_of_a_run(tmp_path: Path) -> None:
    study, out = made_study(tmp_path), tmp_path / "out"
    make_run(study.jobs[0], out, ("00", "10", "11"))
    make_run(study.jobs[1], out, ("00", "01"), status="stopped")
    runs, table = refresh(study, Order(out=out, cache=out))
    first = runs[0]
    assert [(p.iteration, p.env_steps, p.seconds, p.k, p.n) for p in first.evaluations] == [
        (0, 0, 0.0, 0, 4),
        (1, 32, 30.0, 2, 4),
        (2, 64, 60.0, 4, 4),
    ]
    assert dict(first.outcomes) == {"reach_red": "11", "lift_red": "11"}
    assert (first.state, runs[1].state) == ("done", "unfinished")
    assert first.chain == "c" * 64
    stored = read_results(out / RESULTS)
    assert runs_of(stored) == runs == gather(study, out)
    assert stored["cells"]["slow"] == {"overrides": ["ppo.lr=1e-06"], "seeds": [1, 2], "paper": 80.5, "note": None}
    assert table.rows[0].k == 4
    assert (out / first.run / "manifest.json").is_file()


def test_collect_takes_what_vouches_and_nothing_else(tmp_path: Path) -> None:
    study, out, machine = made_study(tmp_path), tmp_path / "out", Machine()
    go(study, out, machine)
    written = collect(out, tmp_path / "docs", gather(study, out), ("results.json", "table.md"))
    names = {str(path.relative_to(tmp_path / "docs")) for path in written}
    assert len(names) == 2 + 4 * 3
    assert {"results.json", "slow/seed-2/chain.jsonl", "base/seed-1/manifest.json"} <= names
    assert {str(p.relative_to(tmp_path / "docs")) for p in (tmp_path / "docs").rglob("*") if p.is_file()} == names
    (line,) = (tmp_path / "docs/slow/seed-2/chain.jsonl").read_text().splitlines()
    assert json.loads(line).keys() == {"iteration", "env_steps", "chain", "success_rate", "reward"}


def test_what_was_collected_earlier_is_done(tmp_path: Path) -> None:
    study, first, docs = made_study(tmp_path), tmp_path / "first", tmp_path / "docs"
    machine = Machine(lambda job: 0 if job.seed == 1 else 75)
    go(study, first, machine)
    earlier = gather(study, first)
    assert [run.seed for run in earlier] == [1, 1]
    collect(first, docs, earlier, ("results.json",))

    second, machine = tmp_path / "second", Machine()
    collected = read_collected(study, docs)
    outcome = go(study, second, machine, collected=collected)
    assert machine.started == ALL[2:]  # the first seed's runs lie nowhere but in the documents
    assert outcome.exit_status == Exit.OK
    assert outcome.runs[:2] == earlier
    assert [row.seeds for row in outcome.table.rows] == [2, 2]
    kept = (docs / "base/seed-1/manifest.json").read_bytes()
    written = collect(second, docs, outcome.runs, ("results.json",), collected)
    assert len(written) == 1 + 2 * 3
    assert (docs / "base/seed-1/manifest.json").read_bytes() == kept
    assert len(read_collected(study, docs).runs) == 4
    elsewhere = tmp_path / "elsewhere"
    collect(second, elsewhere, outcome.runs, ("results.json",), collected)
    assert (elsewhere / "base/seed-1/manifest.json").read_bytes() == kept


def test_results_without_what_vouches_for_them_are_refused(tmp_path: Path) -> None:
    study, out, docs = made_study(tmp_path), tmp_path / "out", tmp_path / "docs"
    go(study, out, Machine())
    collect(out, docs, gather(study, out), ("results.json",))
    shutil.rmtree(docs / "slow" / "seed-1")
    with pytest.raises(AssetError) as caught:
        read_collected(study, docs)
    assert (caught.value.code, caught.value.place) == ("R360", str(docs / "slow" / "seed-1"))


def test_what_was_collected_with_another_recipe_is_refused(tmp_path: Path) -> None:
    study, out = made_study(tmp_path), tmp_path / "out"
    go(study, out, Machine())
    collect(out, tmp_path / "docs", gather(study, out), ("results.json",))
    changed = made_study(tmp_path, STUDY.replace("1e-6", "2e-6"))
    with pytest.raises(DriftError) as caught:
        read_collected(changed, tmp_path / "docs")
    assert caught.value.code == "D650"
    assert "slow seed 1 was collected with another recipe" in caught.value.message
    assert "--collected" in str(caught.value.hint)


def test_what_is_collected_names_no_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    text = f"{tmp_path}/checkout/a {tmp_path}/b {Path.home()}/c {tmp_path}/out/d"
    assert without_places(text, tmp_path / "out") == "./a ../b ~/c DIR/d"
    elsewhere = Path("/some/checkout/recipes")
    assert without_places(f"{elsewhere}/r.yaml", tmp_path / "out", [elsewhere, Path("near")]) == "recipes/r.yaml"


def test_the_report_of_a_study(tmp_path: Path) -> None:
    study, out = made_study(tmp_path, STUDY + "threshold: {window: 1}\n"), tmp_path / "out"
    go(study, out, Machine())
    written = report(out)
    page = written.path.read_text()
    assert written.path == out / "report.html"
    assert written.summary == "4 of 4 runs are done"
    assert page.count("<svg") >= 4 + 2  # wide and narrow, env steps and minutes; an interval a cell
    assert "Success over env steps" in page
    assert "80.5" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "steps to threshold" in page
    assert page.count("<td>reach_red</td>") == 1  # a row a task
    assert "2/4<span" in page  # of two seeds with outcomes 01


def test_curves_stand_alone(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    study, out = made_study(tmp_path), tmp_path / "out"
    refresh(study, Order(out=out, cache=out))
    assert "no evaluations yet" in (out / "curves.svg").read_text()
    go(study, out, Machine())
    root = ElementTree.fromstring((out / "curves.svg").read_text())
    assert len(root.findall(".//{http://www.w3.org/2000/svg}polyline")) == 2


# The command line


def test_the_words_of_a_run(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    line = words(study.jobs[1], study.recipe, Path("out"), Path("c"))
    assert line[:2] == ["train", str(study.recipe)]
    assert line[-5:] == ["--runs", "out/runs/slow/seed-1", "--or-resume", "--display", "plain"]
    assert [line[i + 1] for i, word in enumerate(line) if word == "--set"] == [
        "ppo.lr=1e-06",
        'name="slow"',
        "seed=1",
        'run.cache="c"',
    ]


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_list_and_table_run_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = str(write_study(tmp_path)), tmp_path / "out"
    make_run(made_study(tmp_path).jobs[1], out)
    assert command("study", path, "--out", str(out), "--list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [run["state"] for run in listed["runs"]] == ["new", "done", "new", "new"]
    assert command("study", path, "--out", str(out), "--table") == 0
    assert "| slow | 1 of 2 |" in capsys.readouterr().out
    assert command("study", path, "--out", str(out), "--collect", str(tmp_path / "docs")) == 0
    assert command("study", path, "--out", str(out), "--slurm") == 0
    assert "--array=0-3" in capsys.readouterr().out
    assert command("study", path, "--list", "--table") == Exit.USAGE
    assert command("study", path, "--out", str(out), "--only", "no") == Exit.USAGE
    assert command("study", str(tmp_path / "no.yaml")) == Exit.RECIPE
    assert command("study", "smoek", "--list") == Exit.USAGE
    assert "did you mean `smoke`" in capsys.readouterr().err


def start(path: Path, out: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "vlarl", "study", str(path), "--out", str(out)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_real_runs_stopped_and_gone_on(tmp_path: Path) -> None:
    """Two cells, one seed: stopped in the first run, then run to the end; the stopped run is the one that is done."""
    path, out = write_study(tmp_path, STUDY.replace("[1, 2]", "[1]")), tmp_path / "out"
    study = start(path, out)
    assert study.stderr is not None
    place = out / "runs" / "base" / "seed-1"
    for line in study.stderr:
        if "begins" in line:
            break
    while not list(place.glob("*/checkpoints/000000/COMPLETE")) and study.poll() is None:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        study.send_signal(signal.SIGTERM)
    _, err = study.communicate(timeout=120)
    assert study.returncode in (0, Exit.RESUMABLE), err
    begun = find_runs(place)
    assert len(begun) == 1

    done = subprocess.run(
        [sys.executable, "-m", "vlarl", "study", str(path), "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [run["state"] for run in document["runs"]] == ["done", "done"]
    assert find_runs(place) == begun
    assert [row["seeds"] for row in document["table"]["rows"]] == [1, 1]
    assert [row["n"] for row in document["table"]["rows"]] == [4, 4]
