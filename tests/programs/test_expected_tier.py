"""How far a run's manifest says that a repetition should get."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vlarl.assembly_manifest import _expected_tier
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.policies import TinySpec


@pytest.mark.parametrize(
    ("determinism", "device", "renderer", "tier", "words"),
    [
        ("seeded", "cpu", "osmesa", "T1", "determinism: seeded"),
        ("strict", "cpu", "osmesa", "T4", "deterministic CPU kernels and a software renderer"),
        ("strict", "cpu", "egl", "T4", "CPU kernels and what EGL draws on this machine"),
        ("strict", "cuda", "osmesa", "T4", "deterministic kernels of this kind of GPU and a software renderer"),
    ],
)
def test_the_reason_names_what_computes_and_what_draws(
    determinism: Any, device: Any, renderer: str, tier: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    recipe = Recipe(determinism=determinism, policy=TinySpec(device=device))
    suite: Any = SimpleNamespace(renderer=renderer)
    found, reason = _expected_tier(recipe, suite)
    assert found == tier
    assert words in reason
