"""A small vision-language reward model: the tiny policy's eyes and tokenizer before a causal language model.

The prompt is BOS, the picture (and an earlier one), the instruction, and two question tokens. The next token after
each question is its answer, so one forward answers both, and neither answer is seen by the other.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from vlarl.devices import chosen_device
from vlarl.errors import RecipeError
from vlarl.policies.tiny.tokenizer import BOS, PAD, VOCABULARY_SIZE, load_tokenizer
from vlarl.policies.tiny.vision import KeypointEncoder
from vlarl.prm.protocol import QUESTIONS, Views
from vlarl.recipe.front_ends import FRONT_ENDS
from vlarl.recipe.specs.prm import TinyPrmSpec
from vlarl.seeding import seed_torch

_INIT_STD = 0.06  # as in the tiny policy
_NEGATIVE, _POSITIVE = VOCABULARY_SIZE + len(QUESTIONS), VOCABULARY_SIZE + len(QUESTIONS) + 1
_NUM_TOKENS = VOCABULARY_SIZE + len(QUESTIONS) + 2
_TEXT_BUCKET = 4  # instructions are padded to a multiple of this, so that few shapes occur


class TinyRewardModel(nn.Module):
    """See the module; ``image_size`` is the side of its pictures in pixels."""

    def __init__(self, spec: TinyPrmSpec, *, image_size: int, seed: int) -> None:
        super().__init__()
        self.spec, self.previous_frame = spec, spec.previous_frame
        seed_torch(seed, "prm-init")
        self.vision = KeypointEncoder(
            image_size=image_size,
            num_keypoints=spec.num_keypoints,
            num_tokens=spec.num_visual_tokens,
            width=spec.hidden_size,
            front_end=FRONT_ENDS["keypoints"],
        )
        self.language_model = LlamaModel(
            LlamaConfig(
                vocab_size=_NUM_TOKENS,
                hidden_size=spec.hidden_size,
                intermediate_size=2 * spec.hidden_size,
                num_hidden_layers=spec.num_layers,
                num_attention_heads=spec.num_heads,
                num_key_value_heads=spec.num_heads,
                max_position_embeddings=1024,
                rms_norm_eps=1e-6,
                attn_implementation="sdpa",
                initializer_range=_INIT_STD,
            )
        )
        self.head = nn.Linear(spec.hidden_size, _NUM_TOKENS, bias=False)
        nn.init.normal_(self.head.weight, std=_INIT_STD)
        # So small that a GPU would mostly wait for pictures.
        self._device = chosen_device(spec.device, what="the reward model", auto="cpu")
        self.to(self._device)

    def answer_logits(self, views: Views) -> Tensor:
        """(N, 2, 2): question, then negative and positive token. RecipeError R216 for too long an instruction."""
        text, valid = self._text(views)
        embedded = self.language_model.embed_tokens(text)
        weights = valid.to(embedded.dtype)[..., None]
        meaning = (embedded * weights).sum(dim=1) / weights.sum(dim=1).sqrt()
        pictures = [images for images in (views.images, views.previous) if images is not None]
        seen = [self.vision(_pixels(images).to(self._device), meaning) for images in pictures]
        assert len(seen) == 1 + (self.previous_frame > 0), "the pictures that the model was made for"
        visual = torch.cat(seen, dim=1)
        questions = torch.arange(VOCABULARY_SIZE, VOCABULARY_SIZE + len(QUESTIONS), device=self._device)
        questions = questions.expand(len(views), -1)
        asked = self.language_model.embed_tokens(questions)
        # The questions come last and stand at one position, so that they cannot read each other.
        embeddings = torch.cat([embedded[:, :1], visual, embedded[:, 1:], asked], dim=1)
        known = torch.cat([valid[:, :1], valid.new_ones(visual.shape[:2]), valid[:, 1:]], dim=1)
        hidden = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=_attention(known, len(QUESTIONS), embeddings.dtype),
            position_ids=_positions(known, len(QUESTIONS)),
            use_cache=False,
        ).last_hidden_state[:, -len(QUESTIONS) :]
        return hidden @ self.head.weight[[_NEGATIVE, _POSITIVE]].T

    def _text(self, views: Views) -> tuple[Tensor, Tensor]:
        rows = [_encoded(instruction) for instruction in views.instructions]
        longest = max(map(len, rows))
        if longest > self.spec.max_prompt_length:
            raise RecipeError(
                f"an instruction has {longest} tokens, more than prm.max_prompt_length ({self.spec.max_prompt_length})",
                code="R216",
                hint=f"--set prm.max_prompt_length={longest}",
            )
        width = -(-longest // _TEXT_BUCKET) * _TEXT_BUCKET
        text = np.full((len(rows), width), load_tokenizer().token_to_id(PAD), np.int64)
        for position, row in enumerate(rows):
            text[position, : len(row)] = row
        valid = np.arange(width) < np.array([len(row) for row in rows])[:, None]
        return torch.from_numpy(text).to(self._device), torch.from_numpy(valid).to(self._device)


@cache
def _encoded(instruction: str) -> tuple[int, ...]:
    tokenizer = load_tokenizer()
    begin = tokenizer.token_to_id(BOS)
    assert begin is not None, "the shipped vocabulary has it"
    return (begin, *tokenizer.encode(instruction.lower(), add_special_tokens=False).ids)


def _pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().mul_(2.0 / 255.0).sub_(1.0)


def _attention(known: Tensor, num_questions: int, dtype: torch.dtype) -> Tensor:
    """(N, 1, K, K) additive mask: causal over the prompt's real tokens; each question sees the prompt and itself."""
    prompt = known.shape[1]
    total = prompt + num_questions
    allowed = torch.ones(total, total, dtype=torch.bool, device=known.device).tril()
    allowed[prompt:, prompt:] = torch.eye(num_questions, dtype=torch.bool, device=known.device)
    columns = torch.cat([known, known.new_ones(len(known), num_questions)], dim=1)
    allowed = allowed[None] & columns[:, None, :]
    bias = torch.zeros(allowed.shape, dtype=dtype, device=known.device)
    return bias.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def _positions(known: Tensor, num_questions: int) -> Tensor:
    """(N, K) int64 position of each token among the real ones; all questions at the one after the last."""
    inside = (known.long().cumsum(dim=1) - 1).clamp_(min=0)
    after = known.long().sum(dim=1, keepdim=True).expand(-1, num_questions)
    return torch.cat([inside, after], dim=1)
