"""Evaluation documents: counts, tables, storage, and which evaluations may be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run_cli
from synthetic_run import CONVENTIONS, TASKS, make_document, make_trials

from vlarl.errors import AssetError, Exit
from vlarl.intervals import wilson
from vlarl.results import (
    SCHEMA,
    below_baseline,
    compare,
    document_text,
    error_rate,
    label,
    protocol_block,
    ranges_text,
    read,
    read_document,
    resampled_difference,
    settings,
    write,
)
from vlarl.results_text import comparison_table, sentence, table
from vlarl.types import EpisodeSpec

Change = Callable[[Any], None]


def half(task: int, init: int) -> bool:
    return (task + init) % 2 == 0


def test_counts_intervals_and_errors_per_task_and_over_all() -> None:
    document = make_document(make_trials(half, 10, errored=frozenset({0, 1})))
    assert document["schema"] == SCHEMA
    assert document["overall"] == {
        "successes": 29,  # of the two that errored one would have succeeded
        "episodes": 60,
        "errors": 2,
        "low": wilson(29, 60).low,
        "high": wilson(29, 60).high,
    }
    assert [(row["task"], row["successes"], row["episodes"], row["errors"]) for row in document["tasks"][:2]] == [
        ("reach_red", 4, 10, 1),
        ("reach_green", 5, 10, 1),
    ]
    assert error_rate(document) == pytest.approx(2 / 60)
    first = document["episodes"][0]
    assert first == {"task": "reach_red", "init": 0, "seed": 0, "success": False, "errored": True, "length": 40}


def test_the_table_shows_counts_with_intervals_and_the_protocol() -> None:
    lines = table(make_document(make_trials(lambda task, init: init < 45, 50), iteration=200)).splitlines()
    assert lines[0] == (
        "tabletop_basic · checkpoint 000200 (sha256 abababab…) · eval init states 0–49 · decoding greedy · seed 7"
    )
    assert lines[2].split() == ["reach_red", "45/50", "90.0%", "[78.6,", "95.7]", "0"]
    assert lines[-2].split()[:5] == ["all", "6", "tasks", "270/300", "90.0%"]
    assert len({len(line) for line in lines[1:-1]}) == 1, "columns are aligned"
    assert "training seed" in lines[-1]


def test_the_table_says_when_actions_are_sampled_scripted_or_random() -> None:
    trials = make_trials(half, 2)
    sampled = make_document(trials, decoding="sampled", temperature=1.5)
    expert = make_document(trials, policy="expert", decoding=None, iteration=None)
    assert "decoding sampled at temperature 1.5" in table(sampled)
    assert "scripted expert · eval init states 0–1 · seed 7" in table(expert)
    assert "training seed" not in table(expert)
    assert (label(sampled), label(expert)) == ("tabletop_basic-000000", "tabletop_basic-expert")


def test_the_protocol_names_tasks_inits_and_conventions() -> None:
    protocol = make_document(make_trials(half, 5, tasks=2))["protocol"]
    assert [task["name"] for task in protocol["tasks"]] == ["reach_red", "reach_green"]
    assert (protocol["inits"], protocol["split"], protocol["episode_seeds"]) == ("0..4", "eval", [0])
    assert (protocol["renderer"], protocol["image_size"], protocol["settle_steps"]) == ("osmesa", 64, 0)


def test_inits_are_listed_per_task_where_they_differ() -> None:
    specs = [EpisodeSpec(0, "eval", 0, 0), EpisodeSpec(0, "eval", 1, 0), EpisodeSpec(1, "eval", 7, 0)]
    protocol = protocol_block(TASKS, specs, suite="s", conventions=CONVENTIONS, renderer=None)
    assert protocol["inits"] == {"reach_red": "0..1", "reach_green": "7"}


@pytest.mark.parametrize(
    ("numbers", "text"), [([0, 1, 2], "0..2"), ([5], "5"), ([0, 1, 4, 6, 7, 7], "0..1, 4, 6..7"), ([], "")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges_text(numbers) == text


def test_written_and_read_back_it_is_the_same(tmp_path: Path) -> None:
    trials = make_trials(half, 4, errored=frozenset({3}))
    document = make_document(trials)
    path = write(document, trials, tmp_path / "eval")
    stored = read(path)
    assert path.name == "tabletop_basic-000000.json"
    assert stored.document == document
    rows = path.with_suffix(".jsonl").read_text().splitlines()
    assert [json.loads(row) for row in rows] == document["episodes"]
    for one, other in zip(trials, stored.trials, strict=True):
        assert (one.spec, one.success, one.errored, one.length) == (
            other.spec,
            other.success,
            other.errored,
            other.length,
        )
        np.testing.assert_array_equal(one.actions, other.actions)
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json", ".jsonl", ".safetensors"]


def test_the_text_is_json_with_a_line_per_episode() -> None:
    document = make_document(make_trials(half, 2))
    text = document_text(document)
    assert json.loads(text) == document
    assert sum('"length":' in line for line in text.splitlines()) == 12


def test_equal_trials_give_equal_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        trials = make_trials(half, 3)
        write(make_document(trials), trials, tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def damage_json(path: Path) -> None:
    path.write_text(path.read_text()[:200])


def damage_schema(path: Path) -> None:
    path.write_text('{"schema": "other/1"}')


def damage_list(path: Path) -> None:
    path.write_text("[]")


def damage_actions(path: Path) -> None:
    arrays = path.with_suffix(".safetensors")
    arrays.write_bytes(arrays.read_bytes()[:100])


def lose_actions(path: Path) -> None:
    path.with_suffix(".safetensors").unlink()


def swap_actions(path: Path) -> None:
    trials = make_trials(half, 1)
    other = write(make_document(trials), trials, path.parent / "other")
    path.with_suffix(".safetensors").write_bytes(other.with_suffix(".safetensors").read_bytes())


@pytest.mark.parametrize(
    "damage", [damage_json, damage_schema, damage_list, damage_actions, lose_actions, swap_actions, Path.unlink]
)
def test_damage_is_one_clear_error(tmp_path: Path, damage: object) -> None:
    trials = make_trials(half, 2)
    path = write(make_document(trials), trials, tmp_path)
    damage(path)  # type: ignore[operator]
    with pytest.raises(AssetError) as caught:
        read(path)
    assert caught.value.code == "R360"
    assert caught.value.exit_status is Exit.ENVIRONMENT
    assert caught.value.hint is not None


def test_a_comparison_pairs_episodes_whatever_their_order() -> None:
    before = make_document(make_trials(lambda task, init: init < 4, 10))
    after_trials = make_trials(lambda task, init: init >= 2, 10)
    after = make_document(after_trials[::-1], iteration=5)
    found = compare(before, after)
    assert (found.overall.gained, found.overall.lost, found.overall.pairs) == (36, 12, 60)
    assert (found.tasks["push_red"].gained, found.tasks["push_red"].lost) == (6, 2)
    assert found.overall.difference == pytest.approx(0.4)
    assert not below_baseline(found)
    assert below_baseline(compare(after, before))
    assert "36 gained, 12 lost" in sentence(found)
    assert "(better)" in sentence(found)
    assert comparison_table(found).splitlines()[-1].split()[:6] == ["all", "6", "tasks", "+36", "-12", "+40.0"]


def test_an_insignificant_drop_is_no_alarm() -> None:
    before = make_document(make_trials(lambda task, init: True, 10))
    after = make_document(make_trials(lambda task, init: (task, init) != (0, 0), 10))
    found = compare(before, after)
    assert found.overall.difference < 0
    assert not below_baseline(found)
    assert "no significant difference" in sentence(found)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (make_document(make_trials(half, 4), renderer="egl"), "renderer: 'osmesa' against 'egl'"),
        (make_document(make_trials(half, 5)), "inits: '0..3' against '0..4'"),
        (make_document(make_trials(half, 4, tasks=5)), "tasks: ['push_green'] against []"),
    ],
)
def test_other_protocols_are_refused_by_name(other: dict, named: str) -> None:
    with pytest.raises(AssetError, match="different protocols") as caught:
        compare(make_document(make_trials(half, 4)), other)
    assert named in caught.value.message
    assert caught.value.code == "R361"


def test_the_bootstrap_draws_init_states_within_each_task_and_pairs_by_episode_not_by_row() -> None:
    before = make_document(make_trials(lambda task, init: task == 0, 40))
    after = make_document(make_trials(lambda task, init: task == 0 or (task == 1 and init % 2 == 0), 40))
    interval = resampled_difference(before, after)
    tasks = len(before["protocol"]["tasks"])
    assert interval.low < 20 / (40 * tasks) < interval.high
    # Only task 1 varies: 40 draws of a half, 1.96 deviations of their sum each way.
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * (40 * 0.25) ** 0.5 / (40 * tasks), rel=0.15)
    assert resampled_difference(before, {**after, "episodes": after["episodes"][::-1]}) == interval


def test_the_command_compare_tells_what_was_gained_and_refuses_other_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = {name: make_trials(rule, 4) for name, rule in (("a", half), ("b", lambda task, init: True))}
    a, b = (str(write(make_document(each), each, tmp_path / name)) for name, each in trials.items())
    status, out, _ = run_cli("compare", a, b, capsys=capsys)
    assert status == Exit.OK
    assert "+50.0 points" in out
    assert "12 gained, 0 lost" in out
    assert "bootstrap over init states: [+" in out
    status, out, _ = run_cli("compare", a, b, "--json", capsys=capsys)
    found = json.loads(out)
    assert (found["overall"]["gained"], found["bootstrap"][0] > 0) == (12, True)
    assert sum(each["gained"] for each in found["tasks"].values()) == 12
    fewer = make_trials(half, 3)
    status, out, err = run_cli("compare", a, str(write(make_document(fewer), fewer, tmp_path / "c")), capsys=capsys)
    assert (status, out) == (Exit.ENVIRONMENT, "")
    assert err.startswith("error[R361]: the two evaluations follow different protocols (inits:")


def test_a_document_that_lacks_episodes_is_refused() -> None:
    whole = make_document(make_trials(half, 4))
    with pytest.raises(AssetError, match="different episodes: 3"):
        compare(whole, {**whole, "episodes": whole["episodes"][3:]})


def test_settings_tell_evaluations_apart(tmp_path: Path) -> None:
    trials = make_trials(half, 3)
    one = make_document(trials)
    assert settings(one) == settings(make_document(make_trials(lambda task, init: True, 3)))
    for change in ({"seed": 8}, {"iteration": 1}, {"renderer": "egl"}, {"digest": "cd"}):
        assert settings(make_document(trials, **change)) != settings(one)  # type: ignore[arg-type]
    assert read_document(write(one, trials, tmp_path)) == one


def without(*place: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        for key in place[:-1]:
            document = document[key]
        del document[place[-1]]

    return change


def with_value(value: object, *place: str | int) -> Change:
    def change(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (without("policy"), "policy"),
        (without("protocol"), "protocol"),
        (without("protocol", "tasks"), "tasks"),
        (without("overall", "low"), "low"),
        (with_value("../../elsewhere", "suite"), "suite"),
        (with_value("a\n", "suite"), "suite"),
        (with_value("/etc", "protocol", "suite"), "suite"),
        (with_value(5, "episodes"), "episodes"),
        (with_value([1], "episodes"), "episodes"),
        (with_value("1", "iteration"), "iteration"),
        (with_value(-1, "iteration"), "iteration"),
        (with_value("<img src=x>", "tasks", 0, "errors"), "errors"),
        (with_value(True, "overall", "successes"), "successes"),
        (with_value("unknown", "episodes", 0, "task"), "its protocol lacks"),
    ],
)
def test_a_document_of_another_shape_is_refused(tmp_path: Path, change: Change, word: str) -> None:
    trials = make_trials(half, 2)
    path = write(make_document(trials), trials, tmp_path)
    document = read_document(path)
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(AssetError, match=word) as caught:
        read_document(path)
    assert caught.value.code == "R360"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": NaN}', '{"schema": "\\ud800"}', "[]", ""])
def test_text_that_is_no_document_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(AssetError) as caught:
        read_document(tmp_path / "a.json")
    assert caught.value.code == "R360"
