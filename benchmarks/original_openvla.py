"""An export in the original OpenVLA code: does it load strictly, and does it compute what vlarl computes?

    python benchmarks/original_openvla.py EXPORT --code prismatic/extern/hf --python ORIGINAL/bin/python \
        [--vision-heads 4] [--markdown OUT.md]

``--code`` is the folder of github.com/openvla/openvla with ``modeling_prismatic.py``, ``processing_prismatic.py`` and
``configuration_prismatic.py``; ``--python`` belongs to an environment with what that code wants: timm 0.9.10,
transformers 4.40.1, tokenizers 0.19.1, numpy below 2, torch and torchvision. vlarl runs in this interpreter and needs
none of that; what the two exchange is a file. Without a GPU, in a new environment:

    pip install torch==2.13.0 numpy==1.26.4 transformers==4.40.1 tokenizers==0.19.1
    pip install --no-deps timm==0.9.10 torchvision==0.16.2

0.16 is the last torchvision that can be imported where its compiled part cannot be loaded, and only resizing is used.

The original decodes over the whole vocabulary, vlarl over the action tokens. Weights that were hardly trained prefer
other tokens, so tokens are compared twice: free, and with the original kept to the action tokens.

The original builds its towers by timm's names, which stand for the published sizes. For a small export the names stay
and timm is handed width, depth, heads and MLP ratio besides; for a published one these are what they were.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

EQUAL = 1e-4  # largest difference of a logit, in fp32, that counts as equal
INSTRUCTIONS = ("reach the red cube", "reach the green cube")
PARTS = ("configuration", "modeling", "processing")


def frames(size: int = 64) -> np.ndarray:
    """Two different pictures (2, size, size, 3) uint8: gradients with a square, and noise."""
    across = np.linspace(0, 255, size)
    first = np.stack(np.broadcast_arrays(across[None], across[:, None], across[None, ::-1]), axis=-1).astype(np.uint8)
    first[size // 4 : size // 2, size // 4 : size // 2] = (220, 30, 30)
    return np.stack([first, np.random.default_rng(0).integers(0, 256, first.shape, np.uint8)])


def native(export: Path, vision_heads: int) -> dict[str, np.ndarray]:
    """vlarl's inputs, logits over the whole vocabulary, greedy tokens and actions, one row at a time."""
    import torch

    from vlarl.policies.action_tokens import decode_tokens
    from vlarl.policies.decoding import run_prompts
    from vlarl.policies.openvla.policy import OpenVlaPolicy
    from vlarl.recipe.specs.policies import OpenVlaSpec
    from vlarl.types import Observation, SuiteFacts

    [key] = json.loads((export / "dataset_statistics.json").read_text())
    spec = OpenVlaSpec(
        checkpoint=str(export),
        statistics=key,
        images="plain",
        dtype="float32",
        device="cpu",
        lora=None,
        vision_heads=vision_heads,
        prompt_bucket=1,
    )
    images = frames()
    policy = OpenVlaPolicy(spec, suite=SuiteFacts(name=key, image_size=images.shape[1]), seed=0, trained=False)
    found: dict[str, np.ndarray] = {}
    for row, instruction in enumerate(INSTRUCTIONS):
        inputs = policy.prepare(Observation(images=images[row : row + 1], instructions=(instruction,)))
        assert inputs.text_valid.all(), "one row needs no padding"
        with torch.no_grad():
            hidden = run_prompts(policy.model.language_model, policy._prompt(inputs).embeddings)
            logits = policy.model.language_model.lm_head(hidden)
        tokens = policy.sample(inputs, temperature=1.0, uniforms=None).tokens.numpy()
        found |= {
            f"pixels{row}": inputs.pixels.numpy(),
            f"ids{row}": inputs.text.numpy(),
            f"logits{row}": logits.float().numpy(),
            f"tokens{row}": tokens + policy.model.sizes.first_action_row,
            f"actions{row}": policy._codec.statistics.unnormalise(decode_tokens(tokens)),
        }
    return found


