"""What the cache of warm starts tells apart: whatever a clone's bits depend on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlarl import warmstart
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.learning import ImitationSpec
from vlarl.recipe.specs.suites import TabletopSpec
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


def test_a_clone_of_another_device_is_another_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloned = []

    def clone(policy: Any, *_: Any) -> dict[str, Any]:
        cloned.append(policy.device)
        return {}

    monkeypatch.setattr(warmstart, "device_name", str)
    monkeypatch.setattr(warmstart, "demonstration_files", lambda folder: [])
    monkeypatch.setattr(warmstart, "_cloned", clone)
    suite: Any = SimpleNamespace(conventions=SimpleNamespace(image_size=64))
    recipe = Recipe(imitation=ImitationSpec(demonstrations=str(tmp_path)))

    def made(device: str) -> str:
        policy: Any = SimpleNamespace(device=device, state_dict=dict, load_state_dict=lambda state: None)
        return warm_start(policy, recipe, suite, tmp_path / "cache", Progress(noted=lambda note: None)).digest

    assert made("cpu") != made("H200")
    assert cloned == ["cpu", "H200"]
