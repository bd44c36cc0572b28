"""OpenVLA in plain torch: two vision towers, projector, Llama; attribute names are the checkpoint's keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import noop_context_fn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from vlarl.policies.openvla.sizes import PUBLISHED, LanguageSizes, OpenVlaSizes, sizes_of
from vlarl.policies.openvla.vision import Surroundings, VisionBackbone, recomputed

__all__ = ["PUBLISHED", "OpenVlaModel", "OpenVlaSizes", "empty_model", "sizes_of"]


class OpenVlaModel(nn.Module):
    """The prompt is BOS, the image's visual tokens, the text; the next tokens are the action."""

    def __init__(self, sizes: OpenVlaSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.vision_backbone = VisionBackbone(sizes)
        self.projector = Projector(sizes)
        config = _language_config(sizes.language)
        self.language_model = LlamaForCausalLM(config)
        self.language_model.model.layers = nn.ModuleList(
            LanguageLayer(config, i) for i in range(sizes.language.num_layers)
        )

    def forward_visual(self, pixels: Tensor) -> Tensor:
        """Visual tokens (N, P, D) of normalised pixels (N, 6, H, W), three channels a tower."""
        return self.projector(self.vision_backbone(pixels.to(self.vision_backbone.featurizer.pos_embed.dtype)))

    def set_gradient_checkpointing(self, on: bool, surroundings: Surroundings = noop_context_fn) -> None:
        """Recompute every block in the backward pass. Without gradient nothing changes, KV cache included.

        ``surroundings`` is called at each block and gives what surrounds its forward and its repetition.
        """
        recompute = surroundings if on else None
        self.vision_backbone.featurizer.recompute = recompute
        self.vision_backbone.fused_featurizer.recompute = recompute
        for layer in self.language_model.model.layers:
            layer.recompute = recompute


class Projector(nn.Module):
    """From the features of both towers to the language model's width."""

    def __init__(self, sizes: OpenVlaSizes) -> None:
        super().__init__()
        width = sizes.language.hidden_size
        self.fc1 = nn.Linear(sizes.vision_width, sizes.projector_size)
        self.fc2 = nn.Linear(sizes.projector_size, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """(N, P, D) of (N, P, D1 + D2)."""
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))


class LanguageLayer(LlamaDecoderLayer):
    """Recomputes by whether gradients are wanted; transformers' own switch goes by train mode and drops the cache."""

    recompute: Surroundings | None = None

    def forward(self, hidden_states: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if self.recompute is None or not torch.is_grad_enabled():
            return super().forward(hidden_states, *arguments, **named)
        return recomputed(super().forward, self.recompute, hidden_states, *arguments, **named)


def empty_model(sizes: OpenVlaSizes, *, dtype: torch.dtype, device: torch.device | str) -> OpenVlaModel:
    """A model in eval mode whose parameters hold whatever the memory held; rotary tables are float32 and right."""
    with torch.device("meta"):
        model = OpenVlaModel(sizes).to(dtype)
    model.to_empty(device=device)
    with torch.device(device):
        model.language_model.model.rotary_emb = LlamaRotaryEmbedding(model.language_model.config)
    return model.eval()


def _language_config(sizes: LanguageSizes) -> LlamaConfig:
    """Every value written out: the defaults of the installed library need not be those of the checkpoint's."""
    return LlamaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        head_dim=sizes.head_size,
        hidden_act="silu",
        max_position_embeddings=sizes.max_position_embeddings,
        rms_norm_eps=sizes.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        attention_bias=False,
        attention_dropout=0.0,
        mlp_bias=False,
        tie_word_embeddings=False,
        pad_token_id=sizes.pad_token_id,
        bos_token_id=1,
        eos_token_id=2,
        use_cache=False,
        initializer_range=0.02,
        attn_implementation="sdpa",
    )
