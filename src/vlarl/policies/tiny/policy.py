"""The tiny policy: OpenVLA's interface and code paths at a size that learns on a laptop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from vlarl.devices import chosen_device
from vlarl.errors import RecipeError
from vlarl.policies.action_tokens import ACTION_CONVENTION, NUM_ACTION_TOKENS, NUM_BINS, decode_tokens, encode_actions
from vlarl.policies.decoding import ActionDecoder, Prompt
from vlarl.policies.protocol import AdapterName, Sampled, Scores
from vlarl.policies.tiny.tokenizer import PAD, VOCABULARY_SIZE, encode_prompt, load_tokenizer
from vlarl.policies.tiny.vision import KeypointEncoder
from vlarl.recipe.front_ends import FRONT_ENDS
from vlarl.recipe.schema import hashed_values
from vlarl.recipe.specs.policies import TinySpec
from vlarl.seeding import seed_torch
from vlarl.types import Observation, SuiteFacts

_INIT_STD = 0.06  # larger than a big model's 0.02: at this width that starts too close to linear
_TEXT_BUCKET = 4  # prompts are padded to a multiple of this, so that few shapes occur


@dataclass(frozen=True, kw_only=True)
class TinyInputs:
    """Prepared inputs of N decisions."""

    images: Tensor  # (N, H, W, 3) uint8
    text: Tensor  # (N, L) int64, padded on the right
    text_valid: Tensor  # (N, L) bool


class TinyPolicy(nn.Module):
    """BOS, visual tokens, instruction, then 7 action tokens: one causal language model."""

    num_action_tokens = NUM_ACTION_TOKENS
    num_bins = NUM_BINS
    action_convention = ACTION_CONVENTION

    def __init__(self, spec: TinySpec, *, suite: SuiteFacts, seed: int) -> None:
        super().__init__()
        self.spec = spec
        self.device = chosen_device(spec.device, what="the policy")
        self.feature_size = spec.hidden_size
        self._image_size = suite.image_size
        self._encoded: dict[str, list[int]] = {}
        seed_torch(seed, "policy-init")
        self.vision = KeypointEncoder(
            image_size=suite.image_size,
            num_keypoints=spec.num_keypoints,
            num_tokens=spec.num_visual_tokens,
            width=spec.hidden_size,
            front_end=FRONT_ENDS[spec.vision],
        )
        self.language_model = LlamaForCausalLM(_language_config(spec))
        _make_ordinal(self.language_model)
        self._decoder = ActionDecoder(
            self.language_model, num_action_tokens=NUM_ACTION_TOKENS, num_bins=NUM_BINS, first_row=VOCABULARY_SIZE
        )
        self.to(self.device)  # drawn on the CPU: the same first weights on every device

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this policy to be loaded into it."""
        return {
            **hashed_values(self.spec),
            "image_size": self._image_size,
            "action": ACTION_CONVENTION,
            "num_action_tokens": NUM_ACTION_TOKENS,
            "num_bins": NUM_BINS,
        }

    def prepare(self, observation: Observation, *, among: Sequence[str] = ()) -> TinyInputs:
        rows = [self._encode(instruction) for instruction in observation.instructions]
        longest = max(*map(len, rows), *(min(len(self._ids(each)), self.spec.max_prompt_length) for each in among), 0)
        width = -(-longest // _TEXT_BUCKET) * _TEXT_BUCKET
        text = np.full((len(rows), width), load_tokenizer().token_to_id(PAD), dtype=np.int64)
        for i, row in enumerate(rows):
            text[i, : len(row)] = row
        lengths = np.array([len(row) for row in rows])
        valid = np.arange(width) < lengths[:, None]
        return TinyInputs(
            images=torch.from_numpy(observation.images), text=torch.from_numpy(text), text_valid=torch.from_numpy(valid)
        )

    def sample(self, inputs: TinyInputs, *, temperature: float, uniforms: np.ndarray | None) -> Sampled:
        with torch.no_grad():
            sampled = self._decoder.sample(self._prompt(inputs), temperature=temperature, uniforms=uniforms)
        return Sampled(tokens=sampled.tokens.cpu(), log_prob=sampled.log_prob.cpu(), feature=sampled.feature.cpu())

    def score(self, inputs: TinyInputs, tokens: Tensor, *, temperature: float) -> Scores:
        scores = self._decoder.score(self._prompt(inputs), tokens.to(self.device), temperature=temperature)
        return Scores(log_prob=scores.log_prob.cpu(), entropy=scores.entropy.cpu(), feature=scores.feature.cpu())

    def token_log_probs(self, inputs: TinyInputs, tokens: Tensor) -> Tensor:
        """(N, A, V) teacher-forced log-probabilities at temperature 1, for imitation."""
        return self._decoder.token_log_probs(self._prompt(inputs), tokens.to(self.device), temperature=1.0)[0].cpu()

    def features(self, inputs: TinyInputs, *, adapter: AdapterName = "policy") -> Tensor:
        assert adapter == "policy", "the tiny policy has one set of weights"
        return self._decoder.feature(self._prompt(inputs)).cpu()

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return decode_tokens(tokens)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        return encode_actions(actions)

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"vision": list(self.vision.parameters()), "language_model": list(self.language_model.parameters())}

    def _encode(self, instruction: str) -> list[int]:
        ids = self._ids(instruction)
        if len(ids) > self.spec.max_prompt_length:
            raise RecipeError(
                f"the prompt of «{instruction}» has {len(ids)} tokens, more than policy.max_prompt_length "
                f"({self.spec.max_prompt_length})",
                code="R216",
                hint=f"--set policy.max_prompt_length={len(ids)}",
            )
        return ids

    def _ids(self, instruction: str) -> list[int]:
        if instruction not in self._encoded:
            self._encoded[instruction] = encode_prompt(instruction)
        return self._encoded[instruction]

    def _prompt(self, inputs: TinyInputs) -> Prompt:
        text_ids, text_valid = inputs.text.to(self.device), inputs.text_valid.to(self.device)
        pixels = inputs.images.to(self.device).permute(0, 3, 1, 2).float().mul_(2.0 / 255.0).sub_(1.0)
        text = self.language_model.model.embed_tokens(text_ids)
        visual = self.vision(pixels, _mean_over(text, text_valid))
        # OpenVLA's order: BOS, image, text.
        embeddings = torch.cat([text[:, :1], visual, text[:, 1:]], dim=1)
        seen = torch.ones(visual.shape[:2], dtype=torch.bool, device=self.device)
        valid = torch.cat([text_valid[:, :1], seen, text_valid[:, 1:]], dim=1)
        return Prompt(embeddings=embeddings, valid=valid)


