"""How many GPUs a run computed on, by its manifest and its recipe, so that time becomes GPU-hours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NONE_VISIBLE = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES


def num_gpus(manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> int:
    """One a process; 0 without GPUs that torch could use, or where the recipe's models all run on the CPU.

    ``recipe`` is resolved, as plain data.
    """
    found = (manifest.get("machine") or {}).get("gpus")
    visible = (manifest.get("environment") or {}).get("CUDA_VISIBLE_DEVICES")
    build = (manifest.get("packages") or {}).get("torch_build")
    if not found or visible in _NONE_VISIBLE or build == "cpu" or not _computes_on_gpus(recipe):
        return 0
    return int(manifest.get("processes") or 1)


def _computes_on_gpus(recipe: Mapping[str, Any]) -> bool:
    """Policies without a `device` compute on the CPU; so does a reward of device `auto` whose model is small."""
    if (recipe.get("policy") or {}).get("device") in ("auto", "cuda"):
        return True
    return any(reward.get("device") == "cuda" for reward in recipe.get("rewards") or ())
