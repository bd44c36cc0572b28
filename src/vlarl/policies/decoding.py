"""Batch decoding and one-forward scoring of action tokens on a causal language model.

Shared by every autoregressive policy: the prompt arrives as embeddings with padding on the right, and only the 256
action rows of the head are computed. Padding is never attended to, and positions count real tokens only, so it
changes nothing. Here the action tokens follow after the padding and the cache grows; `static_decoding` has the form
for large models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, LlamaForCausalLM

from vlarl.policies.protocol import Sampled, Scores

_ONE = 2.0**52  # of what probabilities are counted in: sums up to 1 are exact in float64


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A batch of embedded prompts, padded on the right to P columns."""

    embeddings: Tensor  # (N, P, D)
    valid: Tensor  # (N, P) bool, True on real tokens: at least one a row, and none after the first False

    @property
    def last(self) -> Tensor:
        """(N,) int64, column of each row's last real token."""
        return self.valid.sum(dim=1) - 1


def attention_bias(valid: Tensor, num_queries: int, dtype: torch.dtype) -> Tensor:
    """(N, 1, Q, K) additive causal mask for the last Q of K columns, of which only ``valid`` (N, K) are attended.

    A padded query attends to itself only by way of the columns before it, so no row is ever empty.
    """
    num_keys = valid.shape[1]
    causal = torch.ones(num_queries, num_keys, dtype=torch.bool, device=valid.device)
    causal = causal.tril(diagonal=num_keys - num_queries)
    allowed = causal[None] & valid[:, None, :]
    bias = torch.zeros(allowed.shape, dtype=dtype, device=valid.device)
    return bias.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def positions(valid: Tensor) -> Tensor:
    """(N, K) int64, index of each column among the row's real tokens."""
    return (valid.long().cumsum(dim=1) - 1).clamp_(min=0)


def take_rows(hidden: Tensor, columns: Tensor) -> Tensor:
    """(N, D) of ``hidden`` (N, K, D) for one column a row (N,), or (N, M, D) for M columns a row (N, M)."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows.view(-1, *[1] * (columns.dim() - 1)), columns]


def run_layers(
    model: LlamaForCausalLM, embeddings: Tensor, *, where: Tensor, bias: Tensor | None = None, cache: Any = None
) -> Tensor:
    """Final hidden states (N, Q, D) of embeddings (N, Q, D) at positions ``where`` (N or 1, Q).

    Without ``bias``, (N, 1, Q, K) and additive, attention is causal and no mask takes memory. The model's own forward
    derives one from the positions' values, and waits for the device to know them.
    """
    language = model.model
    rotations = language.rotary_emb(embeddings, position_ids=where)
    hidden = embeddings
    for layer in language.layers:
        hidden = layer(
            hidden,
            attention_mask=bias,
            position_ids=where,
            position_embeddings=rotations,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return language.norm(hidden)


def run_prompts(model: LlamaForCausalLM, embeddings: Tensor, cache: Any = None) -> Tensor:
    """Final hidden states (N, K, D) of rows padded on the right: causal attention never sees what comes after."""
    return run_layers(
        model, embeddings, where=torch.arange(embeddings.shape[1], device=embeddings.device)[None], cache=cache
    )


def inverse_cdf(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (N,) int64: the first whose cumulative probability exceeds ``uniform`` (N,) float64 in [0, 1)."""
    # Whole numbers add up to the same in any order; a GPU has no other sum that repeats to the bit.
    cumulative = (log_probs.double().exp() * _ONE).round().long().cumsum(dim=-1).double()
    # Rounding can leave the total a hair below 1, or below a uniform close to 1.
    threshold = uniform * cumulative[:, -1]
    return (cumulative <= threshold[:, None]).sum(dim=-1).clamp_(max=log_probs.shape[-1] - 1)


