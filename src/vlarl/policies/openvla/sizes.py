"""Sizes of an OpenVLA checkpoint, read from its tensors' shapes, and the shapes that sizes imply; no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlarl.errors import AssetError

Shape = tuple[int, ...]

FEATURIZER, FUSED = "vision_backbone.featurizer", "vision_backbone.fused_featurizer"
PROJECTOR, LANGUAGE = "projector", "language_model"
_HINT = "name a merged checkpoint in the layout of openvla/openvla-7b"
_SHOWN = 3  # tensors that a message lists


@dataclass(frozen=True, kw_only=True)
class TowerSizes:
    """One vision transformer. Its last block, final norm and attention pooling are stored and never run."""

    width: int
    num_blocks: int  # stored ones
    mlp_size: int
    num_heads: int
    patch_size: int  # pixels along a side
    grid: int  # patches along a side of the image
    class_token: bool = False
    num_registers: int = 0
    layer_scale: bool = False
    pooling: bool = False

    @property
    def num_prefix_tokens(self) -> int:
        return int(self.class_token) + self.num_registers

    @property
    def num_patches(self) -> int:
        return self.grid**2


@dataclass(frozen=True, kw_only=True)
class LanguageSizes:
    """The Llama model, with what its shapes do not tell taken from `text_config`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    pad_token_id: int | None = None

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, kw_only=True)
class OpenVlaSizes:
    """Everything that shapes an OpenVLA model."""

    featurizer: TowerSizes  # DINOv2 with registers
    fused_featurizer: TowerSizes  # SigLIP
    projector_size: int  # width between the projector's first and second layer
    language: LanguageSizes
    num_bins: int = 256  # rows of the vocabulary that are action tokens
    vocabulary_padding: int = 64  # rows after them, which no tokenizer produces

    @property
    def image_size(self) -> int:
        """Pixels along a side of the square image."""
        return self.featurizer.grid * self.featurizer.patch_size

    @property
    def num_patches(self) -> int:
        """Visual tokens of one image."""
        return self.featurizer.num_patches

    @property
    def vision_width(self) -> int:
        return self.featurizer.width + self.fused_featurizer.width

    @property
    def text_vocabulary(self) -> int:
        """Rows that the tokenizer knows; the action tokens are the last ``num_bins`` of them."""
        return self.language.vocab_size - self.vocabulary_padding

    @property
    def first_action_row(self) -> int:
        return self.text_vocabulary - self.num_bins

    @property
    def num_parameters(self) -> int:
        """All numbers a checkpoint stores, the unused ones included."""
        return sum(map(math.prod, tensor_shapes(self).values()))

    @property
    def num_built(self) -> int:
        """Numbers of the tensors that the model has."""
        return sum(math.prod(shape) for name, shape in tensor_shapes(self).items() if not is_unused(name, self))


PUBLISHED = OpenVlaSizes(  # openvla/openvla-7b and its fine-tunes
    featurizer=TowerSizes(
        width=1024,
        num_blocks=24,
        mlp_size=4096,
        num_heads=16,
        patch_size=14,
        grid=16,
        class_token=True,
        num_registers=4,
        layer_scale=True,
    ),
    fused_featurizer=TowerSizes(
        width=1152, num_blocks=27, mlp_size=4304, num_heads=16, patch_size=14, grid=16, pooling=True
    ),
    projector_size=8704,
    language=LanguageSizes(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=11008,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        pad_token_id=32000,
    ),
)


def sizes_of(shapes: Mapping[str, Shape], config: Mapping[str, Any], vision_heads: int) -> OpenVlaSizes:
    """Sizes of a checkpoint with these tensors (name → shape) and this config.json.

    ``vision_heads`` holds for both towers. Raises AssetError (R373) where tensors or statements that the sizes
    follow from are missing or contradict each other; `check_shapes` compares the rest.
    """
    read = _Shapes(shapes)
    sizes = OpenVlaSizes(
        featurizer=_tower(read, FEATURIZER, vision_heads),
        fused_featurizer=_tower(read, FUSED, vision_heads),
        projector_size=read(f"{PROJECTOR}.fc1.weight", 2)[0],
        language=_language(read, config.get("text_config") or {}),
        num_bins=int(config.get("n_action_bins", 256)),
        vocabulary_padding=int(config.get("pad_to_multiple_of", 64)),
    )
    first, second = sizes.featurizer, sizes.fused_featurizer
    if (first.grid, first.patch_size) != (second.grid, second.patch_size):
        raise misfit(
            f"the towers see different images: {first.grid} and {second.grid} patches a side, "
            f"of {first.patch_size} and {second.patch_size} pixels"
        )
    if sizes.first_action_row < 0:
        raise misfit(f"a vocabulary of {sizes.language.vocab_size} has no room for {sizes.num_bins} action tokens")
    return sizes


