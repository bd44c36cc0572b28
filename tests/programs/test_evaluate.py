"""`vlarl eval` on the embedded suite: checkpoints, baselines, what is written and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from synthetic_run import make_run

from vlarl.assembly import build_policy, build_suite
from vlarl.errors import AssetError, Exit, UsageError
from vlarl.evaluate import (
    DEFAULT_EPISODES,
    EvaluationOutcome,
    episodes_of,
    evaluate,
    outcome_json,
    outcome_notes,
    outcome_text,
)
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.learning import KeepSpec
from vlarl.recipe.specs.policies import TinySpec
from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.recipe.write import resolved_yaml
from vlarl.registry import build, suite_spec_for
from vlarl.results import read, read_document
from vlarl.run import checkpoint
from vlarl.run.folder import RunFolder
from vlarl.suites.baselines import BaselineJob, run_baseline, run_job
from vlarl.types import EpisodeSpec, Split

TASKS = ["lift_red", "push_red"]
SUITE = TabletopSpec(num_envs=4, num_groups=2, num_workers=1, image_size=32, tasks=TASKS)
RECIPE = Recipe(
    name="small", seed=3, suite=SUITE, policy=TinySpec(hidden_size=32, num_layers=1, num_heads=2, num_keypoints=4)
)


def save_checkpoint(run: RunFolder, recipe: Recipe, iteration: int = 5) -> None:
    """A run of an untrained policy, as training would leave it."""
    policy = build_policy(recipe, build_suite(recipe))
    state = {"policy": policy.identity, "recipe": recipe.model_dump_json()}  # type: ignore[attr-defined]
    checkpoint.save(run.checkpoints, iteration, {"policy": dict(policy.state_dict())}, state, KeepSpec())
    run.resolved_recipe.write_text(resolved_yaml(recipe))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    save_checkpoint(make_run(folder, iterations=1, episodes=1, name="small"), RECIPE)
    return folder


@pytest.fixture(scope="module")
def sampled(runs: Path) -> EvaluationOutcome:
    return evaluate("tabletop_basic", tasks=TASKS, episodes=2, decoding="sampled", temperature=1.5, runs=runs)


def test_the_newest_run_of_the_suite_is_taken_and_named(runs: Path, sampled: EvaluationOutcome) -> None:
    [run] = runs.iterdir()
    assert sampled.run == run.name
    assert sampled.chosen is not None
    assert run.name in sampled.chosen
    assert sampled.chosen in outcome_notes(sampled)
    document = sampled.document
    assert (document["iteration"], document["decoding"], document["temperature"], document["seed"]) == (
        5,
        "sampled",
        1.5,
        3,
    )
    assert document["run"] == run.name
    assert len(document["digest"]) == 64
    assert [row["task"] for row in document["tasks"]] == TASKS
    assert document["overall"]["episodes"] == 4
    assert document["protocol"]["image_size"] == 32
    assert "decoding sampled at temperature 1.5" in outcome_text(sampled)


def test_the_second_held_out_set_is_another_evaluation(tmp_path: Path) -> None:
    def expert(split: Split) -> EvaluationOutcome:
        return evaluate("tabletop_basic", policy="expert", tasks=["reach_red"], episodes=2, split=split, out=tmp_path)

    own, sampled = expert("eval"), expert("sampled")
    assert own.path is not None
    assert sampled.path is not None
    assert own.path != sampled.path
    assert (own.document["protocol"]["split"], sampled.document["protocol"]["split"]) == ("eval", "sampled")
    assert own.document["protocol_digest"] != sampled.document["protocol_digest"]
    trials = read(sampled.path).trials
    assert [trial.spec.split for trial in trials] == ["sampled"] * 2
    assert not np.array_equal(trials[0].actions, read(own.path).trials[0].actions)
    assert expert("sampled").read_back == 2


def test_it_is_written_beside_the_run_and_reads_back(runs: Path, sampled: EvaluationOutcome) -> None:
    [run] = runs.iterdir()
    assert sampled.path == run / "eval" / "tabletop_basic-000005.json"
    assert read(sampled.path).document == sampled.document
    assert outcome_json(sampled)["path"] == str(sampled.path)
    json.dumps(outcome_json(sampled))


def test_a_named_checkpoint_gives_the_same_episodes_and_another_setting_its_own_file(
    runs: Path, sampled: EvaluationOutcome
) -> None:
    [run] = runs.iterdir()
    seen: list[tuple[int, int]] = []
    again = evaluate(
        "tabletop_basic",
        checkpoint=str(run / "checkpoints" / "000005"),
        tasks=TASKS,
        episodes=2,
        decoding="sampled",
        temperature=1.5,
        fresh=True,
        progress=lambda done, total, trial: seen.append((done, total)),
    )
    assert again.document == sampled.document
    assert again.path == sampled.path
    assert again.chosen is None
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    greedy = evaluate("tabletop_basic", checkpoint=run.name, tasks=["push_red"], episodes=1, runs=runs)
    assert greedy.path is not None
    assert greedy.path.name.startswith("tabletop_basic-000005-s")
    assert read_document(run / "eval" / "tabletop_basic-000005.json") == sampled.document
    assert (greedy.document["decoding"], greedy.document["temperature"]) == ("greedy", None)


def test_the_whole_suite_is_evaluated_unless_tasks_are_named(runs: Path) -> None:
    """The name of a suite above a number means all of it, whichever tasks the run was trained on."""
    [run] = runs.iterdir()
    whole = evaluate("tabletop_basic", checkpoint=str(run), episodes=1, out=run / "elsewhere")
    assert len(whole.document["tasks"]) == 6
    assert whole.path == run / "elsewhere" / "tabletop_basic-000005.json"


def test_without_a_fitting_run_there_is_one_error_with_a_way_out(runs: Path, tmp_path: Path) -> None:
    for suite, folder in (("tabletop_10", runs), ("tabletop_basic", tmp_path)):
        with pytest.raises(AssetError) as caught:
            evaluate(suite, runs=folder)
        assert caught.value.exit_status is Exit.ENVIRONMENT
        assert f"vlarl eval --suite {suite} --policy expert" in str(caught.value.hint)


def test_actions_that_mean_something_else_are_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vlarl.assembly

    other = SimpleNamespace(policy=SimpleNamespace(action_convention="joint angles"), recipe=RECIPE)
    monkeypatch.setattr(vlarl.assembly, "load_policy", lambda source: other)
    with pytest.raises(AssetError, match="joint angles"):
        evaluate("tabletop_basic", runs=runs)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"policy": "expert", "checkpoint": "last"}, "U210"),
        ({"temperature": 1.0}, "U211"),
        ({"temperature": 0.0, "decoding": "sampled"}, "U211"),
        ({"episodes": 0}, "U213"),
        ({"episodes": 10**9, "policy": "random"}, "U213"),
        ({"policy": "expert", "tasks": ["lift_rde"]}, "U212"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate("tabletop_basic", **options)
    assert (caught.value.code, caught.value.exit_status) == (code, Exit.USAGE)
    assert caught.value.hint is not None


def test_an_unknown_suite_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="tabletop_bsic"):
        evaluate("tabletop_bsic", policy="expert")


def test_tasks_are_chosen_without_renumbering_them() -> None:
    suite = build(suite_spec_for("tabletop_basic"))
    names = [task.name for task in suite.tasks()]
    chosen = episodes_of(suite, ["push_green", "lift_red"], 2)
    assert [(names[spec.task], spec.init) for spec in chosen] == [
        ("lift_red", 0),
        ("lift_red", 1),
        ("push_green", 0),
        ("push_green", 1),
    ]
    assert len(episodes_of(suite, None, DEFAULT_EPISODES)) == 6 * DEFAULT_EPISODES


def test_the_expert_is_better_than_chance_and_nothing_is_written_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = {
        policy: evaluate("tabletop_basic", policy=policy, tasks=TASKS, episodes=2, num_workers=1)  # type: ignore[arg-type]
        for policy in ("expert", "random")
    }
    assert found["expert"].document["overall"]["successes"] == 4
    assert found["random"].document["overall"]["successes"] < 4
    assert found["expert"].document["iteration"] is None
    assert (found["expert"].path, found["expert"].exit_status) == (None, Exit.OK)
    assert not list(tmp_path.rglob("*.json*"))


SPECS = tuple(EpisodeSpec(task, "eval", init, 0) for init in range(2) for task in (3, 0))


def facts(trials: Any) -> list[tuple[Any, ...]]:
    return [(t.spec, t.success, t.errored, t.length, t.actions.tobytes()) for t in trials]


def test_baselines_do_not_depend_on_processes_or_neighbours() -> None:
    suite = TabletopSpec()
    for baseline in ("expert", "random"):
        alone = [
            trial
            for spec in SPECS
            for trial in run_job(BaselineJob(suite=suite, baseline=baseline, specs=(spec,), seed=1))  # type: ignore[arg-type]
        ]
        together = run_baseline(baseline, suite, SPECS, num_workers=2, seed=1)  # type: ignore[arg-type]
        assert facts(together) == facts(alone)
        assert [trial.spec for trial in together] == list(SPECS)


def test_random_actions_follow_the_seed_and_the_task_whatever_its_position() -> None:
    def first(seed: int, suite: TabletopSpec, task: int) -> np.ndarray:
        job = BaselineJob(suite=suite, baseline="random", specs=(EpisodeSpec(task, "eval", 0, 0),), seed=seed)
        return next(run_job(job)).actions

    whole, part = TabletopSpec(), TabletopSpec(tasks=["lift_red"])
    np.testing.assert_array_equal(first(1, whole, 2), first(1, part, 0))
    assert not np.array_equal(first(1, whole, 2), first(2, whole, 2))
    assert np.abs(first(1, whole, 2)).max() <= 1.0


def test_a_simulator_that_raises_costs_one_episode_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import vlarl.suites.baselines as baselines

    act: Callable[..., Any] = baselines._actor

    def failing(suite: Any, simulation: Any, spec: EpisodeSpec, job: BaselineJob) -> Any:
        if spec == SPECS[0]:
            raise ArithmeticError("planted")
        return act(suite, simulation, spec, job)

    monkeypatch.setattr(baselines, "_actor", failing)
    trials = list(run_job(BaselineJob(suite=TabletopSpec(), baseline="expert", specs=SPECS, seed=0)))
    assert [(t.errored, t.success) for t in trials] == [(True, False), (False, True), (False, True), (False, True)]
    assert trials[0].actions.shape == (0, 7)


def test_many_errors_make_the_exit_status_a_failure(sampled: EvaluationOutcome) -> None:
    overall = {**sampled.document["overall"], "errors": 1}
    spoilt = EvaluationOutcome(document={**sampled.document, "overall": overall}, path=None, run=None, chosen=None)
    assert sampled.exit_status is Exit.OK
    assert spoilt.exit_status is Exit.RUN_FAILED
    assert any("1 of 4 episodes errored" in note for note in outcome_notes(spoilt))
