"""Policies and critics."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vlarl.recipe.specs.base import PartSpec, PositiveInt


class TinySpec(PartSpec):
    """A small policy with OpenVLA's interface: prompt and image in, 7 action tokens of 256 bins out."""

    target: ClassVar[str] = "vlarl.policies.tiny.policy:TinyPolicy"

    kind: Literal["tiny"] = "tiny"
    hidden_size: PositiveInt = Field(128, description="Width of the causal language model.")
    num_layers: PositiveInt = Field(2, description="Depth of the causal language model.")
    num_heads: PositiveInt = Field(4, description="Attention heads; divides `hidden_size`.")
    num_keypoints: PositiveInt = Field(32, description="Spatial soft-max keypoints of the vision front end.")
    num_visual_tokens: PositiveInt = Field(4, description="Tokens the keypoints are projected to.")
    max_prompt_length: PositiveInt = Field(
        64, description="Longest prompt in tokens; a longer instruction is an error."
    )


class SharedCriticSpec(PartSpec):
    """A value head on the policy's feature of the last unpadded prompt token."""

    target: ClassVar[str] = "vlarl.critics.shared:SharedCritic"

    kind: Literal["shared"] = "shared"
    hidden_sizes: list[PositiveInt] = Field([128], description="Hidden layers of the value head (fp32, GELU).")
    stop_gradient: bool = Field(True, description="Keep the value loss out of the policy's weights.")
