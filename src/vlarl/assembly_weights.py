"""A checkpoint in Hugging Face layout has no recipe: evaluating makes one from `--set`, exporting says what to set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlarl.errors import RecipeError, UsageError
from vlarl.recipe.load import parse_recipe
from vlarl.recipe.schema import Recipe, hashed_values
from vlarl.recipe.specs.policies import OpenVlaSpec
from vlarl.recipe.write import scalar_text
from vlarl.registry import suite_spec_for
from vlarl.run.checkpoint import is_checkpoint

_HUB = "hf://"
_KIND, _OTHER_KIND = "openvla", "openvla_oft"  # the second where `--set policy.kind` says so
_FILES = ("config.json", "adapter_config.json", "model.safetensors", "model.safetensors.index.json")
# What the command line says already, or what evaluating leaves no choice about.
_GIVEN = {
    "policy.kind": f"the kind is `{_KIND}`, or `--set policy.kind={_OTHER_KIND}`",
    "policy.checkpoint": "`--checkpoint` names it",
    "policy.lora": "the weights are evaluated as they are",
    "policy.gradient_checkpointing": "nothing is trained",
    "suite.kind": "`--suite` names the suite",
    "suite.name": "`--suite` names the suite",
    "suite.tasks": "`--tasks` names the tasks",
}


def names_weights(checkpoint: str) -> bool:
    """Whether ``--checkpoint`` names a checkpoint in Hugging Face layout rather than a run or a checkpoint of one."""
    if checkpoint.startswith(_HUB):
        return True
    folder = Path(checkpoint)
    if is_checkpoint(folder) or (folder / "manifest.json").is_file():
        return False
    return any((folder / name).is_file() for name in _FILES)


def weights_recipe(checkpoint: str, suite: str, overrides: Sequence[str]) -> Recipe:
    """A recipe of the checkpoint on ``suite``, with ``overrides`` of sections `policy` and `suite`.

    Raises UsageError (U217) for an override that says what is said elsewhere, RecipeError for a value that cannot be.
    """
    others = [text for text in overrides if text.replace(" ", "") != f"policy.kind={_OTHER_KIND}"]
    for text in others:
        _check(text.partition("=")[0].strip())
    kind = _KIND if len(others) == len(overrides) else _OTHER_KIND
    values = {
        "suite": {"kind": suite_spec_for(suite).kind, "name": suite},
        "policy": {"kind": kind, "checkpoint": checkpoint, "lora": None},
        "imitation": None,
        # An update that fits any number of slots, so that no rule about updates has anything to say.
        "train": {"rollout": {"kind": "steps", "num_steps": 1}},
        "ppo": {"minibatch_size": 1},
    }
    try:
        return parse_recipe(json.dumps(values), others).recipe
    except RecipeError as error:
        raise RecipeError("`--set` cannot be followed", error.diagnostics) from error


def used_as(recipe: Recipe) -> Mapping[str, Any]:
    """How the checkpoint of ``weights_recipe`` is used: every value of `policy` that can change an episode."""
    used = {key: value for key, value in hashed_values(recipe.policy).items() if f"policy.{key}" not in _GIVEN}
    return used if recipe.policy.kind == _KIND else {"kind": recipe.policy.kind, **used}


def settings(recipe: Recipe) -> Iterator[str]:
    """What `--set` must say of a checkpoint to use it as ``recipe`` uses its policy; defaults are left out."""
    assert isinstance(recipe.policy, OpenVlaSpec), recipe.policy.kind
    if recipe.policy.kind != _KIND:
        yield f"policy.kind={recipe.policy.kind}"
    usual = {"policy": type(recipe.policy)(checkpoint=""), "suite": suite_spec_for(recipe.suite.name)}
    for section, defaults in usual.items():
        default = hashed_values(defaults)
        for key, value in hashed_values(getattr(recipe, section)).items():
            if f"{section}.{key}" not in _GIVEN and value != default[key]:
                yield f"{section}.{key}={scalar_text(value)}"


def _check(path: str) -> None:
    section, _, key = path.partition(".")
    place = f"{section}.{key.partition('.')[0]}"
    if place in _GIVEN:
        raise UsageError(f"`--set {path}` has no use here: {_GIVEN[place]}", code="U217", hint="leave it out")
    if section not in ("policy", "suite") or not key:
        raise UsageError(
            f"`--set {path}` is nothing that an evaluation reads",
            code="U217",
            hint="it takes values of `policy` and `suite`, for example `--set policy.images=plain`",
        )
