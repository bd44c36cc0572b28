"""Sections of a run's report that depend on what its events hold: reward parts, time, GPU-hours, spread of actions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_reader import Page
from synthetic_run import make_document, make_run, make_trials

from vlarl.report_coverage import coverage_body
from vlarl.report_data import gather
from vlarl.report_page import page
from vlarl.results import write
from vlarl.results_gpus import num_gpus
from vlarl.run.coverage import SIDE
from vlarl.run.events import read_events
from vlarl.run.folder import RunFolder
from vlarl.types import Trial

ITERATIONS = 12
OPENVLA = "policy: {kind: openvla, checkpoint: x, device: auto}\n"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, iterations=ITERATIONS, episodes=16)


def change(run: RunFolder, how: Callable[[dict[str, Any]], Any]) -> None:
    """Change every event of the run in place."""
    records = read_events(run.events)
    for record in records:
        how(record)
    run.events.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def with_gpus(run: RunFolder, count: int = 4, processes: int | None = 4) -> None:
    described = json.loads(run.manifest.read_text())
    described["machine"]["gpus"] = [{"name": "H100"}] * count
    described["packages"]["torch_build"] = "cuda 12.8"
    described["environment"].pop("CUDA_VISIBLE_DEVICES", None)
    run.manifest.write_text(json.dumps(described | ({"processes": processes} if processes else {})))
    run.resolved_recipe.write_text(OPENVLA)


def drawing(text: str, label: str) -> str:
    """The first SVG element of that label."""
    found = re.search(rf'<svg [^>]*aria-label="{re.escape(label)}".*?</svg>', text)
    assert found is not None, label
    return found[0]


# Rewards


def test_every_part_of_the_reward_has_a_chart(run: RunFolder) -> None:
    change(run, lambda record: record["reward"].update(process=0.25 - record["iteration"] / 100))
    text = page(gather(run))
    assert "success last 0.03" in Page(text).text
    assert "process last 0.14" in Page(text).text  # 0.25 - 11 / 100
    points = re.search(r'<polyline[^>]*points="([^"]*)"', drawing(text, "process over env steps"))
    assert points is not None
    heights = [float(point.split(",")[1]) for point in points[1].split()]
    assert len(heights) == ITERATIONS
    assert heights == sorted(heights), "it falls, and y grows downwards"


def test_a_part_that_came_later_has_a_gap(run: RunFolder) -> None:
    def later(record: dict[str, Any]) -> None:
        if record["iteration"] >= 8:
            record["reward"]["process"] = 0.5

    change(run, later)
    points = re.search(r'points="([^"]*)"', drawing(page(gather(run)), "process over env steps"))
    assert points is not None
    assert len(points[1].split()) == ITERATIONS - 8


def test_without_parts_there_is_no_section(run: RunFolder) -> None:
    change(run, lambda record: record.pop("reward"))
    assert "Rewards" not in Page(page(gather(run))).text


# Time


def test_success_is_drawn_over_minutes_too(run: RunFolder) -> None:
    change(run, lambda record: record["ledger"].update(total_seconds=600.0))
    text = page(gather(run))
    assert "minutes of collecting and updating" in Page(text).text
    drawn = drawing(text, "Success rate over minutes of collecting and updating")
    assert "<text" in drawn
    assert ">100</text>" in drawn  # of 120 minutes
    dots = [float(x) for x in re.findall(r'<circle class="after dot" cx="([^"]+)"', drawn)]
    assert dots == pytest.approx([46.0, 46 + 940 / 3, 46 + 2 * 940 / 3, 986.0], abs=0.1)  # after 0, 4, 8, 12 of 12
    assert "GPU-hours" not in Page(text).text


def test_gpu_hours_stand_above_where_there_were_gpus(run: RunFolder) -> None:
    change(run, lambda record: record["ledger"].update(total_seconds=600.0))
    with_gpus(run)
    text = page(gather(run))
    assert "GPU-hours: that time on 4 GPUs, one a process." in Page(text).text
    drawn = drawing(text, "Success rate over minutes of collecting and updating")
    above = re.findall(r'<text x="([^"]+)" y="31.0" text-anchor="middle">(\d+)</text>', drawn)
    assert [label for _, label in above] == ["0", "2", "4", "6", "8"]  # 2 h on four GPUs
    assert float(above[-1][0]) == pytest.approx(986.0)
    assert "4 x H100" in Page(text).text


def test_events_without_times_have_no_chart_over_time(run: RunFolder) -> None:
    change(run, lambda record: record.pop("ledger"))
    text = Page(page(gather(run))).text
    assert "Success over env steps" in text
    assert "Success over time" not in text


@pytest.mark.parametrize(
    ("changed", "recipe", "count"),
    [
        ({}, {"policy": {"device": "auto"}}, 1),
        ({"processes": 8}, {"policy": {"device": "cuda"}}, 8),
        ({}, {"policy": {"device": "cpu"}}, 0),
        ({}, {"policy": {"kind": "tiny"}}, 0),
        ({}, {"policy": {"kind": "tiny"}, "rewards": [{"kind": "process", "device": "cuda"}]}, 1),
        ({}, {"policy": {"kind": "tiny"}, "rewards": [{"kind": "process", "device": "auto"}]}, 0),
        ({"environment": {"CUDA_VISIBLE_DEVICES": ""}}, {"policy": {"device": "auto"}}, 0),
        ({"packages": {"torch_build": "cpu"}}, {"policy": {"device": "auto"}}, 0),
        ({"machine": {"gpus": None}, "processes": 2}, {"policy": {"device": "auto"}}, 0),
        ({"machine": None, "environment": None, "packages": None}, {}, 0),
    ],
)
def test_gpus_are_counted_by_process(changed: dict[str, Any], recipe: dict[str, Any], count: int) -> None:
    manifest = {"machine": {"gpus": [{"name": "H100"}] * 4}, "packages": {"torch_build": "cuda 12.8"}, **changed}
    assert num_gpus(manifest, recipe) == count


# Spread of actions


def trials(iteration: int) -> list[Trial]:
    """Two episodes of 48 actions: all in the centre at step 0, then over sixteen cells alike, in the third row."""
    actions = np.zeros((48, 7), np.float32)
    if iteration:
        actions[:, 0] = np.tile(np.linspace(-1, 1, SIDE), 3)
        actions[:, 1] = -0.7
    return [replace(trial, length=48, actions=actions) for trial in make_trials(lambda task, init: True, 2, tasks=1)]


def evaluated(run: RunFolder, **fields: Any) -> None:
    for path in run.evaluations.iterdir():
        path.unlink()
    for iteration in (0, 6, ITERATIONS):
        made = trials(iteration)
        write(make_document(made, iteration=iteration, **fields), made, run.evaluations)


def test_the_spread_of_actions_before_and_after(run: RunFolder) -> None:
    evaluated(run)
    shown = Page(page(gather(run))).text
    assert "On the same 2 held-out episodes the greedy policy used 0.4% of the plane" in shown  # 1 of 256 cells
    assert "at step 0, and 6.2% after 12 iterations." in shown  # 16 of them
    assert "at step 0: 0.4% in use96 actions" in shown
    assert "after 12 iterations: 6.2% in use96 actions" in shown
    assert "100.0% of the actions in one cell" in shown


def test_a_sampled_policy_is_not_called_greedy(run: RunFolder) -> None:
    evaluated(run, decoding="sampled", temperature=0.5)
    shown = Page(page(gather(run))).text
    assert "the policy, sampled at temperature 0.5, used 0.4%" in shown


def test_both_maps_share_one_scale_and_y_points_upwards(run: RunFolder) -> None:
    evaluated(run)
    text = coverage_body(gather(run).coverage)
    before, after = (
        re.findall(r'<rect class="after fill" x="(.+?)" y="(.+?)" .*?fill-opacity="(.+?)"><title>(.+?)</title>', drawn)
        for drawn in re.findall(r"<svg.*?</svg>", text)
    )
    assert [(opacity, title) for _, _, opacity, title in before] == [
        ("1.00", "x 0 to 0.125, y 0 to 0.125: 100% of the actions")
    ]
    assert len(after) == SIDE
    assert {opacity for _, _, opacity, _ in after} == {"0.25"}  # the root of 1/16
    assert {y for _, y, _, _ in after} == {str(6 + 13 * (SIDE - 1 - 2))}, "the third row from below"
    assert sorted(float(x) for x, *_ in after) == [34 + 13 * column for column in range(SIDE)]


def test_without_the_actions_it_is_said_that_the_spread_is_not_known(run: RunFolder) -> None:
    evaluated(run)
    (run.evaluations / "tabletop_basic-000000.safetensors").unlink()
    shown = Page(page(gather(run))).text
    assert "Spread of actionsNot known: the actions of the evaluations" in shown
    assert coverage_body(None).startswith("<p>Not known")


def test_before_a_second_evaluation_there_is_no_spread(run: RunFolder) -> None:
    for path in run.evaluations.iterdir():
        if "000000" not in path.name:
            path.unlink()
    assert "Spread of actions" not in Page(page(gather(run))).text


def test_what_events_count_of_rollouts_is_not_taken_for_it(run: RunFolder) -> None:
    before = gather(run).coverage
    change(run, lambda record: record.update(action_counts=np.eye(SIDE, dtype=int).tolist()))
    after = gather(run).coverage
    assert before is not None
    assert after is not None
    assert after.before.share == before.before.share
    assert after.after.share == before.after.share