def tensor_shapes(sizes: OpenVlaSizes) -> dict[str, Shape]:
    """Every tensor that a checkpoint of these sizes stores, name → shape."""
    text, middle = sizes.language, sizes.projector_size
    return {
        **dict(_tower_shapes(FEATURIZER, sizes.featurizer)),
        **dict(_tower_shapes(FUSED, sizes.fused_featurizer)),
        **dict(_affine(f"{PROJECTOR}.fc1", sizes.vision_width, middle)),
        **dict(_affine(f"{PROJECTOR}.fc2", middle, text.hidden_size)),
        **dict(_affine(f"{PROJECTOR}.fc3", text.hidden_size, text.hidden_size)),
        **dict(_language_shapes(text)),
    }


def is_unused(name: str, sizes: OpenVlaSizes) -> bool:
    """Whether the tensor is stored but has no influence on the output: what follows the second-to-last block."""
    for prefix, tower in ((FEATURIZER, sizes.featurizer), (FUSED, sizes.fused_featurizer)):
        if name.startswith((f"{prefix}.blocks.{tower.num_blocks - 1}.", f"{prefix}.norm.", f"{prefix}.attn_pool.")):
            return True
    return False


def check_shapes(shapes: Mapping[str, Shape], sizes: OpenVlaSizes) -> None:
    """Raise AssetError (R373) unless exactly the tensors of ``sizes`` are there."""
    expected = tensor_shapes(sizes)
    if missing := [name for name in expected if name not in shapes]:
        raise misfit(f"the checkpoint lacks {_some(missing)}")
    if unexpected := [name for name in shapes if name not in expected]:
        raise misfit(f"the checkpoint has tensors that OpenVLA has no place for: {_some(unexpected)}")
    if other := [name for name in expected if shapes[name] != expected[name]]:
        described = [f"{name} is {list(shapes[name])} instead of {list(expected[name])}" for name in other]
        raise misfit(f"tensors do not fit one another: {_some(described)}")


def misfit(message: str) -> AssetError:
    """The error of a checkpoint that is readable and not OpenVLA's."""
    return AssetError(message, code="R373", hint=_HINT)


class _Shapes:
    """Shapes by name; what is missing or has another number of axes is an AssetError."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def __call__(self, name: str, num_axes: int) -> Shape:
        if name not in self._shapes:
            raise misfit(f"the checkpoint lacks {name}")
        shape = self._shapes[name]
        if len(shape) != num_axes or 0 in shape:
            raise misfit(f"{name} has the impossible shape {list(shape)}")
        return shape

    def count(self, prefix: str) -> int:
        """Number of the modules ``prefix.0``, ``prefix.1``, ..."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        found = {int(match[1]) for name in self._shapes if (match := pattern.match(name))}
        if absent := set(range(len(found))) - found:
            raise misfit(f"the checkpoint lacks {prefix}.{min(absent)}")
        return len(found)


def _tower(read: _Shapes, prefix: str, num_heads: int) -> TowerSizes:
    width, _, patch, _ = read(f"{prefix}.patch_embed.proj.weight", 4)
    num_patches = read(f"{prefix}.pos_embed", 3)[1]
    grid = math.isqrt(num_patches)
    if grid**2 != num_patches:
        raise misfit(f"{prefix}.pos_embed has {num_patches} positions, which is no square of patches")
    if width % num_heads:
        raise AssetError(
            f"{num_heads} attention heads do not divide the width {width} of {prefix}",
            code="R373",
            hint="set `policy.vision_heads` to the number that the checkpoint was trained with",
        )
    num_blocks = read.count(f"{prefix}.blocks")
    if num_blocks < 2:
        raise misfit(f"{prefix} has {num_blocks} blocks; features come from the second-to-last one")
    return TowerSizes(
        width=width,
        num_blocks=num_blocks,
        mlp_size=read(f"{prefix}.blocks.0.mlp.fc1.weight", 2)[0],
        num_heads=num_heads,
        patch_size=patch,
        grid=grid,
        class_token=f"{prefix}.cls_token" in read,
        num_registers=read(f"{prefix}.reg_token", 3)[1] if f"{prefix}.reg_token" in read else 0,
        layer_scale=f"{prefix}.blocks.0.ls1.scale_factor" in read,
        pooling=f"{prefix}.attn_pool.latent" in read,
    )


