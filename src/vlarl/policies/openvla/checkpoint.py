"""Weights from a checkpoint folder into a model, and from a model into a folder of the same layout.

Tensors are read one at a time from their place in the file straight into the model. A memory map would count every
page it touched beside the model until the shard is closed, which for a shard of 5 GB is a third of a 15 GB model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlarl.errors import AssetError
from vlarl.policies.openvla.layout import INDEX, WEIGHTS, Layout, StoredTensor, damaged, read_layout
from vlarl.policies.openvla.modeling import OpenVlaModel, empty_model
from vlarl.policies.openvla.sizes import OpenVlaSizes
from vlarl.run.files import TEMPORARY, disk_errors, publish_folder, sync_folder, write_synced

__all__ = ["Layout", "export_checkpoint", "load_model", "read_layout", "read_tensor"]

MAX_SHARD_BYTES = 5_000_000_000

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_COPIED = {".json", ".model", ".txt", ".jinja", ".py"}  # beside the weights; copied, never read or run
_CHUNK_BYTES = 1 << 24


def load_model(
    layout: Layout, sizes: OpenVlaSizes, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> OpenVlaModel:
    """The model of ``layout`` in ``dtype`` on ``device``, in eval mode.

    Host memory above the model itself: one tensor, and only where ``dtype`` or ``device`` differ from the file's.
    Raises AssetError (R372) when a file changed since ``layout`` was read.
    """
    model = empty_model(sizes, dtype=dtype, device=device)
    for name, parameter in model.named_parameters():
        _read_into(parameter.data, layout.tensors[name])
    return model


def read_tensor(stored: StoredTensor) -> Tensor:
    """One tensor as it is stored, on the CPU."""
    tensor = torch.empty(stored.shape, dtype=_DTYPES[stored.dtype])
    _read_into(tensor, stored)
    return tensor


def export_checkpoint(
    out: Path,
    source: Layout,
    replaced: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] = (),
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write ``source`` with some tensors replaced into the new folder ``out``, which appears whole or not at all.

    ``replaced`` may be an iterator, so that a merge needs memory for one tensor at a time; each is written in the
    precision in which ``source`` stores it. All other tensors, those that the model never loads among them, and the
    configuration, statistics, tokenizer and processor files are copied byte for byte.
    Raises AssetError (R375) if ``out`` exists, EnvironmentUnusable on a full disk.
    """
    if out.exists():
        raise AssetError(
            f"{out} exists already", code="R375", place=str(out), hint="name a folder that does not exist yet"
        )
    temporary = out.with_name(f"{TEMPORARY}{out.name}-{os.getpid()}")
    with disk_errors(out):
        shutil.rmtree(temporary, ignore_errors=True)  # in a container every process may have this number
        temporary.mkdir(parents=True)
        try:
            _copy_beside_weights(source.folder, temporary)
            _write_weights(temporary, source, replaced, max_shard_bytes)
            publish_folder(temporary, out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return out


def _read_into(target: Tensor, stored: StoredTensor) -> None:
    dtype = _DTYPES[stored.dtype]
    direct = target.device.type == "cpu" and target.dtype == dtype and target.is_contiguous()
    buffer = target if direct else torch.empty(stored.shape, dtype=dtype)
    view = _bytes_of(buffer)
    with _opened(stored) as stream:
        done = 0
        while done < len(view):  # one read returns 2 GB at most
            count = stream.readinto(view[done:])
            if not count:
                raise damaged(stored.file, "it became shorter while it was read")
            done += count
    if not direct:
        target.copy_(buffer)


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU; numpy has no bfloat16, but bytes."""
    flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


@contextmanager
def _opened(stored: StoredTensor) -> Iterator[FileIO]:
    """The file at the tensor's first byte, unbuffered."""
    try:
        stream = stored.file.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise damaged(stored.file, "it was removed after the checkpoint was opened") from error
    with stream:
        stream.seek(stored.start)
        yield stream


def _copy_beside_weights(folder: Path, out: Path) -> None:
    for file in sorted(folder.iterdir()):
        wanted = file.suffix in _COPIED and file.name != INDEX and not file.name.startswith(".")
        if wanted and file.is_file() and _is_its_own(file, folder):
            write_synced(out / file.name, file.read_bytes())


def _is_its_own(file: Path, folder: Path) -> bool:
    """Whether a link, if ``file`` is one, stays in the folder or in the hub cache's store beside it."""
    home = folder.resolve()
    return file.resolve().parent in (home, home.parent.parent / "blobs")


@dataclass(frozen=True, kw_only=True)
class _Shard:
    file: Path
    tensors: Mapping[str, StoredTensor]  # in the source
    starts: Mapping[str, int]  # byte of ``file`` where each tensor's data begin
    header: bytes


def _write_weights(
    out: Path, source: Layout, replaced: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], max_shard_bytes: int
) -> None:
    shards = _shards(out, source, max_shard_bytes)
    shard_of = {name: shard for shard in shards for name in shard.tensors}
    for shard in shards:
        shard.file.write_bytes(shard.header)
    written: set[str] = set()
    for name, tensor in replaced.items() if isinstance(replaced, Mapping) else replaced:
        assert name in shard_of.keys() - written, name
        _write_tensor(shard_of[name], name, tensor)
        written.add(name)
    for shard in shards:
        for name in shard.tensors.keys() - written:
            _copy_tensor(shard, name)
        with shard.file.open("rb") as stream:
            os.fsync(stream.fileno())
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": source.num_bytes},
            "weight_map": {name: shard_of[name].file.name for name in sorted(shard_of)},
        }
        write_synced(out / INDEX, (json.dumps(index, indent=2) + "\n").encode())
    sync_folder(out)