def _make_ordinal(model: LlamaForCausalLM) -> None:
    """Start the action rows of embedding and head as smooth functions of the bin.

    Neighbouring bins then share what they learn; from independent rows, 256 bins an axis need several times
    the demonstrations.
    """
    width = model.config.hidden_size
    centre = torch.linspace(1.0, -1.0, NUM_BINS)[:, None]
    frequency = torch.arange(1, width // 2 + 1)[None]
    waves = torch.cat(
        [torch.cos(torch.pi / 2 * centre * frequency), torch.sin(torch.pi / 2 * centre * frequency)], dim=1
    )
    waves = waves / (1.0 + 0.15 * frequency.repeat(1, 2))
    waves = waves - waves.mean(dim=0)
    rows = slice(VOCABULARY_SIZE, VOCABULARY_SIZE + NUM_BINS)
    with torch.no_grad():
        for weight in (model.lm_head.weight, model.model.embed_tokens.weight):
            weight[rows] = waves * (_INIT_STD / waves.std())


def _mean_over(text: Tensor, valid: Tensor) -> Tensor:
    """(N, D) mean of the valid rows of (N, L, D), scaled to unit variance at the initial weights."""
    weights = valid.to(text.dtype)[..., None]
    return (text * weights).sum(dim=1) / weights.sum(dim=1).sqrt()


def _language_config(spec: TinySpec) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE + NUM_BINS,
        hidden_size=spec.hidden_size,
        intermediate_size=2 * spec.hidden_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_heads,
        max_position_embeddings=1024,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        initializer_range=_INIT_STD,
    )