class ActionDecoder:
    """Samples and scores A action tokens with the last ``num_bins`` rows of a language model's vocabulary."""

    def __init__(self, model: LlamaForCausalLM, *, num_action_tokens: int, num_bins: int, first_row: int) -> None:
        self._model = model
        self._num_tokens = num_action_tokens
        self._rows = slice(first_row, first_row + num_bins)
        self._first_row = first_row

    def _log_probs(self, hidden: Tensor, temperature: float) -> Tensor:
        logits = F.linear(hidden, self._model.lm_head.weight[self._rows])
        return F.log_softmax(logits.float() / temperature, dim=-1)

    def _embed(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens + self._first_row, self._model.model.embed_tokens.weight)

    def _start(self, prompt: Prompt) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Feature (N, D) of the prompts, and what feeds each row a token (N,) and gives its hidden state (N, D).

        A hidden state is good until the next token is fed.
        """
        cache = DynamicCache(config=self._model.config)
        hidden = run_prompts(self._model, prompt.embeddings, cache)
        valid, where = prompt.valid, prompt.last[:, None]

        def feed(token: Tensor) -> Tensor:
            nonlocal valid, where
            valid, where = F.pad(valid, (0, 1), value=True), where + 1
            bias = attention_bias(valid, 1, hidden.dtype)
            return run_layers(self._model, self._embed(token)[:, None], where=where, bias=bias, cache=cache)[:, 0]

        return take_rows(hidden, prompt.last), feed

    def _predicting(self, prompt: Prompt, fed: Tensor) -> Tensor:
        """Hidden states (N, A, D) that predict the action tokens when all but the last, ``fed`` (N, A - 1, D), follow
        the prompt."""
        embeddings = torch.cat([prompt.embeddings, fed], dim=1)
        valid = F.pad(prompt.valid, (0, fed.shape[1]), value=True)
        bias = attention_bias(valid, valid.shape[1], embeddings.dtype)
        hidden = run_layers(self._model, embeddings, where=positions(valid), bias=bias)
        return torch.cat([take_rows(hidden, prompt.last)[:, None], hidden[:, prompt.valid.shape[1] :]], dim=1)

    @torch.no_grad()
    def sample(self, prompt: Prompt, *, temperature: float, uniforms: np.ndarray | None) -> Sampled:
        """A tokens a row by inverse CDF of ``uniforms`` (N, A) float64, or greedy when None."""
        draws = None if uniforms is None else torch.from_numpy(uniforms).to(prompt.embeddings.device)
        feature, feed = self._start(prompt)
        current, tokens, log_prob = feature, [], torch.zeros(len(feature), device=feature.device)
        for i in range(self._num_tokens):
            log_probs = self._log_probs(current, temperature)
            token = log_probs.argmax(dim=-1) if draws is None else inverse_cdf(log_probs, draws[:, i])
            log_prob = log_prob + log_probs.gather(1, token[:, None])[:, 0]
            tokens.append(token)
            if i + 1 < self._num_tokens:
                current = feed(token)
        return Sampled(tokens=torch.stack(tokens, dim=1), log_prob=log_prob, feature=feature.float())

    def token_log_probs(self, prompt: Prompt, tokens: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Teacher-forced log-probabilities (N, A, V) of every action token, and the feature (N, D)."""
        predicting = self._predicting(prompt, self._embed(tokens[:, :-1]))
        return self._log_probs(predicting, temperature), predicting[:, 0]

    def score(self, prompt: Prompt, tokens: Tensor, *, temperature: float) -> Scores:
        log_probs, feature = self.token_log_probs(prompt, tokens, temperature=temperature)
        chosen = log_probs.gather(2, tokens[..., None])[..., 0]
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1).mean(dim=-1)
        return Scores(log_prob=chosen.sum(dim=-1), entropy=entropy, feature=feature.float())

    def feature(self, prompt: Prompt) -> Tensor:
        """(N, D) float32 hidden state of the last real prompt token."""
        return take_rows(run_prompts(self._model, prompt.embeddings), prompt.last).float()
