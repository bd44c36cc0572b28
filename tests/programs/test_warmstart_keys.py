"""What the cache of warm starts tells apart: whatever a clone's bits depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlarl import warmstart
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.learning import ImitationSpec
from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.run.instructions import KERNELS
from vlarl.warmstart import Progress, obtain_demonstrations, warm_start


def test_another_renderer_draws_other_demonstrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def record(*arguments: Any) -> None:
        arguments[4].mkdir(parents=True)

    monkeypatch.setattr(warmstart, "record_experts", record)
    folders = [
        obtain_demonstrations(
            ImitationSpec(),
            TabletopSpec(),
            SimpleNamespace(renderer=renderer),  # type: ignore[arg-type]
            1,
            tmp_path,
            Progress(),
        )
        for renderer in ("osmesa", "egl", "osmesa")
    ]
    assert folders[0] == folders[2] != folders[1]
    assert sorted(path for path in (tmp_path / "demonstrations").iterdir() if path.is_dir()) == sorted(folders[:2])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Key of the clone that a policy on ``device`` gets, with values of the recipe; none is trained."""
    monkeypatch.setattr(warmstart, "device_name", str)
    monkeypatch.setattr(warmstart, "demonstration_files", lambda folder: [])
    monkeypatch.setattr(warmstart, "_cloned", lambda *_: {"noops_dropped": 0, "resized_from": []})
    suite: Any = SimpleNamespace(conventions=SimpleNamespace(image_size=64))

    def key(device: str = "cpu", *, seed: int = 1, imitation_seed: int | None = None) -> str:
        imitation = ImitationSpec(demonstrations=str(tmp_path), seed=imitation_seed)
        policy: Any = SimpleNamespace(device=device, state_dict=dict, load_state_dict=lambda state: None)
        quiet = Progress(noted=lambda note: None)
        return warm_start(policy, Recipe(seed=seed, imitation=imitation), suite, tmp_path / "cache", quiet).digest

    return key


def test_a_clone_of_another_device_is_another_clone(made: Callable[..., str]) -> None:
    assert made("cpu") == made("cpu") != made("H200")


def test_a_clone_has_one_seed_wherever_the_recipe_names_it(made: Callable[..., str]) -> None:
    assert made(seed=7) == made(seed=8, imitation_seed=7)
    assert made(seed=7) != made(seed=7, imitation_seed=8)


def test_a_clone_of_other_kernels_is_another_clone(made: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KERNELS:
        monkeypatch.delenv(name, raising=False)
    native = made()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert made() != native
