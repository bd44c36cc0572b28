"""Weights in and out: what is loaded, what is kept, and a round trip to the bit."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from layout import SMALL, write_checkpoint, write_weights
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from vlarl.errors import AssetError, EnvironmentUnusable
from vlarl.policies.openvla import checkpoint
from vlarl.policies.openvla.checkpoint import (
    Layout,
    _is_its_own,
    export_checkpoint,
    load_model,
    read_layout,
    read_tensor,
)
from vlarl.policies.openvla.sizes import is_unused, sizes_of, tensor_shapes

TINY = Path(__file__).parent / "prismatic_tiny"
HEAD, QUERY = "language_model.lm_head.weight", "language_model.model.layers.1.self_attn.q_proj.weight"
BESIDE = {"tokenizer.json": b"{}\r\n", "tokenizer.model": b"\0\1", "preprocessor_config.json": b'{"a":  1}'}


@pytest.fixture
def source(tmp_path: Path) -> Layout:
    folder = write_checkpoint(tmp_path / "source", num_shards=2)
    for name, data in BESIDE.items():
        (folder / name).write_bytes(data)
    return read_layout(folder)


def all_tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def digests(folder: Path) -> dict[str, str]:
    """Name → digest of precision, shape and bytes of every tensor."""
    found = {}
    for name, tensor in all_tensors(folder).items():
        data = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        found[name] = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + data).hexdigest()
    return found


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_all_that_is_used_is_loaded(tmp_path: Path, stored: torch.dtype, wanted: torch.dtype, num_shards: int) -> None:
    folder = write_checkpoint(tmp_path / "it", dtype=stored, num_shards=num_shards)
    model = load_model(read_layout(folder), SMALL, dtype=wanted)
    expected = {n: t.to(wanted) for n, t in all_tensors(folder).items() if not is_unused(n, SMALL)}
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {tensor.dtype for tensor in found.values()} == {wanted}
    assert not model.training


def test_what_is_never_used_is_never_loaded(source: Layout) -> None:
    unused = {name for name in source.tensors if is_unused(name, SMALL)}
    for part in (
        "fused_featurizer.attn_pool.",
        "fused_featurizer.blocks.2.",
        ".featurizer.blocks.3.",
        "featurizer.norm.",
    ):
        assert any(part in name for name in unused)
    for stored in (source.tensors[name] for name in unused):
        with stored.file.open("r+b") as stream:
            stream.seek(stored.start)
            stream.write(b"\xff" * stored.num_bytes)  # NaN
    model = load_model(source, SMALL, dtype=torch.float32)
    assert model.state_dict().keys() == source.tensors.keys() - unused
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_parameters_do_not_depend_on_the_file_any_more(source: Layout) -> None:
    model = load_model(source, SMALL, dtype=torch.float32)
    before = model.language_model.lm_head.weight.sum().item()
    for file in {stored.file for stored in source.tensors.values()}:
        file.write_bytes(b"\0" * file.stat().st_size)
    assert model.language_model.lm_head.weight.sum().item() == before != 0


def test_files_that_change_while_they_are_read(source: Layout) -> None:
    stored = source.tensors[HEAD]
    os.truncate(stored.file, stored.start + 10)
    with pytest.raises(AssetError, match="became shorter") as caught:
        load_model(source, SMALL, dtype=torch.float32)
    assert caught.value.code == "R372"
    stored.file.unlink()
    with pytest.raises(AssetError, match="removed after"):
        read_tensor(stored)


@pytest.mark.parametrize("max_shard_bytes", [checkpoint.MAX_SHARD_BYTES, 40_000, 1])
def test_in_equals_out(tmp_path: Path, source: Layout, max_shard_bytes: int) -> None:
    out = export_checkpoint(tmp_path / "a" / "out", source, max_shard_bytes=max_shard_bytes)
    assert digests(out) == digests(source.folder)
    assert read_layout(out).shapes == source.shapes
    for name in ("config.json", *BESIDE):
        assert (out / name).read_bytes() == (source.folder / name).read_bytes()
    shards = sorted(out.glob("*.safetensors"))
    expected = {checkpoint.MAX_SHARD_BYTES: 1, 1: len(source.tensors)}
    assert len(shards) == expected.get(max_shard_bytes, len(shards))
    assert (out / "model.safetensors").is_file() == (len(shards) == 1)
    assert (out / "model.safetensors.index.json").is_file() == (len(shards) > 1)
    for file in shards:
        with safe_open(file, "pt") as reader:
            assert reader.metadata() == {"format": "pt"}
        held = load_file(file)
        assert len(held) == 1 or sum(source.tensors[name].num_bytes for name in held) <= max_shard_bytes


def test_the_original_checkpoint_goes_through_unchanged(tmp_path: Path) -> None:
    layout = read_layout(TINY)
    sizes = sizes_of(layout.shapes, layout.config, vision_heads=4)
    trained = load_model(layout, sizes, dtype=torch.float32)
    (folder := tmp_path / "tiny").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, folder)
    out = export_checkpoint(tmp_path / "out", read_layout(folder), trained.state_dict())
    assert digests(out) == digests(folder)
    assert len(digests(out)) == 130


def test_the_index_is_that_of_the_files(tmp_path: Path, source: Layout) -> None:
    out = export_checkpoint(tmp_path / "out", source, max_shard_bytes=40_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in all_tensors(out).values())
    names = sorted(path.name for path in out.glob("*.safetensors"))
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    assert index["weight_map"].keys() == tensor_shapes(SMALL).keys()


@pytest.mark.parametrize("as_iterator", [False, True])
def test_replaced_tensors_and_no_others_change(tmp_path: Path, source: Layout, as_iterator: bool) -> None:
    model = load_model(source, SMALL, dtype=torch.float32)
    changed = {QUERY: model.state_dict()[QUERY] + 1, HEAD: torch.zeros(360, 48).T.contiguous().T}
    replaced = iter(changed.items()) if as_iterator else changed
    out = export_checkpoint(tmp_path / "out", source, replaced, max_shard_bytes=40_000)
    before, after = all_tensors(source.folder), all_tensors(out)
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(changed)
    assert all(torch.equal(after[name], tensor) for name, tensor in changed.items())


def test_replaced_tensors_take_the_precision_of_the_source(tmp_path: Path) -> None:
    source = read_layout(write_checkpoint(tmp_path / "half", dtype=torch.bfloat16))
    wanted = torch.linspace(0, 1, 48 * 48).reshape(48, 48)
    out = export_checkpoint(tmp_path / "out", source, {QUERY: wanted.requires_grad_()})
    found = all_tensors(out)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert torch.equal(found[QUERY], wanted.detach().bfloat16())


def test_mixed_precision_survives(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "mixed", dtype=torch.bfloat16)
    mixed = {name: t.float() if "norm" in name else t for name, t in all_tensors(folder).items()}
    write_weights(folder, mixed)
    source = read_layout(folder)
    out = export_checkpoint(tmp_path / "out", source)
    assert digests(out) == digests(folder)
    for stored in read_layout(out).tensors.values():
        assert stored.start % (4 if stored.dtype == "F32" else 2) == 0


def test_weights_of_others_and_hidden_files_stay_behind(tmp_path: Path, source: Layout) -> None:
    for name in ("pytorch_model.bin", ".secret.json", "README.md"):
        (source.folder / name).write_text("x")
    (source.folder / "configuration_prismatic.py").write_text("raise SystemExit  # copied, not run")
    out = export_checkpoint(tmp_path / "out", source)
    names = {path.name for path in out.iterdir()}
    assert names == {"config.json", "model.safetensors", "configuration_prismatic.py", *BESIDE}


def test_an_export_that_exists_is_left_alone(tmp_path: Path, source: Layout) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(AssetError, match="exists already") as caught:
        export_checkpoint(tmp_path / "out", source)
    assert caught.value.code == "R375"
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, source: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Iterator[tuple[str, Tensor]]:
        yield HEAD, torch.zeros(360, 48)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(tmp_path / "out", source, interrupted())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with pytest.raises(EnvironmentUnusable, match="is full"):
        export_checkpoint(tmp_path / "out", source)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    "replaced",
    [
        [("language_model.lm_head.bias", torch.zeros(360))],
        [(HEAD, torch.zeros(48, 360))],
        [(HEAD, torch.zeros(360, 48)), (HEAD, torch.zeros(360, 48))],
    ],
)
def test_tensors_that_the_layout_has_not_are_a_mistake(
    tmp_path: Path, source: Layout, replaced: list[tuple[str, Tensor]]
) -> None:
    with pytest.raises(AssertionError):
        export_checkpoint(tmp_path / "out", source, replaced)


def test_links_that_leave_a_checkpoint_are_not_its_own(tmp_path: Path) -> None:
    """A folder at the root of the file system has no folder two above it."""
    assert _is_its_own(Path("/config.json"), Path("/"))
    assert _is_its_own(Path("/model/config.json"), Path("/model"))
    folder, blobs = tmp_path / "snapshots" / "commit", tmp_path / "blobs"
    for place in (folder, blobs):
        place.mkdir(parents=True)
    (blobs / "abc").write_text("{}")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "config.json").symlink_to(blobs / "abc")
    (folder / "secret.json").symlink_to(tmp_path / "secret.json")
    assert _is_its_own(folder / "config.json", folder)
    assert not _is_its_own(folder / "secret.json", folder)
