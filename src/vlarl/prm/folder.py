"""A reward model on disk: weights, what they are for, the card, and a COMPLETE marker that is written last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from vlarl import registry
from vlarl.digest import bytes_digest, file_digest, json_digest
from vlarl.errors import AssetError
from vlarl.prm.protocol import QUESTIONS, OnBase, RewardModel, Views
from vlarl.recipe.schema import hashed_values
from vlarl.recipe.specs.base import PartSpec
from vlarl.recipe.specs.prm import Device, PrmSpec
from vlarl.run.documents import read_object
from vlarl.run.files import write_json, write_synced, write_text

WEIGHTS, CONFIG, CARD, CARD_TEXT, COMPLETE = "model.safetensors", "config.json", "card.json", "card.md", "COMPLETE"
BASE = "base.json"  # where the base model of adapters is; may be edited when it has moved
SCHEMA_VERSION = 1
_MAX_SIDE = 4096  # pixels


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a reward model was trained on, and so what it may judge."""

    action: str  # convention of the actions that made its trajectories
    suite: str  # kind of suite whose camera it knows
    image_size: int  # pixels


@dataclass(frozen=True, kw_only=True)
class FrozenRewardModel:
    """A reward model that is not trained any more."""

    model: RewardModel
    meaning: Meaning
    digest: str  # of weights and config
    place: Path

    @property
    def previous_frame(self) -> int:
        return self.model.previous_frame

    def answers(
        self, images: np.ndarray, previous: np.ndarray | None, instructions: Sequence[str], batch_size: int
    ) -> dict[str, np.ndarray]:
        """(n,) float32 by question, for images (n, H, W, 3); AssetError R398 where one is not a number."""
        views = Views(images=images, previous=previous, instructions=instructions)
        found = probabilities(self.model, views, batch_size)
        if not np.isfinite(found).all():  # weights that are numbers may be too large to compute with
            raise _damaged(self.place, "its answers are not numbers")
        return dict(zip(QUESTIONS, found.T, strict=True))


def probabilities(model: RewardModel, views: Views, batch_size: int) -> np.ndarray:
    """(N, 2) float32 of the positive token against the negative one, for each question; forwards of a batch."""
    import torch

    found = [np.empty((0, len(QUESTIONS)), np.float32)]
    with torch.no_grad():
        for start in range(0, len(views), batch_size):
            rows = slice(start, start + batch_size)
            some = Views(
                images=views.images[rows],
                previous=None if views.previous is None else views.previous[rows],
                instructions=views.instructions[rows],
            )
            found.append(model.answer_logits(some).float().softmax(dim=-1)[..., 1].cpu().numpy())
    return np.concatenate(found)


def write_reward_model(
    folder: Path, model: RewardModel, spec: PartSpec, meaning: Meaning, seed: int, card: Mapping[str, Any], text: str
) -> str:
    """Write everything into the existing ``folder``; returns the model's digest."""
    from safetensors.torch import save

    weights = save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})
    config = {
        "schema_version": SCHEMA_VERSION,
        "spec": hashed_values(spec),
        **vars(meaning),
        "questions": list(QUESTIONS),
        "seed": seed,
        "weights": bytes_digest(weights),
    }
    if isinstance(model, OnBase):
        config["base"] = model.base_digest
        write_json(folder / BASE, {"checkpoint": model.base_reference})
    digest = json_digest(config)
    write_synced(folder / WEIGHTS, weights)
    write_json(folder / CONFIG, config)
    write_json(folder / CARD, {"model": digest, **card})
    write_text(folder / CARD_TEXT, text)
    write_text(folder / COMPLETE, f"{digest}\n")
    return digest


def require_complete(folder: Path) -> Path:
    """``folder``; AssetError R395 where it is no reward model, or one whose writing was interrupted."""
    if not (folder / COMPLETE).is_file():
        raise AssetError(
            f"{folder} is not a process reward model{_what_else(folder)}",
            code="R395",
            place=str(folder),
            hint="name a folder that `vlarl train-prm` wrote",
        )
    return folder


