"""Host memory of loading an OpenVLA checkpoint, beside the size of the model.

    python benchmarks/openvla_load.py [--layers 10] [--shard-gb 0.25]

Writes a checkpoint of random bfloat16 weights, about 1.1 GB, in shards into a temporary folder, and loads it in a fresh
process. Peaks are the kernel's (VmHWM), so pages of mapped files count. A second process that only imports tells how
much of the peak is not the model's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from vlarl.policies.openvla.checkpoint import export_checkpoint, read_layout
from vlarl.policies.openvla.sizes import PUBLISHED, LanguageSizes, OpenVlaSizes, tensor_shapes

BOUND = 1.2  # of the model's size
VISION_BLOCKS = 6  # of each tower, at the published width

CHILD = """
import sys, time
from pathlib import Path
import torch
from vlarl.policies.openvla.checkpoint import load_model, read_layout
from vlarl.policies.openvla.sizes import sizes_of
began = time.perf_counter()
if len(sys.argv) > 1:
    layout = read_layout(Path(sys.argv[1]))
    model = load_model(layout, sizes_of(layout.shapes, layout.config, 16), dtype=torch.bfloat16)
print(time.perf_counter() - began)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def sizes_with(num_layers: int) -> OpenVlaSizes:
    return replace(
        PUBLISHED,
        featurizer=replace(PUBLISHED.featurizer, num_blocks=VISION_BLOCKS),
        fused_featurizer=replace(PUBLISHED.fused_featurizer, num_blocks=VISION_BLOCKS),
        language=LanguageSizes(
            vocab_size=32064,
            hidden_size=1536,
            intermediate_size=4096,
            num_layers=num_layers,
            num_heads=12,
            num_kv_heads=12,
        ),
    )


def write(folder: Path, sizes: OpenVlaSizes, shard_bytes: int) -> Path:
    whole = folder / "whole"
    whole.mkdir()
    config = {"model_type": "openvla", "text_config": {"num_attention_heads": sizes.language.num_heads}}
    (whole / "config.json").write_text(json.dumps(config))
    tensors = {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in tensor_shapes(sizes).items()}
    save_file(tensors, whole / "model.safetensors", metadata={"format": "pt"})
    return export_checkpoint(folder / "sharded", read_layout(whole), max_shard_bytes=shard_bytes)


def run_child(*arguments: str) -> tuple[float, int]:
    """Seconds, and peak bytes of the process."""
    command = [sys.executable, "-c", CHILD, *arguments]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(lines[0]), 1024 * int(lines[1])


def measure(num_layers: int, shard_bytes: int) -> None:
    sizes = sizes_with(num_layers)
    size = 2 * sizes.num_built
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write(Path(folder), sizes, shard_bytes)
        num_shards = len(list(checkpoint.glob("*.safetensors")))
        _, imports = run_child()
        seconds, peak = run_child(str(checkpoint))
    print(f"model: {size / 1e9:.3f} GB in bfloat16, of {2 * sizes.num_parameters / 1e9:.3f} GB in {num_shards} shards")
    print(f"peak of a process that only imports: {imports / 1e9:.3f} GB")
    print(f"peak of a process that loads:        {peak / 1e9:.3f} GB, {seconds:.1f} s")
    print(f"peak / model, imports included: {peak / size:.2f}")
    ratio = (peak - imports) / size
    print(f"peak / model, imports left out: {ratio:.2f} (bound: {BOUND})")
    if ratio > BOUND:
        raise SystemExit("loading takes more memory than it may")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--shard-gb", type=float, default=0.25)
    options = parser.parse_args()
    measure(options.layers, int(1e9 * options.shard_gb))


if __name__ == "__main__":
    main()
