"""Kinds of parts: section and kind → spec class → lazy target.

Built-in specs and the entry points of group ``vlarl.parts`` are the same to everyone else. An entry
point is named ``<section>.<kind>`` and points at a spec class; its package is imported when a
recipe is read, so a spec's module must not import torch or a simulator.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Any, get_args

from vlarl.errors import EnvironmentUnusable, UsageError
from vlarl.recipe.specs.base import PartSpec, Section
from vlarl.recipe.specs.curriculum import (
    FrontierCurriculumSpec,
    LearningProgressCurriculumSpec,
    PaperCurriculumSpec,
    SuccessBandCurriculumSpec,
    UniformCurriculumSpec,
)
from vlarl.recipe.specs.policies import (
    AdapterCriticSpec,
    FrozenCriticSpec,
    OpenVlaOftSpec,
    OpenVlaSpec,
    SharedCriticSpec,
    TinySpec,
)
from vlarl.recipe.specs.prm import QwenVlPrmSpec, TinyPrmSpec
from vlarl.recipe.specs.rewards import DenseOracleRewardSpec, ProcessRewardSpec, SuccessRewardSpec
from vlarl.recipe.specs.suites import LiberoSpec, SuiteSpec, TabletopSpec

GROUP = "vlarl.parts"
SIMILAR = 0.6  # below this likeness a suggestion misleads more than it helps

# The first kind of a section is the one a recipe gets when it names none.
BUILT_IN: Mapping[str, tuple[type[PartSpec], ...]] = MappingProxyType(
    {
        "suite": (TabletopSpec, LiberoSpec),
        "policy": (TinySpec, OpenVlaSpec, OpenVlaOftSpec),
        "critic": (SharedCriticSpec, FrozenCriticSpec, AdapterCriticSpec),
        "rewards": (SuccessRewardSpec, ProcessRewardSpec, DenseOracleRewardSpec),
        "curriculum": (
            UniformCurriculumSpec,
            PaperCurriculumSpec,
            FrontierCurriculumSpec,
            SuccessBandCurriculumSpec,
            LearningProgressCurriculumSpec,
        ),
        "prm": (TinyPrmSpec, QwenVlPrmSpec),
    }
)
SECTIONS = tuple(BUILT_IN)


def kind_of(spec: type[Section]) -> str:
    """The one value a spec class allows for ``kind``."""
    return str(get_args(spec.model_fields["kind"].annotation)[0])


@cache
def kinds(section: str) -> Mapping[str, type[PartSpec]]:
    """Every kind known for a section, built-in ones first."""
    found = {kind_of(spec): spec for spec in BUILT_IN[section]}
    for name, spec in _installed().items():
        where, _, kind = name.partition(".")
        if where == section:
            if kind in found:
                raise _unusable(name, f"`{kind}` is already a kind of `{section}`")
            found[kind] = spec
    return MappingProxyType(found)


@cache
def _installed() -> Mapping[str, type[PartSpec]]:
    from importlib.metadata import entry_points

    specs: dict[str, type[PartSpec]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        section, _, kind = point.name.partition(".")
        if section not in BUILT_IN:
            raise _unusable(point.name, f"the name must be <section>.<kind> with a section of {', '.join(SECTIONS)}")
        try:
            spec = point.load()
        except Exception as error:  # another package's import may fail in any way
            raise _unusable(point.name, f"{point.value} cannot be imported ({error})") from error
        if not (isinstance(spec, type) and issubclass(spec, PartSpec) and "kind" in spec.model_fields):
            raise _unusable(point.name, f"{point.value} is not a subclass of PartSpec with a `kind`")
        if kind_of(spec) != kind:
            raise _unusable(point.name, f"its spec says `kind: {kind_of(spec)}`")
        if point.name in specs:
            raise _unusable(point.name, "two installed packages offer it")
        specs[point.name] = spec
    return MappingProxyType(specs)


def _unusable(name: str, reason: str) -> EnvironmentUnusable:
    return EnvironmentUnusable(
        f"the installed part `{name}` cannot be used: {reason}",
        code="E402",
        hint="repair or uninstall the package that offers it",
    )


def build(spec: PartSpec, **runtime: Any) -> Any:
    """The part that ``spec`` describes: imports its target and calls it with ``(spec, **runtime)``."""
    shadowed = set(runtime) & set(type(spec).model_fields)
    assert not shadowed, f"runtime arguments shadow knobs of the spec: {sorted(shadowed)}"
    return target_of(type(spec))(spec, **runtime)


def target_of(spec: type[PartSpec]) -> Any:
    """The class or function that ``spec.target`` names.

    Raises EnvironmentUnusable when a library it needs is not installed.
    """
    module, _, name = spec.target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "vlarl":
            raise  # a wrong target, not a missing library
        raise EnvironmentUnusable(
            f"`{kind_of(spec)}` needs the package `{error.name}`, which is not installed",
            code="E401",
            hint=f"install `{error.name}` into this environment",
        ) from error


def suggest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that ``word`` was probably meant to be, or None."""
    options = list(choices)
    folded = {option.lower(): option for option in options}
    match = get_close_matches(word.lower(), list(folded), n=1, cutoff=SIMILAR)
    return folded[match[0]] if match else None


def suite_names() -> Mapping[str, type[SuiteSpec]]:
    """Every suite by the name it has in `suite.name`."""
    names: dict[str, type[SuiteSpec]] = {}
    for spec in kinds("suite").values():
        assert issubclass(spec, SuiteSpec), f"{spec.__name__} is a suite and must extend SuiteSpec"
        for name in get_args(spec.model_fields["name"].annotation):
            names[str(name)] = spec
    return MappingProxyType(names)


def suite_spec_for(name: str, **knobs: Any) -> SuiteSpec:
    """The spec of the suite called ``name`` with its defaults, e.g. ``tabletop_10``; UsageError if there is none."""
    names = suite_names()
    if name in names:
        return names[name](name=name, **knobs)
    close = suggest(name, names)
    raise UsageError(
        f"unknown suite `{name}`; the suites are {', '.join(names)}",
        code="U202",
        hint=f"did you mean `{close}`?" if close else "`vlarl list suites` shows what each of them is",
    )
