"""Policies and critics."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vlarl.recipe.specs.base import PartSpec, PositiveInt, Section


class TinySpec(PartSpec):
    """A small policy with OpenVLA's interface: prompt and image in, 7 action tokens of 256 bins out."""

    target: ClassVar[str] = "vlarl.policies.tiny.policy:TinyPolicy"
    unhashed: ClassVar[frozenset[str]] = frozenset({"device"})
    unhashed_at_default: ClassVar[frozenset[str]] = frozenset({"vision"})

    kind: Literal["tiny"] = "tiny"
    vision: Literal["keypoints", "deep_keypoints"] = Field(
        "keypoints",
        description="Front end: one convolution before the keypoints, for coloured cubes; or three, which also read "
        "what is at each keypoint, for real scenes.",
    )
    hidden_size: PositiveInt = Field(128, description="Width of the causal language model.")
    num_layers: PositiveInt = Field(2, description="Depth of the causal language model.")
    num_heads: PositiveInt = Field(4, description="Attention heads; divides `hidden_size`.")
    num_keypoints: PositiveInt = Field(32, description="Spatial soft-max keypoints of the vision front end.")
    num_visual_tokens: PositiveInt = Field(4, description="Tokens the keypoints are projected to.")
    max_prompt_length: PositiveInt = Field(
        64, description="Longest prompt in tokens; a longer instruction is an error."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "cpu",
        description="Where the model runs; `auto` takes a GPU when there is one. For 64 pixels it gains little, and "
        "what it computes repeats on that kind of GPU only.",
    )


class LoraSpec(Section):
    """Low-rank adapters (peft) on the linear layers of the policy; the head over the vocabulary is left alone."""

    rank: PositiveInt = Field(32, description="Rank of every adapter.")
    alpha: PositiveInt = Field(16, description="Adapters are scaled by alpha / rank.")
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="Linear layers to adapt: all of them, or those whose name ends with one of a list."
    )
    vision: bool = Field(True, description="Adapt the vision towers as well as projector and language model.")


class OpenVlaSpec(PartSpec):
    """OpenVLA: DINOv2 and SigLIP towers, projector, Llama; 7 action tokens one after the other."""

    target: ClassVar[str] = "vlarl.policies.openvla.policy:OpenVlaPolicy"
    unhashed: ClassVar[frozenset[str]] = frozenset({"device"})

    kind: Literal["openvla"] = "openvla"
    checkpoint: str = Field(
        description="Folder in Hugging Face layout, or hf://owner/name@commit; a strict run needs the commit."
    )
    statistics: str | None = Field(
        None,
        description="Key of the checkpoint's `norm_stats`; absent: the suite's name, alone or with `_no_noops`.",
    )
    images: Literal["libero", "plain"] = Field(
        "libero",
        description="What happens to a frame before the model: `libero` is OpenVLA's evaluation on LIBERO (JPEG round "
        "trip, Lanczos to the model's size, centre crop), `plain` a bicubic resize.",
    )
    centre_crop: bool = Field(
        True, description="`libero` only: crop to 0.9 of the area, as fine-tunes with image augmentation expect."
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Precision of the frozen weights and of the model's arithmetic."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the model runs; `auto` takes a GPU when there is one."
    )
    lora: LoraSpec | None = Field(LoraSpec(), description="Adapters to train; null trains every weight.")
    gradient_checkpointing: bool = Field(
        True, description="Recompute each block in the backward pass instead of keeping its activations."
    )
    vision_heads: PositiveInt = Field(
        16, description="Attention heads of both towers: 16 in the published checkpoints; the shapes do not tell."
    )
    prompt_bucket: PositiveInt = Field(
        8, description="Prompts are padded to a multiple of this many text tokens, so that few shapes occur."
    )


class OpenVlaOftSpec(OpenVlaSpec):
    """OpenVLA-OFT with action tokens: the weights of OpenVLA, all tokens of several control steps in one forward."""

    target: ClassVar[str] = "vlarl.policies.openvla.oft:OpenVlaOftPolicy"

    kind: Literal["openvla_oft"] = "openvla_oft"  # type: ignore[assignment]  # another kind with the same knobs
    chunk: PositiveInt = Field(
        8, description="Control steps that one decision lasts: carried out without looking in between, until the end."
    )
    attention: Literal["all", "actions"] = Field(
        "all",
        description="Who attends in both directions: `all` columns, as the published OFT checkpoints were trained, or "
        "the `actions` among themselves behind a causal prompt, as OpenVLA's own weights know it.",
    )


class SharedCriticSpec(PartSpec):
    """A value head on the policy's feature of the last unpadded prompt token."""

    target: ClassVar[str] = "vlarl.critics.shared:SharedCritic"

    kind: Literal["shared"] = "shared"
    hidden_sizes: list[PositiveInt] = Field([128], description="Hidden layers of the value head (fp32, GELU).")
    stop_gradient: bool = Field(True, description="Keep the value loss out of the policy's weights.")


class FrozenCriticSpec(PartSpec):
    """A value head on the feature of the base weights, adapters off: constant, computed once in the rollout."""

    target: ClassVar[str] = "vlarl.critics.frozen:FrozenCritic"

    kind: Literal["frozen"] = "frozen"
    hidden_sizes: list[PositiveInt] = Field([512, 128], description="Hidden layers of the value head (fp32, GELU).")


class AdapterCriticSpec(PartSpec):
    """A value head with low-rank adapters of its own on the policy's base weights."""

    target: ClassVar[str] = "vlarl.critics.adapter:AdapterCritic"

    kind: Literal["adapter"] = "adapter"
    hidden_sizes: list[PositiveInt] = Field([512, 128], description="Hidden layers of the value head (fp32, GELU).")
    lora: LoraSpec = Field(LoraSpec(), description="The critic's adapters.")
