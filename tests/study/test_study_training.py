"""What a study keeps of how its runs trained, and how its page draws that."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from made_study import made_result
from test_study_page import part, shown, write_results

from vlarl.report_study_training import mean_line
from vlarl.results_study import read_results, runs_of
from vlarl.results_study import write_results as write_study_results
from vlarl.results_training import LEARNING_CURVES, Training, training_of


def record(iteration: int, **fields: Any) -> dict[str, Any]:
    return {"kind": "iteration", "iteration": iteration, "env_steps": 10 * (iteration + 1), **fields}


RECORDS = [
    record(
        0,
        stats={"policy_updated": False, "approx_kl": 0.0, "explained_variance": -0.25},
        reward={"success": 0.123456, "process": float("nan")},
        ledger={"total_seconds": 10.0, "infer_seconds": 4.0},
        curriculum={"probability": {"red": [0.25, 0.25], "green": [0.5]}, "success": {"red": [0.0, 0.5], "green": [1]}},
    ),
    record(
        1,
        stats={"policy_updated": True, "approx_kl": 0.0123456, "explained_variance": 0.5},
        reward={"success": 0.5},
        ledger={"total_seconds": 20.0, "infer_seconds": 5.0},
        curriculum={"probability": {"red": [0.1, 0.6], "green": [0.3]}, "success": {"red": [0.5, 0.5], "green": [0]}},
    ),
]


def training(kl: tuple[float | None, ...], **fields: Any) -> Training:
    known: dict[str, Any] = {
        "env_steps": tuple(100 * (at + 1) for at in range(len(kl))),
        "stats": {"approx_kl": kl},
        "rewards": {"success": tuple(0.5 for _ in kl)},
        "seconds": {"infer": 30.0, "update": 60.0},
        "probabilities": {},
        "success": {},
    }
    return Training(**{**known, **fields})


def test_an_entry_an_iteration_rounded_and_none_where_there_is_no_number() -> None:
    found = training_of(RECORDS)
    assert found.env_steps == (10, 20)
    assert found.stats["approx_kl"] == (None, 0.01235), (
        "while only the critic was trained there is no policy to tell of"
    )
    assert found.stats["explained_variance"] == (-0.25, 0.5)
    assert found.stats["entropy"] == (None, None)
    assert found.rewards == {"success": (0.1235, 0.5), "process": (None, None)}
    assert found.probabilities == {"red": (0.5, 0.7), "green": (0.5, 0.3)}
    assert found.success == {"red": (0.25, 0.5), "green": (1.0, 0.0)}
    assert (found.seconds["total"], found.seconds["infer"], found.seconds["other"]) == (30.0, 9.0, 21.0)
    assert set(found.stats) == set(LEARNING_CURVES)


def test_a_run_without_iterations_or_with_a_fixed_curriculum() -> None:
    assert training_of([]).env_steps == ()
    assert training_of([record(0)]).probabilities == {}


def test_results_keep_it(tmp_path: Path) -> None:
    kept = training_of(RECORDS)
    write_results(tmp_path, [])
    document = read_results(tmp_path / "results.json")
    result = made_result("base", 1, [0.1, 0.2], {"a": "1"}, training=kept)
    written = {**document, "name": "[\n1]", "runs": [asdict(result)]}
    write_study_results(written, tmp_path / "results.json")
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(written))
    assert '"explained_variance": [-0.25, 0.5],' in text, "a line of numbers, not one each"
    assert runs_of(read_results(tmp_path / "results.json"))[0].training == kept


def test_a_line_is_the_mean_of_seeds_as_far_as_all_went() -> None:
    runs = [training((0.1, 0.3, None, 0.7)), training((0.3, None, None))]
    line = mean_line("base", "k0", runs, lambda one: one.stats["approx_kl"])
    assert list(line.x) == [100.0, 200.0, 300.0]
    assert list(line.y) == [pytest.approx(0.2), pytest.approx(0.3), None]


def test_a_long_line_is_drawn_by_blocks() -> None:
    line = mean_line("base", "k0", [training(tuple(float(at) for at in range(90)))], lambda one: one.stats["approx_kl"])
    assert len(line.y) == 30
    assert list(line.y[:2]) == [1.0, 4.0]
    assert list(line.x[:2]) == [200.0, 500.0]


def test_the_page_draws_it(tmp_path: Path) -> None:
    learnt = {"probabilities": {"lift<b>": (0.2, 0.4)}, "success": {"lift<b>": (0.5, 0.1)}}
    other = {"probabilities": {"lift<b>": (0.4, 0.8)}, "success": {"lift<b>": (0.5, 0.3)}}
    rows = [
        ("base", 1, training((0.1, 0.2), **learnt)),
        ("base", 2, training((0.1, 0.4), **other)),
        ("one", 1, training((0.1, 0.2))),
    ]
    found = [made_result(cell, seed, [0.1, 0.5], {"a": "10"}, training=kept) for cell, seed, kept in rows]
    page = shown(write_results(tmp_path, found))
    learning = part(page, "Learning")
    assert "<h3>Approximate KL</h3>" in learning
    assert "Entropy" not in learning, "of what no run has there is no chart"
    assert [f'class="k{at} stroke"' in learning for at in range(3)] == [True, True, False]
    curricula = part(page, "Curriculum")
    assert curricula.count("<summary>") == 1
    assert "lift&lt;b&gt;, after iteration 2: 60.0%, success 20%" in curricula
    time = part(page, "Time")
    assert "base <span" in time
    assert "1 min 30 s a run" in time
    assert "update: 66.7%" in time


def test_results_of_an_earlier_version_have_a_page_without_it(tmp_path: Path) -> None:
    page = shown(write_results(tmp_path, [made_result("base", 1, [0.1, 0.5], {"a": "10"})]))
    assert "Learning" not in page
    assert "Curriculum" not in page
