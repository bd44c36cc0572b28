"""Sizes of a checkpoint on disk, read from its configuration and the headers of its safetensors files alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from vlarl.errors import AssetError
from vlarl.plan_model import Linear, Llama, OpenVla, Tower
from vlarl.run.documents import parse_json, read_object

_MAX_HEADER = 100 * 2**20  # bytes; the format's own limit
_TOWERS = {"DINOv2": "vision_backbone.featurizer", "SigLIP": "vision_backbone.fused_featurizer"}
_LAYER = "language_model.model.layers"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a checkpoint folder says about itself."""

    sizes: OpenVla
    parameters: int  # of all tensors
    bytes: int  # of the files
    statistics: tuple[str, ...]  # keys of `norm_stats`


def read_checkpoint(folder: Path) -> Found:
    """Sizes of the OpenVLA checkpoint in ``folder``; reads kilobytes, whatever the size of the weights.

    Raises AssetError where the folder holds no such checkpoint or a file is cut short.
    """
    config = _json(folder / "config.json")
    files = _weight_files(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes.update(read_shapes(file))
    try:
        sizes = _sizes(shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise _unusable(folder, f"its tensors are not those of an OpenVLA model ({error})") from error
    statistics = config.get("norm_stats") or {}
    return Found(
        sizes=sizes,
        parameters=sum(map(prod, shapes.values())),
        bytes=sum(file.stat().st_size for file in files),
        statistics=tuple(sorted(statistics)) if isinstance(statistics, dict) else (),
    )


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a safetensors file: JSON behind its length, 8 bytes, little-endian."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= min(_MAX_HEADER, file.stat().st_size - 8):
                raise ValueError("no header")
            header = parse_json(stream.read(length))
        return {name: tuple(map(int, each["shape"])) for name, each in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(file, f"it is not a safetensors file ({error})") from error


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _json(index).get("weight_map")
        shards = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
        if outside := [name for name in shards if Path(name).name != name]:
            raise _unusable(index, f"it names {outside[0]!r}, which is not a file of the folder")
        files = [folder / name for name in shards]
    else:
        files = sorted(folder.glob("model*.safetensors"))
    missing = [file.name for file in files if not os.path.isfile(file)]  # of too long a name as well
    if missing or not files:
        what = f"{', '.join(missing)} missing" if missing else "no model*.safetensors"
        raise _unusable(folder, what)
    return files


def _sizes(shapes: Shapes) -> OpenVla:
    towers = {name: _tower(shapes, prefix) for name, prefix in _TOWERS.items() if _depth(shapes, f"{prefix}.blocks")}
    if not towers:
        raise KeyError("vision_backbone.featurizer.blocks")
    projector = tuple(
        Linear(name=name, fan_in=shape[1], fan_out=shape[0], count=1, bias=True)
        for name in ("fc1", "fc2", "fc3")
        if (shape := shapes.get(f"projector.{name}.weight")) is not None
    )
    vocabulary, width = shapes["language_model.lm_head.weight"]
    language = Llama(
        width=width,
        depth=_depth(shapes, _LAYER),
        mlp=shapes[f"{_LAYER}.0.mlp.gate_proj.weight"][0],
        vocabulary=vocabulary,
        key_width=shapes[f"{_LAYER}.0.self_attn.k_proj.weight"][0],
    )
    return OpenVla(towers=towers, projector=projector, language=language)


def _tower(shapes: Shapes, prefix: str) -> Tower:
    width, _, patch, _ = shapes[f"{prefix}.patch_embed.proj.weight"]
    pool = shapes.get(f"{prefix}.attn_pool.mlp.fc1.weight")
    prefixes = (shapes.get(f"{prefix}.{name}") for name in ("cls_token", "reg_token"))
    return Tower(
        width=width,
        depth=_depth(shapes, f"{prefix}.blocks"),
        mlp=shapes[f"{prefix}.blocks.0.mlp.fc1.weight"][0],
        num_patches=shapes[f"{prefix}.pos_embed"][1],
        patch=patch,
        num_prefix=sum(shape[1] for shape in prefixes if shape is not None),
        layer_scale=f"{prefix}.blocks.0.ls1.scale_factor" in shapes,
        pool_mlp=pool[0] if pool is not None else None,
    )


def _depth(shapes: Shapes, prefix: str) -> int:
    numbers = (name.removeprefix(f"{prefix}.").partition(".")[0] for name in shapes if name.startswith(f"{prefix}."))
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)


def _json(file: Path) -> dict[str, Any]:
    try:
        return read_object(file)
    except (OSError, ValueError) as error:
        raise _unusable(file, f"it cannot be read ({error})") from error


def _unusable(place: Path, why: str) -> AssetError:
    return AssetError(
        f"the checkpoint cannot be planned with: {why}",
        code="R300",
        place=str(place),
        hint="download it again; `policy.checkpoint` names the folder that holds config.json and the weights",
    )