def _language(read: _Shapes, stated: Mapping[str, Any]) -> LanguageSizes:
    """Where the sparse `text_config` is silent, the defaults of the library that it was written with hold."""
    vocab_size, hidden_size = read(f"{LANGUAGE}.model.embed_tokens.weight", 2)
    num_heads = int(stated.get("num_attention_heads", 32))
    if num_heads < 1 or hidden_size % num_heads:
        raise misfit(f"config.json: {num_heads} attention heads do not divide the hidden size {hidden_size}")
    head_size = hidden_size // num_heads
    kv_rows = read(f"{LANGUAGE}.model.layers.0.self_attn.k_proj.weight", 2)[0]
    if kv_rows % head_size:
        raise misfit(f"config.json: heads of {head_size} channels do not divide the {kv_rows} rows of k_proj")
    pad = stated.get("pad_token_id")
    sizes = LanguageSizes(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=read(f"{LANGUAGE}.model.layers.0.mlp.gate_proj.weight", 2)[0],
        num_layers=read.count(f"{LANGUAGE}.model.layers"),
        num_heads=num_heads,
        num_kv_heads=kv_rows // head_size,
        max_position_embeddings=int(stated.get("max_position_embeddings", 2048)),
        rms_norm_eps=float(stated.get("rms_norm_eps", 1e-6)),
        rope_theta=float(_rope(stated).get("rope_theta", 10000.0)),
        pad_token_id=pad if isinstance(pad, int) and 0 <= pad < vocab_size else None,
    )
    _check_stated(stated, sizes)
    return sizes


def _rope(stated: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rotary settings, from `rope_parameters` where a newer library wrote the file."""
    rope: Mapping[str, Any] = stated.get("rope_parameters") or stated
    if rope.get("rope_type", "default") != "default" or stated.get("rope_scaling"):
        raise misfit("config.json: text_config asks for scaled rotary embeddings, which OpenVLA has not")
    return rope


def _check_stated(stated: Mapping[str, Any], sizes: LanguageSizes) -> None:
    """What `text_config` states must be what the tensors have and what the model computes."""
    facts = {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_key_value_heads": sizes.num_kv_heads,
        "head_dim": sizes.head_size,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    }
    for key, fact in facts.items():
        if stated.get(key) is not None and stated[key] != fact:
            raise misfit(f"config.json: text_config.{key} is {stated[key]!r} where the model has {fact!r}")


def _tower_shapes(prefix: str, tower: TowerSizes) -> Iterator[tuple[str, Shape]]:
    width = tower.width
    if tower.class_token:
        yield f"{prefix}.cls_token", (1, 1, width)
    if tower.num_registers:
        yield f"{prefix}.reg_token", (1, tower.num_registers, width)
    yield f"{prefix}.pos_embed", (1, tower.num_patches, width)
    yield f"{prefix}.patch_embed.proj.weight", (width, 3, tower.patch_size, tower.patch_size)
    yield f"{prefix}.patch_embed.proj.bias", (width,)
    for i in range(tower.num_blocks):
        block = f"{prefix}.blocks.{i}"
        yield from _norm(f"{block}.norm1", width)
        yield from _affine(f"{block}.attn.qkv", width, 3 * width)
        yield from _affine(f"{block}.attn.proj", width, width)
        yield from _norm(f"{block}.norm2", width)
        yield from _affine(f"{block}.mlp.fc1", width, tower.mlp_size)
        yield from _affine(f"{block}.mlp.fc2", tower.mlp_size, width)
        if tower.layer_scale:
            yield f"{block}.ls1.scale_factor", (width,)
            yield f"{block}.ls2.scale_factor", (width,)
    yield from _norm(f"{prefix}.norm", width)
    if tower.pooling:
        pool = f"{prefix}.attn_pool"
        yield f"{pool}.latent", (1, 1, width)
        yield from _affine(f"{pool}.q", width, width)
        yield from _affine(f"{pool}.kv", width, 2 * width)
        yield from _affine(f"{pool}.proj", width, width)
        yield from _norm(f"{pool}.norm", width)
        yield from _affine(f"{pool}.mlp.fc1", width, tower.mlp_size)
        yield from _affine(f"{pool}.mlp.fc2", tower.mlp_size, width)


def _language_shapes(text: LanguageSizes) -> Iterator[tuple[str, Shape]]:
    width, kv_rows = text.hidden_size, text.num_kv_heads * text.head_size
    yield f"{LANGUAGE}.model.embed_tokens.weight", (text.vocab_size, width)
    for i in range(text.num_layers):
        layer = f"{LANGUAGE}.model.layers.{i}"
        yield f"{layer}.self_attn.q_proj.weight", (width, width)
        yield f"{layer}.self_attn.k_proj.weight", (kv_rows, width)
        yield f"{layer}.self_attn.v_proj.weight", (kv_rows, width)
        yield f"{layer}.self_attn.o_proj.weight", (width, width)
        yield f"{layer}.mlp.gate_proj.weight", (text.intermediate_size, width)
        yield f"{layer}.mlp.up_proj.weight", (text.intermediate_size, width)
        yield f"{layer}.mlp.down_proj.weight", (width, text.intermediate_size)
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
    yield f"{LANGUAGE}.model.norm.weight", (width,)
    yield f"{LANGUAGE}.lm_head.weight", (text.vocab_size, width)


def _affine(name: str, num_inputs: int, num_outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (num_outputs, num_inputs)
    yield f"{name}.bias", (num_outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
