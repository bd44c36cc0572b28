"""Replaying an evaluated episode of the embedded suite: as recorded, or drift."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import make_run

from vlarl.errors import AssetError, DriftError, UsageError
from vlarl.evaluate import evaluate
from vlarl.replay import evaluations, replay, replay_json, replay_text
from vlarl.results import Stored, document_text, read, write
from vlarl.run.folder import RunFolder


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """The expert on two tasks that are not the first of their suite."""
    folder = tmp_path_factory.mktemp("evaluation")
    outcome = evaluate(
        "tabletop_basic", policy="expert", tasks=["lift_red", "push_green"], episodes=2, out=folder, num_workers=1
    )
    assert outcome.path is not None
    return read(outcome.path)


@pytest.fixture
def run(tmp_path: Path, stored: Stored) -> RunFolder:
    made = make_run(tmp_path, iterations=3, episodes=1)
    for path in made.evaluations.iterdir():
        path.unlink()
    write(stored.document, stored.trials, made.evaluations, "tabletop_basic-000003")
    return made


def test_an_episode_replays_as_recorded(run: RunFolder, stored: Stored) -> None:
    done = replay(run.path, "push_green:1")
    trial = next(t for t in stored.trials if stored.task_name(t) == "push_green" and t.spec.init == 1)
    assert (done.success, done.length, done.init) == (trial.success, trial.length, 1)
    assert done.video == run.videos / "tabletop_basic-000003-push_green-001.mp4"
    assert done.video.stat().st_size > 1000
    assert "push_green:1 (scripted expert): success" in replay_text(done)
    assert replay_json(done)["video"] == str(done.video)


def test_a_document_and_a_file_can_be_named(run: RunFolder, tmp_path: Path, stored: Stored) -> None:
    done = replay(run.id, "lift_red:0", evaluation=stored.path, out=tmp_path / "x" / "a.gif", runs=tmp_path)
    assert (done.video, done.evaluation) == (tmp_path / "x" / "a.gif", stored.path)


def test_a_newer_evaluation_without_the_episode_is_passed_over(run: RunFolder, stored: Stored) -> None:
    part = [index for index, trial in enumerate(stored.trials) if stored.task_name(trial) == "push_green"]
    episodes = [stored.document["episodes"][index] for index in part]
    newer = {**stored.document, "iteration": 9, "episodes": episodes}
    write(newer, [stored.trials[index] for index in part], run.evaluations, "tabletop_basic-000009")
    assert replay(run.path, "lift_red:0").evaluation.stem == "tabletop_basic-000003"
    assert replay(run.path, "push_green:0").evaluation.stem == "tabletop_basic-000009"


def test_another_outcome_is_drift_and_the_video_shows_it(run: RunFolder, stored: Stored) -> None:
    still = [replace(trial, actions=np.zeros_like(trial.actions)) for trial in stored.trials]
    write(stored.document, still, run.evaluations, "tabletop_basic-000003")
    with pytest.raises(DriftError) as caught:
        replay(run.path, "lift_red:0")
    assert caught.value.code == "D610"
    assert caught.value.kept is not None
    assert caught.value.kept.endswith(".mp4")
    assert (run.videos / "tabletop_basic-000003-lift_red-000.mp4").is_file()


@pytest.mark.parametrize(
    ("episode", "kind", "hint"),
    [
        ("lift_red", UsageError, "for example `lift_red:0`"),
        ("lift_red:first", UsageError, "TASK:INIT"),
        ("lift_rde:0", AssetError, "did you mean `lift_red:0`?"),
        ("lift_red:7", AssetError, "it holds 0..1"),
    ],
)
def test_an_episode_that_is_not_there(run: RunFolder, episode: str, kind: type[Exception], hint: str) -> None:
    with pytest.raises(kind) as caught:
        replay(run.path, episode)
    assert hint in caught.value.hint  # type: ignore[attr-defined]


def test_a_suite_of_an_unknown_kind_is_named(run: RunFolder, stored: Stored) -> None:
    path = run.evaluations / "tabletop_basic-000003.json"
    path.write_text(document_text({**stored.document, "suite_spec": {"kind": "moonbase"}}))
    with pytest.raises(AssetError, match="'moonbase'"):
        replay(run.path, "lift_red:0")


def test_the_newest_evaluation_is_the_one_of_the_last_iteration(tmp_path: Path) -> None:
    made = make_run(tmp_path, iterations=9, episodes=1)
    own = made.evaluations / "tabletop_basic-000009.json"
    (made.evaluations / "tabletop_basic-000009-sabc.json").write_bytes(own.read_bytes())
    assert evaluations(made)[0] == own
    for path in made.evaluations.iterdir():
        path.unlink()
    with pytest.raises(AssetError, match="no evaluation") as alone:
        evaluations(made)
    assert made.id in str(alone.value.hint)
    other = made.path.with_name("other-20260101T000000Z-abcdef")
    (other / "eval").mkdir(parents=True)
    (other / "manifest.json").write_text("{}")
    (other / "eval/tabletop_basic-000003.json").write_text("{}")
    with pytest.raises(AssetError, match="no evaluation") as beside:
        evaluations(made)
    assert "or name other-20260101T000000Z-abcdef" in str(beside.value.hint)
