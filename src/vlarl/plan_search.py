"""The nearest change of a recipe that makes it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from vlarl.plan_checkpoint import Found
from vlarl.plan_machine import Machine
from vlarl.plan_memory import Memory, memory_of, model_of
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.policies import LoraSpec, OpenVlaSpec

_GPU_COUNTS = (2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What to change so that it fits."""

    overrides: tuple[str, ...]  # for `--set`
    num_gpus: int | None  # None: as they are
    words: str  # to paste behind `vlarl plan RECIPE`
    headroom: int  # bytes, then


@dataclass(frozen=True, kw_only=True)
class _Option:
    """One value of one knob; ``price`` orders options, the smallest sum of prices is the nearest change."""

    words: tuple[str, ...]  # for `--set`
    price: int
    apply: Callable[[Recipe], Recipe]
    num_gpus: int | None = None


_KEEP = _Option(words=(), price=0, apply=lambda recipe: recipe)
# What a change costs the user, from nothing but time to another method and another machine.
_PRICES = {"checkpointing": 10, "micro_batch": 11, "groups": 13, "cloning": 14, "vision": 40, "lora": 80, "gpus": 160}


def nearest_change(recipe: Recipe, machine: Machine, found: Found | None) -> Change | None:
    """The cheapest combination that fits, or None: first what costs time only, last more GPUs."""
    knobs = [[_KEEP, *options] for options in _knobs(recipe, machine)]
    combined = sorted(product(*knobs), key=lambda chosen: sum(option.price for option in chosen))
    for chosen in combined[1:]:
        changed, target = recipe, machine
        for option in chosen:
            changed = option.apply(changed)
            target = replace(target, num_gpus=option.num_gpus or target.num_gpus)
        memory = memory_of(changed, model_of(changed, found), target)
        if all(each.fits for each in memory):
            return _change(chosen, memory)
    return None


def _change(chosen: tuple[_Option, ...], memory: tuple[Memory, ...]) -> Change:
    overrides = tuple(word for option in chosen for word in option.words)
    gpus = next((option.num_gpus for option in chosen if option.num_gpus is not None), None)
    words = [f"--set {word}" for word in overrides] + ([f"--num-gpus {gpus}"] if gpus is not None else [])
    known = [each.headroom for each in memory if each.headroom is not None]
    return Change(overrides=overrides, num_gpus=gpus, words=" ".join(words), headroom=min(known, default=0))


def _knobs(recipe: Recipe, machine: Machine) -> Iterator[list[_Option]]:
    policy, narrow = recipe.policy, "policy.lora.vision=false"
    if isinstance(policy, OpenVlaSpec):
        if not policy.gradient_checkpointing:
            yield [_set("policy", "gradient_checkpointing", True, "checkpointing")]
        if policy.lora is None:
            yield [
                replace(_set("policy", "lora", LoraSpec(), "lora"), words=("policy.lora.rank=32",)),
                replace(
                    _set("policy", "lora", LoraSpec(vision=False), "lora", 30), words=("policy.lora.rank=32", narrow)
                ),
            ]
        elif policy.lora.vision:
            language_only = policy.lora.model_copy(update={"vision": False})
            yield [replace(_set("policy", "lora", language_only, "vision"), words=(narrow,))]
    mini = recipe.ppo.minibatch_size
    micro = recipe.ppo.micro_batch_size or mini
    yield [
        _set("ppo", "micro_batch_size", size, "micro_batch", i) for i, size in enumerate(_divisors_below(mini, micro))
    ]
    envs, groups = recipe.suite.num_envs, recipe.suite.num_groups
    more = [n for n in range(groups + 1, envs + 1) if envs % n == 0]
    yield [_set("suite", "num_groups", n, "groups", i) for i, n in enumerate(more)]
    if recipe.imitation is not None:
        batch = recipe.imitation.batch_size
        sizes = _divisors_below(batch, batch)
        yield [_set("imitation", "batch_size", size, "cloning", i) for i, size in enumerate(sizes)]
    if machine.device == "gpu":
        counts = [n for n in _GPU_COUNTS if n > machine.num_gpus]
        price = _PRICES["gpus"]
        yield [_Option(words=(), price=price + i, apply=_KEEP.apply, num_gpus=n) for i, n in enumerate(counts)]


def _divisors_below(total: int, limit: int) -> list[int]:
    """Divisors of ``total`` below ``limit``, the largest first."""
    return [n for n in range(limit - 1, 0, -1) if total % n == 0]


def _set(section: str, field: str, value: Any, kind: str, steps: int = 0) -> _Option:
    """`section.field=value`; ``steps`` further away than the nearest value of that knob."""

    def apply(recipe: Recipe) -> Recipe:
        changed = getattr(recipe, section).model_copy(update={field: value})
        return recipe.model_copy(update={section: changed})

    shown = str(value).lower() if isinstance(value, bool) else value
    return _Option(words=(f"{section}.{field}={shown}",), price=_PRICES[kind] + steps, apply=apply)
