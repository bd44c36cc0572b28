"""The committed references: they hold here as far as they can, and what is changed on purpose is named.

Numerics that were changed on purpose are renewed with `make golden`, together with an entry in the changelog.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.reproduce_reference import check_recipe, read_reference, repeated_recipe
from vlarl.run.instructions import KERNELS, VARIABLE
from vlarl.run.machine import cpu_flags, cpu_model

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
NAMES = ("smoke", "quickstart")
Reproduce = Callable[..., Any]
UPPER, TWICE = "clamp(1.0 - clip, 1.0 + clip)", "clamp(1.0 - clip, 1.0 + 2.0 * clip)"
GREY, GREEN = 'pos="0 0 0.055" rgba="0.75 0.75 0.78 1"', 'pos="0 0 0.055" rgba="0.05 0.75 0.78 1"'
SCENE = "suites/tabletop/scenes.py"
# What may part a repetition from its reference although the code computes the same.
SURROUNDINGS = {"package", "processor", "renderer", "gpu", "container", "setting"}
# Family, model and stepping of others than the references' on which they were seen to hold, with the kernels of AVX2.
EQUAL_PROCESSORS = {"25/17/1"}


@dataclass(frozen=True)
class Golden:
    """A reference, and its first iteration once more, where MuJoCo's files say that they are another version."""

    folder: Path
    updated: int  # iteration that is the first to update the policy
    repeated: Any

    def skip_unless_it_holds(self) -> None:
        if self.repeated.status:
            assert self.excuses(), f"the run is another by the code: {self.repeated.drift['text']}"
            pytest.skip(f"it does not hold here before the change either: {self.repeated.drift['text']}")

    def excuses(self) -> set[str]:
        """Kinds of differences that may part it from its reference, but for those that the tests bring themselves."""
        planted = {"mujoco", *KERNELS}
        kinds = {
            one["kind"]
            for one in self.repeated.document["differences"]
            if one["matters"] and one["name"] not in planted
        }
        is_equal = (cpu_model() or {}).get("family_model_stepping") in EQUAL_PROCESSORS
        return kinds & (SURROUNDINGS - ({"processor"} if is_equal else set()))


@pytest.fixture(scope="module", autouse=True)
def kernels_of_the_references() -> Iterator[None]:
    """They were recorded on a processor whose widest instructions are AVX2."""
    with pytest.MonkeyPatch.context() as patch:
        if "avx512f" in cpu_flags():
            patch.setenv(VARIABLE, "avx2")
        yield


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_of_a_reference_moves(name: str) -> None:
    """What stands still holds nothing: rewards that are all zero would hide a broken reward."""
    reference = read_reference(str(GOLDEN / name), GOLDEN)
    for stage in reference.links[0].digests:
        found = [link.digests[stage] for link in reference.links]
        assert len(set(found)) == len(found) > 2, stage


@pytest.fixture(
    scope="module",
    params=[pytest.param(reference, marks=pytest.mark.slow) for reference in (("smoke", 1), ("quickstart", 3))],
    ids=["smoke", "quickstart"],
)
def golden(
    request: pytest.FixtureRequest, reproduce_ahead: Reproduce, tmp_path_factory: pytest.TempPathFactory
) -> Golden:
    name, updated = request.param
    place = tmp_path_factory.mktemp("golden")
    told = place / "ahead" / "mujoco-3.1.5.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: mujoco\nVersion: 3.1.5\n")
    repeated = reproduce_ahead(told.parent, place / "again", GOLDEN / name, "--iterations", "1")
    return Golden(GOLDEN / name, updated, repeated)


def test_it_holds_as_far_as_this_machine_lets_it(golden: Golden) -> None:
    answer = golden.repeated
    assert answer.document["tiers"]["T0"] == "equal"
    if answer.status == 0:
        assert answer.tier == "T3"
        return
    assert answer.status == 5
    assert golden.excuses(), f"the run is another by the code: {answer.drift['text']}"


def test_a_changed_package_version_is_named(golden: Golden) -> None:
    """Of a package that is there twice, the one ahead on the path is imported, so that one counts."""
    assert golden.repeated.named()["package", "mujoco"] == "physics and pixels"
    assert "mujoco: 3.1.6 then, 3.1.5 here" in golden.repeated.errors


@pytest.mark.slow
def test_a_changed_line_of_ppo_is_named(golden: Golden, reproduce_with: Reproduce) -> None:
    golden.skip_unless_it_holds()
    answer = reproduce_with("ppo.py", UPPER, TWICE, golden.folder, "--iterations", str(golden.updated + 1))
    assert (answer.status, answer.tier) == (5, "T2")
    assert (answer.drift["iteration"], answer.drift["stage"]) == (golden.updated, "update")
    assert answer.drift["differing"] == ["update"]
    assert answer.named()["code", "ppo.py"] == "updates"


@pytest.mark.slow
def test_a_changed_asset_is_named(golden: Golden, reproduce_with: Reproduce) -> None:
    golden.skip_unless_it_holds()
    answer = reproduce_with(SCENE, GREY, GREEN, golden.folder, "--iterations", "1")
    assert answer.status == 5
    assert answer.named()["asset", "suite tabletop_basic/pair.xml"] == "physics and pixels"
    assert (answer.drift["iteration"], answer.drift["stage"]) == (None, "warm start")


def test_one_byte_of_a_libero_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlarl.assembly_manifest import suite_assets
    from vlarl.reproduce_here import asset_differences
    from vlarl.suites.libero import install
    from vlarl.suites.libero.suite import LiberoSuite

    suite = LiberoSuite(LiberoSpec(name="libero_goal", tasks=[8], renderer="osmesa"))
    then, where = suite_assets(suite), install._path
    copied = Path(shutil.copytree(where("assets"), tmp_path / "assets", copy_function=os.symlink))
    monkeypatch.setattr(install, "_path", lambda what: copied if what == "assets" else where(what))
    assert list(asset_differences(then, suite_assets(suite))) == []
    texture = next(iter(sorted(copied.rglob("*.png"))))
    data = bytearray(texture.read_bytes())
    data[-1] ^= 1
    texture.unlink()
    texture.write_bytes(data)
    (found,) = asset_differences(then, suite_assets(suite))
    assert (found.kind, found.name, found.matters) == ("asset", "suite libero_goal/assets", True)


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_has_all_that_a_repetition_compares(name: str) -> None:
    reference = read_reference(str(GOLDEN / name), Path("runs"))
    recipe = repeated_recipe(reference, ()).recipe
    assert check_recipe(reference, repeated_recipe(reference, ())).authentic
    assert recipe.determinism == "strict"
    assert len(reference.links) == recipe.train.iterations
    assert reference.names_stages
    assert reference.start
    done = {int(file[-11:-5]) for file in reference.evaluations()}
    assert {0, recipe.train.iterations} <= done


@pytest.mark.parametrize("path", sorted(GOLDEN.rglob("*.*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_reference_tells_nothing_of_where_it_was_made(path: Path) -> None:
    text = path.read_text()
    for private in ('"/', ": /", "~/", str(Path.home()), str(ROOT), '"host"', f'"{socket.gethostname()}"'):
        assert private not in text


@pytest.mark.parametrize("name", NAMES)
def test_the_changelog_names_the_chain(name: str) -> None:
    """So that a reference is never renewed in silence."""
    chain = read_reference(str(GOLDEN / name), Path("runs")).manifest["outcome"]["chain"]
    numerics = (ROOT / "CHANGELOG.md").read_text().split("### Numerics")[1]
    assert f"`{chain[:8]}…`" in numerics.partition("\n## ")[0]
