"""What differs is named: the iteration, the stage, and the file, package or asset that did it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlarl.run import manifest
from vlarl.run.folder import RunFolder, find_runs

Reproduce = Callable[..., Any]
Copy = Callable[[RunFolder], RunFolder]
UPPER, TWICE = "clamp(1.0 - clip, 1.0 + clip)", "clamp(1.0 - clip, 1.0 + 2.0 * clip)"
GREY, GREEN = 'pos="0 0 0.055" rgba="0.75 0.75 0.78 1"', 'pos="0 0 0.055" rgba="0.05 0.75 0.78 1"'
LIGHT, STICKY = 'axis="0 1 0" damping="22"', 'axis="0 1 0" damping="44"'
SCENE = "suites/tabletop/scenes.py"


def test_a_changed_line_of_ppo(small: RunFolder, reproduce_with: Reproduce, tmp_path: Path) -> None:
    answer = reproduce_with("ppo.py", UPPER, TWICE, small)
    assert (answer.status, answer.tier) == (5, "T2")
    assert (answer.drift["iteration"], answer.drift["stage"]) == (1, "update"), "iteration 0 trains the critic only"
    assert answer.drift["differing"] == ["update"]
    assert answer.document["tiers"] == {
        "T0": "equal",
        "T1": "equal",
        "T2": "equal",
        "T3": "differs",
        "T4": "differs",
    }
    assert answer.named() == {("code", "ppo.py"): "updates"}
    assert answer.document["compared"]["num_equal"] == 1
    (again,) = find_runs(tmp_path / "again")
    told = manifest.read(again)
    assert (told["status"], told["exit_code"], told["outcome"]["error"]) == ("failed", 5, "D630")
    assert told["reproduction"]["tier"] == "T2"
    assert "iteration 2/3" in answer.errors
    assert "iteration 3/3" not in answer.errors, "it stops at the first drift"


def test_the_same_line_from_a_stored_batch(small: RunFolder, reproduce_with: Reproduce) -> None:
    answer = reproduce_with("ppo.py", UPPER, TWICE, small, "--stage", "update", "--from-checkpoint", "2")
    assert (answer.status, answer.tier) == (5, "T0")
    assert (answer.drift["iteration"], answer.drift["stage"]) == (2, "update")
    assert answer.document["tiers"]["T3"] == "differs"
    assert answer.document["tiers"]["T1"] == "not compared", "an update says nothing about physics"


def test_a_changed_colour(bare: RunFolder, reproduce_with: Reproduce) -> None:
    answer = reproduce_with(SCENE, GREY, GREEN, bare, "--iterations", "1")
    assert (answer.status, answer.tier) == (5, "T1")
    assert (answer.drift["iteration"], answer.drift["stage"]) == (0, "pixels")
    assert answer.named() == {
        ("asset", "suite tabletop_basic/pair.xml"): "physics and pixels",
        ("code", SCENE): "physics and pixels",
    }


@pytest.mark.slow
def test_a_changed_colour_in_recorded_actions(bare: RunFolder, reproduce_with: Reproduce, tmp_path: Path) -> None:
    answer = reproduce_with(SCENE, GREY, GREEN, bare, "--stage", "physics")
    assert (answer.status, answer.tier) == (0, "T1"), "a colour moves nothing"
    assert ("asset", "suite tabletop_basic/pair.xml") in answer.named()


def test_changed_friction_shows_in_the_warm_start(small: RunFolder, reproduce_with: Reproduce) -> None:
    answer = reproduce_with(SCENE, LIGHT, STICKY, small)
    assert (answer.status, answer.tier) == (5, "T0")
    assert (answer.drift["iteration"], answer.drift["stage"]) == (None, "warm start")
    assert "physics" in answer.drift["note"], "because the demonstrations were recorded otherwise"
    assert ("asset", "suite tabletop_basic/pair.xml") in answer.named()


@pytest.mark.slow
def test_changed_friction_in_a_checkpoint(small: RunFolder, reproduce_with: Reproduce) -> None:
    """The episodes under way are replayed when a checkpoint is restored."""
    answer = reproduce_with(SCENE, LIGHT, STICKY, small, "--from-checkpoint", "2")
    assert (answer.status, answer.tier) == (5, "T0")
    assert (answer.drift["iteration"], answer.drift["stage"]) == (2, "physics")


def test_a_policy_that_decides_otherwise(bare: RunFolder, reproduce_with: Reproduce) -> None:
    """Other actions give other states and pixels; replaying the recorded ones shows that those are not the cause."""
    answer = reproduce_with("rollout.py", 'seed, "action", pool', 'seed, "acted", pool', bare)
    assert (answer.status, answer.tier) == (5, "T2")
    assert (answer.drift["iteration"], answer.drift["stage"]) == (0, "actions")
    assert answer.named() == {("code", "rollout.py"): "actions"}


def test_without_episodes_a_rollout_is_named_as_a_whole(
    bare: RunFolder, copy_of: Copy, reproduce: Reproduce, tmp_path: Path
) -> None:
    """The run's actions were others, and no episodes were kept to replay: whose fault it is stays open."""
    run = copy_of(bare)
    for path in run.episodes.iterdir():
        path.unlink()
    rewrite_chain(run, 0, actions="a" * 64, pixels="b" * 64)
    answer = reproduce(run, "--iterations", "1")
    assert (answer.status, answer.tier, answer.drift["stage"]) == (5, "T0", "rollout")
    assert "no episodes" in answer.drift["note"]


