"""Every way in which a folder is no checkpoint, and what the user is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from layout import SMALL, STATISTICS, write_checkpoint, write_weights
from safetensors.torch import load_file, save_file

from vlarl.errors import AssetError
from vlarl.policies.openvla.layout import read_layout
from vlarl.policies.openvla.sizes import tensor_shapes

SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "single")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "sharded", num_shards=3)


def refused(folder: Path, code: str, said: str, place: str = "") -> AssetError:
    with pytest.raises(AssetError, match=said) as caught:
        read_layout(folder)
    assert caught.value.code == code
    assert caught.value.hint
    assert str(caught.value.place).endswith(place)
    return caught.value


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_tensor_is_found_where_it_lies(tmp_path: Path, num_shards: int, dtype: torch.dtype) -> None:
    folder = write_checkpoint(tmp_path / "it", dtype=dtype, num_shards=num_shards)
    layout = read_layout(folder)
    assert layout.shapes == tensor_shapes(SMALL)
    for file in folder.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            stored = layout.tensors[name]
            data = file.read_bytes()[stored.start : stored.start + stored.num_bytes]
            assert stored.file == file
            assert data == tensor.flatten().view(torch.uint8).numpy().tobytes()


def test_statistics_beside_the_configuration_come_first(single: Path) -> None:
    assert read_layout(single).statistics == STATISTICS
    (single / "dataset_statistics.json").write_text(json.dumps({"other": {}}))
    assert read_layout(single).statistics == {"other": {}}


def test_one_file_comes_before_shards(sharded: Path) -> None:
    tensors = {name: t for file in sharded.glob("*.safetensors") for name, t in load_file(file).items()}
    write_weights(sharded, tensors)
    assert {stored.file.name for stored in read_layout(sharded).tensors.values()} == {"model.safetensors"}


def test_missing_files(tmp_path: Path, single: Path, sharded: Path) -> None:
    refused(tmp_path / "absent", "R370", "is not a folder")
    refused(single / "config.json", "R370", "is not a folder")
    (sharded / INDEX).unlink()
    refused(sharded, "R370", "neither model.safetensors nor model.safetensors.index.json")
    (single / "config.json").unlink()
    refused(single, "R370", "has no config.json")
    (single / "adapter_config.json").write_text("{}")
    assert "merged" in str(refused(single, "R370", "has no config.json").hint)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt"])
def test_pickled_weights_are_never_opened(single: Path, name: str) -> None:
    (single / "model.safetensors").rename(single / name)
    error = refused(single, "R371", f"pickled .{name}.", "single")
    assert "safe_serialization=True" in str(error.hint)


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / SHARD).unlink()
    refused(sharded, "R372", f"{SHARD} is damaged: it is missing", SHARD)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -1])
def test_a_truncated_shard(sharded: Path, kept: float) -> None:
    data = (sharded / SHARD).read_bytes()
    (sharded / SHARD).write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    refused(sharded, "R372", f"{SHARD} is damaged", SHARD)


@pytest.mark.parametrize(
    "mistake",
    [
        {"weight_map": {}},
        {},
        {"weight_map": {"a": "../outside.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"language_model.lm_head.weight": SHARD}},
    ],
)
def test_an_index_that_is_not_of_the_shards(sharded: Path, mistake: dict[str, object]) -> None:
    (sharded / INDEX).write_text(json.dumps(mistake))
    refused(sharded, "R372", "is damaged")


def rewrite_header(file: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


HEAD = "language_model.lm_head.weight"


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda header: header[HEAD].update(shape=[360, 47]), "R372", "bytes for the shape"),
        (lambda header: header[HEAD].pop("shape"), "R372", "malformed"),
        (lambda header: header[HEAD].update(data_offsets=["a", "b"]), "R372", "malformed"),
        (lambda header: header.update({HEAD: 3}), "R372", "malformed"),
        (lambda header: header[HEAD].update(dtype="F8_E4M3"), "R374", "stored as F8_E4M3"),
        (lambda header: header[HEAD].update(dtype="I8"), "R374", "stored as I8"),
        (lambda header: header.pop(HEAD), "R373", f"lacks {HEAD}"),
        (lambda header: header.update({"extra": header[HEAD]}), "R373", "no place for: extra"),
    ],
)
def test_headers_that_do_not_hold(
    single: Path, change: Callable[[dict[str, dict[str, object]]], object], code: str, said: str
) -> None:
    rewrite_header(single / "model.safetensors", change)
    refused(single, code, said)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff" * 20, (2).to_bytes(8, "little") + b"[]", b"\x04" + b"\0" * 7 + b"nope"]
)
def test_what_is_no_safetensors_file(single: Path, data: bytes) -> None:
    (single / "model.safetensors").write_bytes(data)
    refused(single, "R372", "model.safetensors is damaged", "model.safetensors")


def test_a_tensor_of_the_wrong_shape(single: Path) -> None:
    tensors = load_file(single / "model.safetensors")
    tensors[HEAD] = tensors[HEAD].T.contiguous()
    save_file(tensors, single / "model.safetensors")
    refused(single, "R373", r"\[48, 360\] instead of \[360, 48\]", "single")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "model of type 'llama'"),
        ({"model_type": None}, "model of type None"),
        ({"timm_override_act_layers": ["quick_gelu", None]}, "activation other than GELU"),
        ({"n_action_bins": "many"}, "cannot be used"),
        ({"text_config": [1]}, "cannot be used"),
        ({"text_config": {"num_attention_heads": 4, "num_hidden_layers": 7}}, "num_hidden_layers"),
    ],
)
def test_configurations_of_something_else(single: Path, changes: dict[str, object], said: str) -> None:
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps(config | changes))
    refused(single, "R373", said)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "dataset_statistics.json"])
def test_json_that_is_none(single: Path, name: str, text: str) -> None:
    (single / name).write_text(text)
    refused(single, "R372", f"{name} of the checkpoint", name)
