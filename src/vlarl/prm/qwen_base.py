"""The model that a `qwen_vl` reward model adapts: a checkpoint folder, verified before anything is loaded.

The network is built by transformers from config.json and safetensors alone. Tokenizer and pictures are taken apart from
it, because the processors of transformers 5 need torchvision: tokenizer.json is read by the ``tokenizers`` library, and
preprocessor_config.json fills the image processor that works on PIL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer

from vlarl.digest import file_digest, json_digest
from vlarl.errors import AssetError, RecipeError
from vlarl.policies.openvla.folder import read_object
from vlarl.policies.openvla.hub import SCHEME, pinned, resolve
from vlarl.policies.openvla.layout import CONFIG, INDEX, read_tensors
from vlarl.policies.tokenizer_file import read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILY = ("qwen2_vl", "qwen2_5_vl")  # by config.json's model_type
TOKENIZER, PICTURES, ADAPTER = "tokenizer.json", "preprocessor_config.json", "adapter_config.json"
_HINT_AGAIN = "download it again: a copy was cut short or changed"
_HINT_WHOLE = "copy the whole checkpoint: *.json and *.safetensors"
_NOT_ARCHITECTURE = {"auto_map", "attn_implementation", "quantization_config", "transformers_weights", "dtype"}
_SIZES = {"patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": "temporal_patch_size"}


@dataclass(frozen=True, kw_only=True)
class Base:
    """A checkpoint of the family, its files whole; no tensor has been read."""

    folder: Path
    reference: str  # where it is found again: an absolute path, or hf://owner/name@commit
    name: str  # for people
    digest: str  # of configuration, tokenizer, image processor and weights
    config: Mapping[str, Any]
    tokenizer: Tokenizer


def open_base(reference: str) -> Base:
    """Find and verify a checkpoint; all of its bytes are read for the digest.

    RecipeError R222 for a malformed reference. AssetError R370-R372, R374 for files that are missing, pickled, damaged
    or of another precision, R376 where the hub does not give them, R383 without a tokenizer, R395 for another model.
    """
    folder = _folder(reference)
    if not (folder / CONFIG).is_file():
        what = f"{folder} has no {CONFIG}" if folder.is_dir() else f"{folder} is not a folder"
        raise AssetError(what, code="R370", place=str(folder), hint="name a folder, or hf://owner/name@commit")
    config = read_object(folder / CONFIG, code="R372", hint=_HINT_AGAIN)
    if config.get("model_type") not in FAMILY or (folder / ADAPTER).is_file():
        raise not_answering(folder, _what_it_is(folder, config))
    for name in (TOKENIZER, PICTURES):
        if not (folder / name).is_file():
            raise AssetError(f"{folder} has no {name}", code="R370", place=str(folder), hint=_HINT_WHOLE)
    weights = {tensor.file.name for tensor in read_tensors(folder).values()}
    names = {CONFIG, TOKENIZER, PICTURES, *weights, *([INDEX] if (folder / INDEX).is_file() else [])}
    return Base(
        folder=folder,
        reference=pinned(reference, folder) if reference.startswith(SCHEME) else str(folder.resolve()),
        name=pinned(reference, folder),
        digest=json_digest({name: file_digest(folder / name) for name in sorted(names)}),
        config=config,
        tokenizer=_tokenizer(folder / TOKENIZER),
    )


def load_network(base: Base, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The frozen network; AssetError R395 where the files give none with a head over its vocabulary."""
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        described = _architecture_alone(base.config)
        network, loaded = AutoModelForImageTextToText.from_pretrained(
            base.folder,
            config=AutoConfig.for_model(described.pop("model_type"), **described),
            trust_remote_code=False,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # validation of a configuration raises errors of its own, dependencies others
        first = str(error).strip().partition("\n")[0]
        raise not_answering(base.folder, f"whose files give no network: {first}") from error
    absent = sorted(map(str, loaded["missing_keys"]))
    if absent:
        head = "a model without an image-text head, " if any(name.startswith("lm_head") for name in absent) else ""
        raise not_answering(base.folder, f"{head}whose weights lack {', '.join(absent[:3])}")
    made: PreTrainedModel = network.to(device)
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made


def _architecture_alone(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without what would choose other files, other code or another arithmetic than those asked for."""
    return {
        key: _architecture_alone(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if not key.startswith("_") and key not in _NOT_ARCHITECTURE
    }


class Pictures:
    """Frames to patches, as the checkpoint's preprocessor_config.json says."""

    def __init__(self, base: Base) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        path = base.folder / PICTURES
        try:
            self._processor = Qwen2VLImageProcessorPil.from_dict(read_object(path, code="R382", hint=_HINT_AGAIN))
            vision = base.config.get("vision_config") or {}
            for ours, theirs in _SIZES.items():
                size = getattr(self._processor, ours)
                if vision.get(theirs, size) != size:
                    raise ValueError(f"its {ours} is {size}, the network has {vision[theirs]}")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise AssetError(
                f"{PICTURES} of {base.folder} cannot be used: {error}",
                code="R382",
                place=str(path),
                hint="take it from the repository that the weights are from",
            ) from error

    def patches(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Patches (rows, D) float32 of (n, H, W, 3) uint8, frame after frame, and the frames' grids (n, 3) int64."""
        found = self._processor(images=list(images), input_data_format="channels_last", return_tensors="np")
        return found["pixel_values"], found["image_grid_thw"]

    def num_tokens(self, grid: np.ndarray) -> int:
        """Tokens that a frame of this grid (3,) takes in the prompt."""
        return int(grid.prod()) // self._processor.merge_size**2


def not_answering(folder: Path, what: str) -> AssetError:
    return AssetError(
        f"{folder} holds {what}" if not what.startswith("whose") else f"{folder} holds a model {what}",
        code="R395",
        place=str(folder),
        hint=f"`prm.checkpoint` names an image-text model of the Qwen-VL family ({', '.join(FAMILY)})",
    )


def _folder(reference: str) -> Path:
    try:
        return resolve(reference)
    except RecipeError as error:
        hint = "for instance `--set prm.checkpoint=hf://Qwen/Qwen2-VL-2B-Instruct@COMMIT`"
        raise RecipeError(error.message, code=error.code, place="prm.checkpoint", hint=hint) from error


def _what_it_is(folder: Path, config: Mapping[str, Any]) -> str:
    if (folder / ADAPTER).is_file():
        return "adapters beside a model; merge them first"
    names = config.get("architectures")
    named = names[0] if isinstance(names, list) and names else f"type {config.get('model_type')!r}"
    return f"a model without an image-text head of the Qwen-VL family: {named}"


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return read_tokenizer(path)
    except ValueError as error:
        raise unusable_tokenizer(path, str(error)) from error


def unusable_tokenizer(path: Path, reason: str) -> AssetError:
    return AssetError(
        f"{path.name} cannot be used: {reason}",
        code="R383",
        place=str(path),
        hint="take tokenizer.json from the repository that the weights are from",
    )
