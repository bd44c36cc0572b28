"""Codes of study files; all codes are in ``codes``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vlarl.recipe.code import Code

OF_STUDIES: Mapping[str, Code] = MappingProxyType(
    {
        "R240": Code(
            "baseline is no cell",
            "The `baseline` of a study names the cell that all others are compared with.",
        ),
        "R241": Code(
            "repeated seed",
            "A run of the same recipe with the same seed is the same run, so a study lists each seed once.",
        ),
        "R242": Code(
            "set by the study",
            "A study gives each of its runs seed, name, run folder and cache, so no cell can. Seeds stand under `seeds`.",
        ),
        "D650": Code(
            "run of another recipe",
            "A study's folder holds a run of that cell and seed whose recipe has another hash than the study now asks for, "
            "so it can neither be taken for done nor go on. It is left as it is.",
        ),
    }
)
