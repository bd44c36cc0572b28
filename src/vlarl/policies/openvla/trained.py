"""What a run has trained, as others load it: tensors of the checkpoint's own layout, or the files of peft.

Nothing here builds a model: the base is read tensor by tensor, changed in a copy, and let go.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlarl.errors import AssetError
from vlarl.policies.openvla.checkpoint import read_tensor
from vlarl.policies.openvla.hub import SCHEME
from vlarl.policies.openvla.layout import STATISTICS, Layout
from vlarl.recipe.specs.policies import LoraSpec
from vlarl.run.files import TEMPORARY, disk_errors, publish_folder, sync_folder, write_synced

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_PREFIX = "base_model.model."  # peft's two wrappers around the model


def adapted_layers(adapters: Mapping[str, Tensor]) -> list[str]:
    """Layers that have a pair ``<layer>.lora_A.weight`` (r, in), ``<layer>.lora_B.weight`` (out, r); sorted."""
    layers = sorted({name.removesuffix(_DOWN).removesuffix(_UP) for name in adapters})
    assert set(adapters) == {f"{layer}{part}" for layer in layers for part in (_DOWN, _UP)}, "pairs and nothing else"
    return layers


def merged(source: Layout, adapters: Mapping[str, Tensor], spec: LoraSpec) -> Iterator[tuple[str, Tensor]]:
    """``<layer>.weight`` (out, in) float32 with the adapters added, for each layer that they change.

    The sum is made in fp32 from the tensor as it is stored. Adapters that are still zero give nothing, so that the
    base's bytes are copied: adding a zero would turn -0 into 0.
    """
    for layer in adapted_layers(adapters):
        down, up = adapters[layer + _DOWN].float(), adapters[layer + _UP].float()
        if up.any():
            base = read_tensor(source.tensors[f"{layer}.weight"]).float()
            yield f"{layer}.weight", base + (up @ down) * (spec.alpha / spec.rank)


def write_adapter(out: Path, adapters: Mapping[str, Tensor], spec: LoraSpec, *, source: Layout, reference: str) -> Path:
    """Write adapters as ``PeftModel.from_pretrained`` reads them into the new folder ``out``, whole or not at all.

    ``reference`` names the base that they belong to. Beside them lie the statistics of ``source``, without which
    nobody knows what an action means. The same adapters give the same bytes.
    Raises AssetError (R375) if ``out`` exists, EnvironmentUnusable on a full disk.
    """
    from safetensors.torch import save

    if out.exists():
        raise AssetError(
            f"{out} exists already", code="R375", place=str(out), hint="name a folder that does not exist yet"
        )
    temporary = out.with_name(f"{TEMPORARY}{out.name}-{os.getpid()}")
    with disk_errors(out):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            tensors = {f"{_PREFIX}{name}": tensor.contiguous() for name, tensor in adapters.items()}
            write_synced(temporary / ADAPTER_WEIGHTS, save(tensors, metadata={"format": "pt"}))
            _write_json(temporary / ADAPTER_CONFIG, _adapter_config(adapted_layers(adapters), spec, reference))
            _write_json(temporary / STATISTICS, source.statistics)
            sync_folder(temporary)
            publish_folder(temporary, out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return out


def _adapter_config(layers: list[str], spec: LoraSpec, reference: str) -> dict[str, Any]:
    """The keys that every version of peft knows, since older ones refuse those they do not.

    Layers by their whole names: "all-linear" would reach those that this model never runs as well.
    """
    name, _, revision = reference.removeprefix(SCHEME).partition("@") if _is_hub(reference) else (reference, "", "")
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": name,
        "revision": revision or None,
        "inference_mode": True,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": layers,
        "modules_to_save": None,
    }


def _is_hub(reference: str) -> bool:
    return reference.startswith(SCHEME)


def _write_json(path: Path, value: Any) -> None:
    write_synced(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())
