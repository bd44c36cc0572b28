"""What lies in a checkpoint folder: configuration, statistics and where every tensor is; read without torch.

The layout is Hugging Face's: config.json, optionally dataset_statistics.json, and model.safetensors or shards with
model.safetensors.index.json. Everything is verified here, so that later reads can only fail if files change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.digest import file_digest, json_digest
from vlarl.errors import AssetError
from vlarl.policies.openvla.folder import read_object
from vlarl.policies.openvla.sizes import Shape, check_shapes, misfit, sizes_of
from vlarl.run.documents import parse_json

CONFIG, STATISTICS = "config.json", "dataset_statistics.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}

_PICKLED = ("*.bin", "*.pt", "*.pth")
_MAX_HEADER = 100_000_000  # bytes; the format's own limit
_HINT_AGAIN = "download it again: a copy was cut short or changed"


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where one tensor's bytes are."""

    file: Path
    dtype: str  # a key of ITEM_BYTES
    shape: Shape
    start: int  # byte of the file where its data begin

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A verified checkpoint folder."""

    folder: Path
    config: Mapping[str, Any]
    statistics: Mapping[str, Any]  # dataset → {"action": {"q01": [...], ...}, ...}
    tensors: Mapping[str, StoredTensor]

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def digest(self) -> str:
        """Of configuration, statistics and weights, whole files; reads all of them."""
        files = {self.folder / name for name in (CONFIG, STATISTICS) if (self.folder / name).is_file()}
        files |= {tensor.file for tensor in self.tensors.values()}
        return json_digest({str(file.relative_to(self.folder)): file_digest(file) for file in sorted(files)})

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())


def read_layout(folder: Path) -> Layout:
    """Verify the files of a checkpoint and say what they hold; no tensor's data is read.

    Raises AssetError: R370 a file is missing, R371 pickled weights only, R372 damaged, R373 another
    architecture, R374 weights of another precision.
    """
    if not folder.is_dir():
        raise _missing(folder, f"{folder} is not a folder", "name a folder, or hf://owner/name@commit")
    if not (folder / CONFIG).is_file():
        raise _missing(folder, f"{folder} has no {CONFIG}", _hint_without_config(folder))
    config = read_object(folder / CONFIG, code="R372", hint=_HINT_AGAIN)
    if config.get("model_type") != "openvla":
        raise _at(folder / CONFIG, misfit(f"{CONFIG} describes a model of type {config.get('model_type')!r}"))
    statistics = config.get("norm_stats") or {}
    if (folder / STATISTICS).is_file():
        statistics = read_object(folder / STATISTICS, code="R372", hint=_HINT_AGAIN)
    layout = Layout(folder=folder, config=config, statistics=statistics, tensors=read_tensors(folder))
    _check(layout)
    return layout


def _check(layout: Layout) -> None:
    try:
        if any(layout.config.get("timm_override_act_layers") or ()):
            raise misfit(f"{CONFIG}: timm_override_act_layers asks for an activation other than GELU")
        # Any number of heads serves: shapes do not depend on it.
        check_shapes(layout.shapes, sizes_of(layout.shapes, layout.config, vision_heads=1))
    except AssetError as error:
        raise _at(layout.folder, error) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise _at(layout.folder / CONFIG, misfit(f"{CONFIG} has a value that cannot be used: {error}")) from error


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Where the tensors of any model's folder are; AssetError R370, R371, R372, R374."""
    if (folder / WEIGHTS).is_file():
        return dict(_stored(folder / WEIGHTS))
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    weight_map = read_object(folder / INDEX, code="R372", hint=_HINT_AGAIN).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise damaged(folder / INDEX, "it has no weight_map")
    found: dict[str, StoredTensor] = {}
    for shard in sorted({str(name) for name in weight_map.values()}):
        if Path(shard).name != shard:
            raise damaged(folder / INDEX, f"it names {shard!r}, which is not a file of the folder")
        if not (folder / shard).is_file():
            raise damaged(folder / shard, f"it is missing, and {INDEX} names it")
        held = dict(_stored(folder / shard))
        indexed = {name for name, where in weight_map.items() if where == shard}
        if differing := sorted(indexed ^ held.keys()):
            raise damaged(folder / shard, f"it and {INDEX} disagree about {differing[0]}")
        found |= held
    return found


def _stored(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of one safetensors file in the order of their data."""
    size = file.stat().st_size
    header, first = _header(file, size)
    header.pop("__metadata__", None)
    try:
        entries = sorted(header.items(), key=lambda item: int(item[1]["data_offsets"][0]))
        for name, entry in entries:
            begin, end = (int(offset) for offset in entry["data_offsets"])
            shape = tuple(int(length) for length in entry["shape"])
            if entry["dtype"] not in ITEM_BYTES:
                raise AssetError(
                    f"{name} is stored as {entry['dtype']}; vlarl reads {', '.join(ITEM_BYTES)}",
                    code="R374",
                    place=str(file),
                    hint="name the checkpoint without quantisation",
                )
            tensor = StoredTensor(file=file, dtype=entry["dtype"], shape=shape, start=first + begin)
            if begin < 0 or end - begin != tensor.num_bytes:
                raise damaged(file, f"{name} has {end - begin} bytes for the shape {list(shape)}")
            if first + end > size:
                raise damaged(file, f"it ends after {size} bytes of {first + end} or more")
            yield name, tensor
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(file, f"its header is malformed ({error!r})") from error


def _header(file: Path, size: int) -> tuple[dict[str, Any], int]:
    """The JSON header, and the byte where data begin."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise damaged(file, "it is no safetensors file, or ends within its header")
        text = stream.read(length)
    try:
        header = parse_json(text)
    except ValueError as error:
        raise damaged(file, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise damaged(file, "its header is not a JSON object")
    return header, 8 + length


def damaged(file: Path, reason: str) -> AssetError:
    return AssetError(f"{file.name} is damaged: {reason}", code="R372", place=str(file), hint=_HINT_AGAIN)


def _missing(folder: Path, message: str, hint: str) -> AssetError:
    return AssetError(message, code="R370", place=str(folder), hint=hint)


def _no_weights(folder: Path) -> AssetError:
    for pattern in _PICKLED:
        if pickled := sorted(folder.glob(pattern)):
            return AssetError(
                f"the weights are pickled ({pickled[0].name}), which vlarl never opens: loading a pickle runs its code",
                code="R371",
                place=str(folder),
                hint="where you trust the file, load it with the program that wrote it and save it again with "
                "`model.save_pretrained(folder, safe_serialization=True)`",
            )
    return _missing(
        folder,
        f"{folder} has neither {WEIGHTS} nor {INDEX}",
        f"copy the whole checkpoint: {CONFIG}, *.safetensors and the index",
    )


def _hint_without_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "the folder holds an adapter alone; name the merged checkpoint"
    return f"name the folder that {CONFIG} and the weights are in"


def _at(place: Path, error: AssetError) -> AssetError:
    return AssetError(error.message, code=error.code, place=str(place), hint=error.hint)
