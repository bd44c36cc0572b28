"""Kinds, lazy targets, suites by name, and parts of installed packages."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

import vlarl
from vlarl import registry
from vlarl.errors import EnvironmentUnusable, Exit, UsageError
from vlarl.recipe.specs.base import PartSpec
from vlarl.recipe.specs.suites import TabletopSpec

SOURCE = str(Path(vlarl.__file__).parents[1])


class EchoSpec(PartSpec):
    """Builds into what it was called with."""

    target: ClassVar[str] = f"{__name__}:Echo"

    kind: Literal["echo"] = "echo"
    size: int = 3


class Echo:
    def __init__(self, spec: EchoSpec, **runtime: Any) -> None:
        self.spec, self.runtime = spec, runtime


class AbsentSpec(EchoSpec):
    target: ClassVar[str] = "no_such_library.parts:Part"


def test_build_calls_the_target_with_spec_and_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    built = registry.build(EchoSpec(size=5), folder="out")
    assert (built.spec.size, built.runtime) == (5, {"folder": "out"})


def test_runtime_arguments_may_not_shadow_knobs() -> None:
    with pytest.raises(AssertionError, match="size"):
        registry.build(EchoSpec(), size=4)


def test_a_missing_library_is_named() -> None:
    with pytest.raises(EnvironmentUnusable) as caught:
        registry.build(AbsentSpec())
    assert (caught.value.code, caught.value.exit_status) == ("E401", Exit.ENVIRONMENT)
    assert "no_such_library" in caught.value.message


@pytest.mark.parametrize("section", registry.SECTIONS)
def test_every_built_in_spec_documents_itself(section: str) -> None:
    for kind, spec in registry.kinds(section).items():
        assert registry.kind_of(spec) == kind == spec.model_fields["kind"].default
        assert spec.__doc__
        assert spec.target.count(":") == 1
        assert all(field.description for name, field in spec.model_fields.items() if name != "kind")


def test_suites_by_name() -> None:
    spec = registry.suite_spec_for("tabletop_10", num_envs=4)
    assert isinstance(spec, TabletopSpec)
    assert (spec.name, spec.num_envs) == ("tabletop_10", 4)
    with pytest.raises(UsageError) as caught:
        registry.suite_spec_for("tabletop_100")
    assert caught.value.hint == "did you mean `tabletop_10`?"
    with pytest.raises(UsageError) as caught:
        registry.suite_spec_for("moon")
    assert caught.value.hint == "`vlarl list suites` shows what each of them is"


def test_the_task_names_of_the_specs_are_those_of_the_suites() -> None:
    tasks = importlib.import_module("vlarl.suites.tabletop.tasks")
    for name, rows in tasks.SUITES.items():
        assert TabletopSpec(name=name).known_tasks() == tuple(row.name for row in rows)


@pytest.mark.parametrize(
    ("word", "choices", "expected"),
    [("gama", ["gamma", "clip"], "gamma"), ("GAMMA", ["gamma"], "gamma"), ("x", ["gamma"], None), ("", ["a"], None)],
)
def test_suggestions_stop_at_a_likeness(word: str, choices: list[str], expected: str | None) -> None:
    assert registry.suggest(word, choices) == expected


SPEC = '''
from typing import ClassVar, Literal
from pydantic import Field
from vlarl.recipe.specs.base import PartSpec

class SmoothRewardSpec(PartSpec):
    """Penalty on jerky actions."""
    target: ClassVar[str] = "my_parts:Smooth"
    kind: Literal["smooth"] = "smooth"
    weight: float = Field(0.1, description="Factor on this reward in the sum.")

class Smooth:
    def __init__(self, spec): self.spec = spec
'''


def run_with_package(tmp_path: Path, entry_points: str, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "my_parts.py").write_text(SPEC, encoding="utf-8")
    info = tmp_path / "my_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[vlarl.parts]\n{entry_points}\n", encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-c", "from vlarl.cli import main; main()", *words],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{SOURCE}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_installed_package_adds_a_kind(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rewards: [{kind: success}, {kind: smooth, wieght: 1}]", encoding="utf-8")
    done = run_with_package(tmp_path, "rewards.smooth = my_parts:SmoothRewardSpec", "validate", "--json", "a.yaml")
    assert done.returncode == Exit.RECIPE, done.stderr
    (found,) = json.loads(done.stdout)["diagnostics"]
    assert (found["message"], found["hint"]) == ("unknown key `wieght` in reward `smooth`", "did you mean `weight`?")


@pytest.mark.parametrize(
    ("entry_point", "reason"),
    [
        ("rewards.smooth = my_parts:Gone", "cannot be imported"),
        ("rewards.smooth = my_parts:Smooth", "not a subclass of PartSpec"),
        ("rewards.other = my_parts:SmoothRewardSpec", "its spec says `kind: smooth`"),
        ("smooth = my_parts:SmoothRewardSpec", "<section>.<kind>"),
    ],
)
def test_a_broken_part_is_named(tmp_path: Path, entry_point: str, reason: str) -> None:
    done = run_with_package(tmp_path, entry_point, "list", "rewards")
    assert done.returncode == Exit.ENVIRONMENT
    assert "E402" in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