def test_another_package(bare: RunFolder, copy_of: Copy, reproduce: Reproduce) -> None:
    run = copy_of(bare)
    told = manifest.read(run)
    told["packages"]["versions"] |= {"mujoco": "3.1.5", "typer": "0.0.1"}
    run.manifest.write_text(json.dumps(told))
    answer = reproduce(run, "--stage", "physics", "--iterations", "1")
    assert answer.status == 0, "a difference is named, and nothing came of it"
    assert answer.named() == {("package", "mujoco"): "physics and pixels"}
    assert "mujoco: 3.1.5 then" in answer.errors
    (row,) = (one for one in answer.document["differences"] if one["name"] == "typer")
    assert not row["matters"]


def test_another_evaluation(bare: RunFolder, copy_of: Copy, reproduce: Reproduce) -> None:
    run = copy_of(bare)
    path = run.evaluations / "tabletop_basic-000002.json"
    document = json.loads(path.read_text())
    document["episodes"][0]["length"] += 1
    path.write_text(json.dumps(document))
    answer = reproduce(run)
    assert (answer.status, answer.tier) == (5, "T3")
    assert (answer.drift["iteration"], answer.drift["stage"]) == (2, "evaluation")


def test_an_edited_recipe_is_told_before_anything_runs(
    small: RunFolder, copy_of: Copy, reproduce: Reproduce, tmp_path: Path
) -> None:
    run = copy_of(small)
    text = run.resolved_recipe.read_text()
    assert "  clip: 0.05\n" in text
    run.resolved_recipe.write_text(text.replace("  clip: 0.05\n", "  clip: 0.06\n"))
    answer = reproduce(run)
    assert (answer.status, answer.tier, answer.drift["stage"]) == (5, "none", "recipe")
    assert answer.document["tiers"]["T0"] == "differs"
    assert find_runs(tmp_path / "again") == []


def test_other_weights_at_the_start(bare: RunFolder, copy_of: Copy, reproduce: Reproduce) -> None:
    run = copy_of(bare)
    rewrite_chain(run, None)
    answer = reproduce(run)
    assert (answer.status, answer.tier) == (5, "T0")
    assert (answer.drift["iteration"], answer.drift["stage"]) == (None, "warm start")
    assert "--instructions" not in answer.errors, "it has the same processor and settings"


@pytest.mark.parametrize(
    ("place", "why"),
    [("machine", "this is another processor"), ("environment", "the run was recorded with kernels of AVX2")],
)
def test_under_other_kernels_the_option_is_named_before_and_after(
    bare: RunFolder, copy_of: Copy, reproduce: Reproduce, place: str, why: str
) -> None:
    run = copy_of(bare)
    rewrite_chain(run, None)
    told = manifest.read(run)
    if place == "machine":
        told["machine"]["cpu_model"]["family_model_stepping"] = "6/1/1"
    else:
        told["environment"]["ATEN_CPU_CAPABILITY"] = "avx2"
    run.manifest.write_text(json.dumps(told))
    answer = reproduce(run)
    assert answer.status == 5
    before, after = (text for text in answer.errors.splitlines() if "`vlarl --instructions avx2 reproduce RUN`" in text)
    assert before == after
    assert why in before


def rewrite_chain(run: RunFolder, iteration: int | None, **digests: str) -> None:
    """Another record that is as whole as the run's own; None: one that begins at other weights."""
    from vlarl.digest import GENESIS, chain_link
    from vlarl.run.events import read_events

    told = manifest.read(run)
    start = {name: value for name, value in told["start"].items() if name != "chain"}
    start |= {"parameters": "c" * 64} if iteration is None else {}
    chain = chain_link(GENESIS, start)
    told["start"] = {**start, "chain": chain}
    records = read_events(run.events)
    for record in records:
        if record["kind"] == "iteration":
            record["digests"] |= digests if record["iteration"] == iteration else {}
            chain = record["chain"] = chain_link(chain, {"iteration": record["iteration"], **record["digests"]})
    told["outcome"]["chain"] = chain
    run.events.write_text("".join(json.dumps(record) + "\n" for record in records))
    run.manifest.write_text(json.dumps(told))
