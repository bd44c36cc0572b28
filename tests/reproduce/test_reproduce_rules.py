"""The rules behind a certificate, without a run: tiers, differences, the order of stages."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from vlarl.reproduce_certificate import Certificate, Compared, certificate_text
from vlarl.reproduce_chain import STAGES, TIERS, Drift, drift_between, evaluation_drift, start_drift
from vlarl.reproduce_here import _SETTINGS, differences, unrecorded
from vlarl.reproduce_reference import Link, RecipeCheck
from vlarl.reproduce_stages import _ended_otherwise
from vlarl.run.machine import ENVIRONMENT_VARIABLES
from vlarl.types import Episode, EpisodeSpec

MANIFEST: dict[str, Any] = {
    "run": "small-1",
    "started": "2026-11-25T00:00:00+00:00",
    "vlarl_version": "0.1.0",
    "recipe": {"digest": "a" * 64},
    "code": {
        "commit": "c" * 40,
        "dirty": False,
        "diff_sha256": None,
        "files": {"ppo.py": "1", "cli.py": "2", "recipe/codes.py": "3"},
    },
    "packages": {"lock": {"sha256": "9" * 64}, "torch_build": "cpu", "versions": {"torch": "2.13.0", "rich": "14"}},
    "machine": {
        "cpu": "A",
        "cpu_model": {"family_model_stepping": "1/2/3", "flags_sha256": "f"},
        "python": "CPython 3.11.7",
        "gpus": None,
        "renderer": {"backend": "osmesa", "libraries": {"libOSMesa.so.8": "7"}},
    },
    "environment": {"GALLIUM_DRIVER": "llvmpipe"},
    "seeds": {"scheme": "blake2b-1"},
    "assets": [{"kind": "suite", "name": "pair.xml", "sha256": "b" * 64}],
    "start": {"parameters": "d"},
}
SAME = RecipeCheck(authentic=True)
GPU = [{"name": "H100", "driver": "1", "uuid_sha256": "x", "memory": "80"}]


def changed(*path: str, value: Any) -> dict[str, Any]:
    found = deepcopy(MANIFEST)
    inner = found
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("here", "kind", "name", "matters"),
    [
        (changed("code", "files", "ppo.py", value="0"), "code", "ppo.py", True),
        (changed("code", "files", "cli.py", value="0"), "code", "cli.py", False),
        (changed("code", "files", "recipe/codes.py", value="0"), "code", "recipe/codes.py", False),
        (changed("packages", "versions", "torch", value="2.12.0"), "package", "torch", True),
        (changed("packages", "versions", "rich", value="15"), "package", "rich", False),
        (changed("packages", "torch_build", value="cuda 13.0"), "package", "build of torch", True),
        (changed("packages", "lock", value=None), "lock", "file", False),
        (changed("machine", "cpu", value="B"), "processor", "name", True),
        (changed("machine", "cpu_model", "flags_sha256", value="g"), "processor", "model and instructions", True),
        (changed("machine", "renderer", "backend", value="egl"), "renderer", "backend", True),
        (changed("machine", "renderer", "libraries", value={"libOSMesa.so.8": "6"}), "renderer", "libraries", True),
        (changed("machine", "gpus", value=GPU), "gpu", "model and driver", True),
        (changed("machine", "python", value="CPython 3.12.1"), "python", "version", False),
        (changed("environment", "GALLIUM_DRIVER", value="softpipe"), "setting", "GALLIUM_DRIVER", True),
        (changed("environment", "ATEN_CPU_CAPABILITY", value="default"), "setting", "ATEN_CPU_CAPABILITY", True),
        (changed("environment", "VLARL_IMAGE_DIGEST", value="sha256:1"), "container", "VLARL_IMAGE_DIGEST", True),
        (changed("seeds", "scheme", value="blake2b-2"), "seeds", "derivation", True),
        (
            changed("assets", value=[{"kind": "suite", "name": "pair.xml", "sha256": "0"}]),
            "asset",
            "suite pair.xml",
            True,
        ),
        (changed("assets", value=[]), "asset", "suite pair.xml", True),
    ],
)
def test_one_difference_has_its_name(here: dict[str, Any], kind: str, name: str, matters: bool) -> None:
    assert differences(MANIFEST, MANIFEST, SAME) == ()
    (found,) = differences(MANIFEST, here, SAME)
    assert (found.kind, found.name, found.matters) == (kind, name, matters)


def test_every_setting_that_matters_is_recorded() -> None:
    assert set(_SETTINGS) <= set(ENVIRONMENT_VARIABLES)


def test_a_commit_that_changed_no_file_is_no_difference() -> None:
    here = changed("code", "commit", value="0" * 40)
    assert differences(MANIFEST, here, SAME) == ()
    here["code"]["files"] = None
    (found,) = differences(MANIFEST, here, SAME)
    assert (found.name, found.changes) == ("commit", "everything")


def test_the_most_dangerous_difference_comes_first() -> None:
    here = changed("machine", "cpu", value="B")
    here["packages"]["versions"] = {"torch": "2.12.0", "rich": "15"}
    here["code"]["files"] = {**MANIFEST["code"]["files"], "ppo.py": "0"}
    found = differences(MANIFEST, here, RecipeCheck(authentic=False))
    assert [one.kind for one in found] == ["recipe", "code", "package", "processor", "package"]


def test_newer_fields_of_the_language_are_told() -> None:
    (found,) = differences(MANIFEST, MANIFEST, RecipeCheck(authentic=True, newer_fields=("ppo.new",)))
    assert found.matters
    assert "ppo.new" in str(found.here)


def test_what_an_old_run_lacks_is_not_compared() -> None:
    then = deepcopy(MANIFEST)
    del then["code"]["files"], then["start"], then["machine"]["cpu_model"], then["machine"]["renderer"]["libraries"]
    then["assets"] = []
    assert differences(then, MANIFEST, SAME) == ()
    assert len(unrecorded(then, names_stages=False)) == 5
    assert unrecorded(MANIFEST, names_stages=True) == ()


def link(**digests: str) -> Link:
    return Link(iteration=2, chain="chain", digests={**dict.fromkeys(STAGES, "same"), **digests})


def event(**digests: str) -> dict[str, Any]:
    return {"iteration": 2, "chain": "chain", "digests": {**dict.fromkeys(STAGES, "same"), **digests}}


@pytest.mark.parametrize(("stage", "name"), STAGES.items())
def test_the_first_stage_is_named(stage: str, name: str) -> None:
    found = drift_between(link(), event(**{stage: "other", "parameters": "other"}))
    assert found is not None
    assert (found.iteration, found.stage) == (2, name)
    assert name in found.sentence()
    assert drift_between(link(), event()) is None


def test_equal_stages_under_another_link_are_no_equality() -> None:
    found = drift_between(link(), {**event(), "chain": "other"})
    assert found is not None
    assert (found.stage, found.tier) == ("unknown", "T0")
    bare = Link(iteration=2, chain="chain", digests={})
    assert drift_between(bare, event()) is None
    assert drift_between(bare, {**event(), "chain": "other"}) is not None


def test_the_start_and_evaluations() -> None:
    start = {"recipe": "r", "parameters": "p", "reward_models": {"m": "1"}}
    assert start_drift(start, start) is None
    assert start_drift({}, start) is None
    stages = [
        found.stage
        for name, value in (("recipe", "x"), ("parameters", "x"), ("reward_models", {}))
        if (found := start_drift(start, {**start, name: value}))
    ]
    assert stages == ["recipe", "warm start", "recipe"]
    document = {"iteration": 4, "digest": "d", "overall": {"successes": 1, "episodes": 2}, "episodes": [1]}
    assert evaluation_drift(document, document) is None
    found = evaluation_drift(document, {**document, "overall": {"successes": 2, "episodes": 2}})
    assert found is not None
    assert "1/2 then, 2/2 here" in found.sentence()


def certificate(drift: Drift | None, mode: str = "whole", short_of_whole: str | None = None) -> Certificate:
    compared = Compared(mode=mode, iterations=(0, 1), num_equal=1, num_recorded=2, num_planned=2)
    return Certificate(
        reference=MANIFEST,
        here=MANIFEST,
        source="runs/small-1",
        published=False,
        compared=compared,
        drift=drift,
        differences=(),
        unrecorded=(),
        short_of_whole=short_of_whole,
    )


@pytest.mark.parametrize(
    ("stage", "tier", "differs"),
    [
        ("recipe", "none", {"T0", "T4"}),
        ("warm start", "T0", {"T4"}),
        ("choice of tasks", "T0", {"T4"}),
        ("actions", "T0", {"T4"}),
        ("rollout", "T0", {"T4"}),
        ("unknown", "T0", {"T4"}),
        ("physics", "T0", {"T1", "T4"}),
        ("pixels", "T1", {"T2", "T4"}),
        ("rewards", "T2", {"T4"}),
        ("advantages", "T2", {"T4"}),
        ("update", "T2", {"T3", "T4"}),
        ("evaluation", "T3", {"T4"}),
    ],
)
def test_a_tier_is_never_more_than_what_held(stage: str, tier: str, differs: set[str]) -> None:
    done = certificate(Drift(iteration=1, stage=stage))
    assert done.tier == tier
    assert {name for name, state in done.tiers.items() if state == "differs"} == differs
    assert all(done.tiers[name] != "equal" for name in TIERS if name > tier or tier == "none")
    assert done.exit_status == 5
    assert "drift" in certificate_text(done)


def test_an_evaluation_of_the_first_weights_says_nothing_of_updates() -> None:
    assert certificate(Drift(iteration=0, stage="evaluation")).tier == "T0"


@pytest.mark.parametrize(
    ("mode", "short", "tier"),
    [("whole", None, "T4"), ("whole", "a part", "T3"), ("physics", "a stage", "T1"), ("update", "a stage", "T3")],
)
def test_the_tier_of_an_equal_repetition(mode: str, short: str | None, tier: str) -> None:
    done = certificate(None, mode, short)
    assert (done.tier, done.exit_status) == (tier, 0)
    assert (done.tiers["T1"] == "equal") is (mode != "update")


def episode(slot: int, index: int, task: int, length: int) -> Episode:
    spec = EpisodeSpec(task=task, split="train", init=5, seed=7)
    return Episode(
        spec=spec, slot=slot, index=index, length=length, success=True, truncated=False, errored=False, end_step=0
    )


def row(slot: int, index: int, task: int, length: int) -> dict[str, Any]:
    return {"slot": slot, "index": index, "task": task, "init": 5, "seed": 7, "length": length, "success": True}


@pytest.mark.parametrize(
    ("episodes", "is_physics"),
    [
        ([episode(0, 0, 1, 9), episode(0, 1, 2, 4)], True),  # the first ended later, whatever followed
        ([episode(0, 0, 1, 8), episode(0, 1, 3, 4)], False),  # the first is the same, the choice after it is not
        ([episode(0, 0, 1, 8)], True),  # the second has not ended
        ([episode(0, 0, 2, 8), episode(0, 1, 2, 5)], False),  # another choice first
    ],
)
def test_another_task_may_be_the_physics_or_the_choice(episodes: list[Episode], is_physics: bool) -> None:
    assert _ended_otherwise([row(0, 0, 1, 8), row(0, 1, 2, 4)], episodes) is is_physics