def _write_tensor(shard: _Shard, name: str, tensor: Tensor) -> None:
    stored = shard.tensors[name]
    assert tuple(tensor.shape) == stored.shape, (name, tensor.shape, stored.shape)
    data = tensor.detach().to(device="cpu", dtype=_DTYPES[stored.dtype]).contiguous()
    with shard.file.open("r+b") as stream:
        stream.seek(shard.starts[name])
        stream.write(_bytes_of(data))


def _copy_tensor(shard: _Shard, name: str) -> None:
    stored = shard.tensors[name]
    left = stored.num_bytes
    with _opened(stored) as source, shard.file.open("r+b") as target:
        target.seek(shard.starts[name])
        while left:
            chunk = source.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise damaged(stored.file, "it became shorter while it was read")
            target.write(chunk)
            left -= len(chunk)


def _shards(out: Path, source: Layout, max_bytes: int) -> list[_Shard]:
    """Tensors in the source's order, as many to a shard as fit; a larger one has a shard of its own."""
    groups: list[dict[str, StoredTensor]] = [{}]
    filled = 0
    for name, stored in source.tensors.items():
        if groups[-1] and filled + stored.num_bytes > max_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = stored
        filled += stored.num_bytes
    if len(groups) == 1:
        return [_shard(out / WEIGHTS, groups[0])]
    return [_shard(out / f"model-{i:05d}-of-{len(groups):05d}.safetensors", g) for i, g in enumerate(groups, start=1)]


def _shard(file: Path, tensors: Mapping[str, StoredTensor]) -> _Shard:
    """The wider types come first, so that every tensor is aligned to its own width."""
    ordered = sorted(tensors, key=lambda name: (tensors[name].dtype != "F32", name))
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    begins: dict[str, int] = {}
    end = 0
    for name in ordered:
        stored, begins[name] = tensors[name], end
        end += stored.num_bytes
        entries[name] = {"dtype": stored.dtype, "shape": list(stored.shape), "data_offsets": [begins[name], end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    starts = {name: len(header) + begin for name, begin in begins.items()}
    return _Shard(file=file, tensors=tensors, starts=starts, header=header)
