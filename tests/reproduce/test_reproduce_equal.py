"""Runs that repeat: what is compared, and the tier that follows from it, never a higher one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from publish_run import CURVE_FIELDS, publish
from vlarl.run import checkpoint, manifest
from vlarl.run.folder import RunFolder, find_runs

Reproduce = Callable[..., Any]
NOT_COMPARED = "not compared"


def test_a_whole_run_is_equal(small: RunFolder, reproduce: Reproduce, tmp_path: Path) -> None:
    answer = reproduce(small)
    assert (answer.status, answer.tier, answer.document["drift"]) == (0, "T4", None)
    assert set(answer.document["tiers"].values()) == {"equal"}
    assert answer.document["compared"]["warm_start"] == "warm start repeated"
    assert answer.document["compared"]["num_evaluations"] == 2
    assert answer.named() == {}
    then, here = answer.document["chain"]["then"], answer.document["chain"]["here"]
    assert then == here == manifest.read(small)["outcome"]["chain"]
    (again,) = find_runs(tmp_path / "again")
    told = manifest.read(again)
    assert (told["parent"], told["reproduction"]["tier"]) == (small.id, "T4")
    page = (again.path / "certificate.md").read_text()
    assert page.startswith(f"# {small.id}: equal\n")
    for fact in (manifest.read(small)["recipe"]["digest"], then, "| T4 |", "| tier | T4:"):
        assert fact in page
    assert [path.name for path in (tmp_path / "again").iterdir()] == [again.id], "the cache of the warm start is gone"


def test_a_warm_start_from_a_cache_is_not_the_whole_run(small: RunFolder, reproduce: Reproduce) -> None:
    answer = reproduce(small, "--set", f"run.cache={small.path.parent.parent / 'cache'}")
    assert (answer.status, answer.tier) == (0, "T3")
    assert "cache" in answer.document["not_whole"]


def test_some_iterations_are_not_the_whole_run(bare: RunFolder, reproduce: Reproduce) -> None:
    answer = reproduce(bare, "--iterations", "1")
    assert (answer.status, answer.tier, answer.document["tiers"]["T4"]) == (0, "T3", NOT_COMPARED)
    assert answer.document["compared"]["iterations"] == [0]
    assert answer.document["chain"]["here"] == chain_of(bare)[0]


def test_from_a_checkpoint_on(small: RunFolder, reproduce: Reproduce, tmp_path: Path) -> None:
    answer = reproduce(small, "--from-checkpoint", "2")
    assert (answer.status, answer.tier) == (0, "T3")
    assert answer.document["compared"]["iterations"] == [2]
    assert answer.document["chain"]["here"] == chain_of(small)[2]
    (again,) = find_runs(tmp_path / "again")
    assert chain_of(again) == chain_of(small), "the history before the checkpoint is that of the run"


@pytest.mark.parametrize(
    ("stage", "tier", "equal"),
    [("physics", "T1", {"T0", "T1"}), ("pixels", "T2", {"T0", "T1", "T2"}), ("update", "T3", {"T0", "T3"})],
)
def test_one_stage(
    small: RunFolder, reproduce: Reproduce, tmp_path: Path, stage: str, tier: str, equal: set[str]
) -> None:
    answer = reproduce(small, "--stage", stage)
    assert (answer.status, answer.tier) == (0, tier)
    assert {name for name, state in answer.document["tiers"].items() if state == "equal"} == equal
    assert answer.document["compared"]["iterations"] == ([0, 2] if stage == "update" else [0, 1, 2])
    assert answer.named() == {}
    page = tmp_path / "again" / f"{small.id}-{stage}.md"
    assert page.read_text().startswith(f"# {small.id}: equal\n")
    assert find_runs(tmp_path / "again") == []


def test_a_stage_from_a_checkpoint_on(small: RunFolder, reproduce: Reproduce) -> None:
    for stage in ("pixels", "update"):
        answer = reproduce(small, "--stage", stage, "--from-checkpoint", "2")
        assert (answer.status, answer.document["compared"]["iterations"]) == (0, [2])


def test_a_run_that_did_not_end_is_not_whole(
    bare: RunFolder, copy_of: Callable[[RunFolder], RunFolder], reproduce: Reproduce
) -> None:
    """The run was killed after its first iteration."""
    cut = copy_of(bare)
    lines = cut.events.read_text().splitlines(keepends=True)
    cut.events.write_text("".join(lines[:2]))
    cut.manifest.write_text(json.dumps({**manifest.read(cut), "outcome": None, "status": "running"}))
    assert len(chain_of(cut)) == 1
    answer = reproduce(cut)
    assert (answer.status, answer.tier) == (0, "T3")
    assert "1 of 2 iterations" in answer.document["not_whole"]


@pytest.mark.parametrize("reference", [False, True])
def test_a_published_run_is_held_to_its_chain(
    bare: RunFolder, reproduce: Reproduce, tmp_path: Path, reference: bool
) -> None:
    publish(bare.path, tmp_path / "published", reference=reference)
    told = json.loads((tmp_path / "published" / "manifest.json").read_text())
    assert "host" not in told["machine"]
    assert str(tmp_path.parent) not in (tmp_path / "published" / "recipe.resolved.yaml").read_text()
    answer = reproduce(tmp_path / "published")
    assert (answer.status, answer.tier, answer.document["published"]) == (0, "T4", True)
    assert answer.document["unrecorded"] == []


def test_without_its_evaluations_a_published_run_is_not_whole(
    bare: RunFolder, reproduce: Reproduce, tmp_path: Path
) -> None:
    publish(bare.path, tmp_path / "published")
    (tmp_path / "published" / "tabletop_basic-000000.json").unlink()
    answer = reproduce(tmp_path / "published")
    assert (answer.status, answer.tier) == (0, "T3")
    assert "no record of the run's evaluations tabletop_basic-000000.json" in answer.document["not_whole"]


def test_an_older_published_run_says_what_it_lacks(
    bare: RunFolder, reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publish_run.CURVE_FIELDS", tuple(name for name in CURVE_FIELDS if name != "digests"))
    folder = tmp_path / "published"
    publish(bare.path, folder)
    told = json.loads((folder / "manifest.json").read_text())
    del told["start"], told["code"]["files"], told["machine"]["cpu_model"]
    told["assets"], told["code"]["commit"] = [], "0" * 40
    (folder / "manifest.json").write_text(json.dumps(told))
    answer = reproduce(folder, "--iterations", "1")
    assert (answer.status, answer.tier) == (0, "T3")
    assert len(answer.document["unrecorded"]) == 5
    assert answer.named() == {("code", "commit"): "everything"}
    lines = (folder / "chain.jsonl").read_text().splitlines()
    first = {**json.loads(lines[0]), "chain": "f" * 64}
    (folder / "chain.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    answer = reproduce(folder, "--iterations", "1")
    assert (answer.status, answer.tier, answer.drift["stage"]) == (5, "T0", "unknown")
    assert answer.drift["iteration"] == 0


def test_the_published_quickstart_can_be_held_to_its_recipe() -> None:
    from vlarl.reproduce_reference import check_recipe, read_reference, repeated_recipe

    folder = Path(__file__).parents[2] / "docs" / "results" / "quickstart-seed7"
    reference = read_reference(str(folder), Path("runs"))
    loaded = repeated_recipe(reference, ())
    checked = check_recipe(reference, loaded)
    assert checked.authentic
    assert loaded.digest == reference.recipe_digest or checked.newer_fields
    assert len(reference.links) == loaded.recipe.train.iterations == 40


def chain_of(run: RunFolder) -> list[str]:
    from vlarl.run.events import read_events

    return [event["chain"] for event in read_events(run.events) if event["kind"] == "iteration"]


def test_the_small_run_keeps_what_the_tests_need(small: RunFolder) -> None:
    assert checkpoint.iterations(small.checkpoints) == [2, 3]
    assert sorted(path.stem for path in small.batches.glob("*")) == ["000000", "000002"]