def load_reward_model(folder: Path, device: Device = "auto") -> FrozenRewardModel:
    """AssetError R395 where ``folder`` is no reward model, R398 where it is a damaged one, R377 on another base."""
    require_complete(folder)
    try:
        config = read_object(folder / CONFIG)
        intact = json_digest(config) == (folder / COMPLETE).read_text().strip()
        intact = intact and file_digest(folder / WEIGHTS) == config["weights"]
        described, seed = dict(config["spec"]), int(config["seed"])
        meaning = Meaning(**{name: config[name] for name in Meaning.__dataclass_fields__})
        if type(meaning.image_size) is not int or not 0 < meaning.image_size <= _MAX_SIDE:
            raise ValueError(f"image_size is {meaning.image_size!r}")
        if "base" in config:
            described = {**described, "checkpoint": read_object(folder / BASE)["checkpoint"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(folder, str(error)) from error
    if not intact:
        raise _damaged(folder, "a file differs from its digest")
    spec = _spec(folder, described)
    if isinstance(spec, PrmSpec):
        spec = spec.model_copy(update={"device": device})
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model: RewardModel = registry.build(spec, image_size=meaning.image_size, seed=seed)
    if isinstance(model, OnBase) and model.base_digest != config["base"]:
        raise AssetError(
            f"the reward model {folder} was trained on {config['base'][:12]}, and {model.base_name} is "
            f"{model.base_digest[:12]}",
            code="R377",
            place=str(folder / BASE),
            hint=f"put the base checkpoint back, or name in {BASE} where it is now",
        )
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise _damaged(folder, f"its weights are not those of the model: {str(error).splitlines()[0]}") from error
    if unusable := [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]:
        raise _damaged(folder, f"its weights `{unusable[0]}` are not all numbers")
    model.train(False)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return FrozenRewardModel(model=model, meaning=meaning, digest=json_digest(config), place=folder)


def check_meaning(model: FrozenRewardModel, wanted: Meaning) -> None:
    """AssetError R396 where the model knows other actions or another camera than ``wanted``."""
    known = model.meaning
    for what, theirs, ours in (
        ("actions", known.action, wanted.action),
        ("the camera of suite kind", known.suite, wanted.suite),
        ("pictures of side", known.image_size, wanted.image_size),
    ):
        if theirs != ours:
            sizes = what.startswith("pictures")
            raise AssetError(
                f"the reward model {model.place} judges {what} «{theirs}», the recipe's suite has «{ours}»",
                code="R396",
                place=str(model.place),
                hint=f"--set suite.image_size={theirs}, or train one at {ours} pixels"
                if sizes
                else "train one from trajectories of this suite: `vlarl label-segments`, then `vlarl train-prm`",
            )


def _spec(folder: Path, described: Mapping[str, Any]) -> PartSpec:
    kinds = registry.kinds("prm")
    kind = described.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise AssetError(
            f"{folder} is a reward model of kind `{kind}`, which this vlarl does not have",
            code="R395",
            place=str(folder),
            hint="install the package that offers it; `vlarl list reward-models` shows those there are",
        )
    try:
        return kinds[kind].model_validate_json(json.dumps(described))
    except ValidationError as error:
        raise _damaged(folder, "its config.json is of another version") from error


def _what_else(folder: Path) -> str:
    if not folder.is_dir():
        return ": there is no such folder"
    try:
        config = read_object(folder / CONFIG)
    except (OSError, ValueError):
        return ""
    names = config.get("architectures")
    return f" but {names[0]}, a model without an image-text head for it" if isinstance(names, list) and names else ""


def _damaged(folder: Path, reason: str) -> AssetError:
    return AssetError(
        f"the reward model {folder} is damaged: {reason}",
        code="R398",
        place=str(folder),
        hint="make it again with `vlarl train-prm`",
    )