def original_code(folder: Path) -> dict[str, ModuleType]:
    """The three modules, as a package of their own."""
    package = ModuleType("original")
    package.__path__ = [str(folder)]
    sys.modules["original"] = package
    return {part: importlib.import_module(f"original.{part}_prismatic") for part in PARTS}


def tower_sizes(tensors: Mapping[str, Any], tower: str, heads: int) -> dict[str, Any]:
    """What timm has to be told of a tower's size, read from its tensors."""
    prefix = f"vision_backbone.{tower}."
    width = tensors[f"{prefix}patch_embed.proj.weight"].shape[0]
    depth = len({name[len(prefix) :].split(".")[1] for name in tensors if name.startswith(f"{prefix}blocks.")})
    mlp = tensors[f"{prefix}blocks.0.mlp.fc1.weight"].shape[0]
    return {"embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": mlp / width}


def load_original(export: Path, code: dict[str, ModuleType], vision_heads: int) -> tuple[Any, dict[str, Any]]:
    """The original's model, and what loading said."""
    import timm
    import torch
    from safetensors.torch import load_file

    tensors = {name: value for file in sorted(export.glob("*.safetensors")) for name, value in load_file(file).items()}
    towers = iter(("featurizer", "fused_featurizer"))
    plain = timm.create_model

    def sized(name: str, **wanted: Any) -> Any:
        return plain(name, **wanted, **tower_sizes(tensors, next(towers), vision_heads))

    timm.create_model = sized
    try:
        model, told = code["modeling"].OpenVLAForActionPrediction.from_pretrained(
            export,
            output_loading_info=True,
            torch_dtype=torch.float32,
            # `predict_action` adds token 29871 and no column of the mask for it, which eager attention refuses.
            attn_implementation="sdpa",
        )
    finally:
        timm.create_model = plain
    strict = model.load_state_dict(tensors, strict=True)  # raises where a key is missing or one too many
    own = model.state_dict()
    assert own.keys() == tensors.keys()
    return model.eval(), {
        "keys": len(tensors),
        "told": {name: list(told[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")},
        "strict": str(strict),
    }


def register(code: dict[str, ModuleType]) -> None:
    """As the original's own evaluation does for a checkpoint in a folder."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForVision2Seq, AutoProcessor

    config = code["configuration"].OpenVLAConfig
    AutoConfig.register("openvla", config)
    AutoImageProcessor.register(config, code["processing"].PrismaticImageProcessor)
    AutoProcessor.register(config, code["processing"].PrismaticProcessor)
    AutoModelForVision2Seq.register(config, code["modeling"].OpenVLAForActionPrediction)


def compare(export: Path, folder: Path, wanted: Mapping[str, np.ndarray], vision_heads: int) -> dict[str, Any]:
    """Run in the original's environment."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor

    code = original_code(folder)
    register(code)
    model, report = load_original(export, code, vision_heads)
    processor = AutoProcessor.from_pretrained(export)
    kept = list(range(model.vocab_size - model.config.n_action_bins, model.vocab_size))
    ways: dict[str, dict[str, Any]] = {"kept": {"prefix_allowed_tokens_fn": lambda *_: kept}, "free": {}}
    rows, logits_of = [], []
    for row, (image, instruction) in enumerate(zip(frames(), INSTRUCTIONS)):
        text = f"In: What action should the robot take to {instruction}?\nOut:"
        inputs = processor(text, Image.fromarray(image))
        ids, pixels = torch.from_numpy(wanted[f"ids{row}"]), torch.from_numpy(wanted[f"pixels{row}"])
        given, tokens = inputs["input_ids"].numpy(), {}
        model_inputs = {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            logits = model(**model_inputs).logits.numpy()
            for way, how in ways.items():
                generated = model.generate(**model_inputs, max_new_tokens=7, do_sample=False, **how)
                tokens[way] = generated[0, -7:].numpy()
            actions = model.predict_action(**inputs, do_sample=False, **ways["kept"])
        logits_of.append(logits[0, -1])
        rows.append(
            {
                "instruction": instruction,
                "pixels": float(np.abs(inputs["pixel_values"].numpy() - wanted[f"pixels{row}"]).max()),
                "ids_equal": bool(np.array_equal(given[0], wanted[f"ids{row}"][0, : given.shape[1]])),
                "appended": int(wanted[f"ids{row}"].shape[1] - given.shape[1]),
                "last_id": int(ids[0, -1]),
                "logits": float(np.abs(logits - wanted[f"logits{row}"]).max()),
                "logits_std": float(logits.std()),
                "shape": list(logits.shape),
                "tokens": tokens["kept"].tolist(),
                "tokens_equal": bool(np.array_equal(tokens["kept"], wanted[f"tokens{row}"][0])),
                "free": tokens["free"].tolist(),
                "actions": float(np.abs(actions - wanted[f"actions{row}"][0]).max()),
            }
        )
    return {
        "versions": versions("torch", "torchvision", "timm", "transformers", "tokenizers", "numpy"),
        **report,
        "rows": rows,
        "images_differ": float(np.abs(logits_of[0] - logits_of[1]).max()),
    }


def versions(*names: str) -> dict[str, str]:
    from importlib.metadata import version

    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def markdown(report: Mapping[str, Any]) -> str:
    def listed(found: Mapping[str, str]) -> str:
        return ", ".join(f"{name} {value}" for name, value in found.items())

    told = ", ".join(f"{len(names)} {kind.replace('_', ' ')}" for kind, names in report["told"].items())
    lines = [
        f"- original code: {listed(report['versions'])}",
        f"- vlarl: {listed(report['native_versions'])}",
        f"- {report['keys']} tensors; `from_pretrained` said {told}; strict `load_state_dict`: {report['strict']}",
        f"- the two pictures' last logits differ by up to {report['images_differ']:.2f}",
        "",
        "| instruction | pixels | prompt ids | logits | of deviation | greedy tokens | free | actions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        ids = "equal" if row["ids_equal"] else "DIFFER"
        tokens = f"{'equal' if row['tokens_equal'] else 'DIFFER'}: {' '.join(map(str, row['tokens']))}"
        free = "the same" if row["free"] == row["tokens"] else " ".join(map(str, row["free"]))
        lines.append(
            f"| {row['instruction']} | {row['pixels']:.1e} | {ids}, then {row['last_id']} | {row['logits']:.1e} "
            f"(all {row['shape'][1]} x {row['shape'][2]}) | {row['logits_std']:.2f} | {tokens} | {free} "
            f"| {row['actions']:.1e} |"
        )
    return "\n".join(lines) + "\n"


def is_equal(report: Mapping[str, Any]) -> bool:
    rows = report["rows"]
    return (
        not any(report["told"].values())
        and all(row["ids_equal"] and row["tokens_equal"] and row["logits"] < EQUAL for row in rows)
        and report["images_differ"] > EQUAL
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Load an export into the original OpenVLA code and compare.")
    parser.add_argument("export", type=Path)
    parser.add_argument("--code", type=Path, required=True, help="folder with the original's *_prismatic.py")
    parser.add_argument("--python", required=True, help="interpreter of an environment made for the original")
    parser.add_argument("--vision-heads", type=int, default=16)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--wanted", type=Path, help=argparse.SUPPRESS)  # set in the other interpreter
    given = parser.parse_args(argv)
    if given.wanted is not None:
        with np.load(given.wanted) as wanted:
            print(json.dumps(compare(given.export, given.code, dict(wanted), given.vision_heads)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "wanted.npz"
        np.savez(file, **native(given.export, given.vision_heads))
        command = [given.python, __file__, *argv, "--wanted", str(file)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    report["native_versions"] = versions("torch", "transformers", "tokenizers", "numpy")
    text = markdown(report)
    if given.markdown is not None:
        given.markdown.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0 if is_equal(report) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
