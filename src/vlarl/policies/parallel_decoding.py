"""Parallel decoding: all action tokens of a chunk from one forward, as OpenVLA-OFT has it (Kim et al. 2025).

After each prompt stand a column for every action token, whose embedding is zero, and the token that ends a text. The
hidden state of the prompt's last token predicts the first action token, that of the first empty column the second, and
so on: positions are those of a language model, only that no token is fed back. Given the prompt the tokens are
independent of each other, and one draw of all of them takes the time of a prefill.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from vlarl.policies.decoding import ActionDecoder, Prompt, inverse_cdf, positions, run_layers, take_rows
from vlarl.policies.protocol import Sampled

Attention = Literal["all", "actions"]
END_OF_TEXT = 2  # Llama's


def parallel_bias(prompt_valid: Tensor, num_action_columns: int, dtype: torch.dtype, attention: Attention) -> Tensor:
    """(N, 1, K, K) additive mask over K = P + M columns: prompts (N, P) padded on the right, then M action columns.

    Action columns attend to their row's prompt and to each other, in both directions. With ``actions`` the prompt is
    causal and never sees them; with ``all`` every column sees every other. Padding is attended to by nobody; it
    attends as the columns around it do, so that no row of the mask is empty.
    """
    num_prompt = prompt_valid.shape[1]
    columns = num_prompt + num_action_columns
    seen = F.pad(prompt_valid, (0, num_action_columns), value=True)
    if attention == "all":
        reaches = torch.ones(columns, columns, dtype=torch.bool, device=seen.device)
    else:
        reaches = torch.ones(columns, columns, dtype=torch.bool, device=seen.device).tril()
        reaches[num_prompt:] = True
    allowed = reaches[None] & seen[:, None, :]
    bias = torch.zeros(allowed.shape, dtype=dtype, device=seen.device)
    return bias.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


class ParallelDecoder(ActionDecoder):
    """Samples and scores A action tokens in one forward."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        *,
        num_action_tokens: int,
        num_bins: int,
        first_row: int,
        attention: Attention,
    ) -> None:
        super().__init__(model, num_action_tokens=num_action_tokens, num_bins=num_bins, first_row=first_row)
        self._attention = attention

    def predicting(self, prompt: Prompt) -> Tensor:
        """(N, A, D) hidden states that predict the action tokens; the first is the prompt's last token's."""
        embeddings = prompt.embeddings
        count, num_prompt, width = embeddings.shape
        empty = embeddings.new_zeros(count, self._num_tokens, width)
        end = torch.full((count, 1), END_OF_TEXT, device=embeddings.device)
        ending = F.embedding(end, self._model.model.embed_tokens.weight).to(embeddings.dtype)
        bias = parallel_bias(prompt.valid, self._num_tokens + 1, embeddings.dtype, self._attention)
        hidden = run_layers(
            self._model,
            torch.cat([embeddings, empty, ending], dim=1),
            where=positions(F.pad(prompt.valid, (0, self._num_tokens + 1), value=True)),
            bias=bias,
        )
        first = take_rows(hidden, prompt.last)[:, None]
        return torch.cat([first, hidden[:, num_prompt : num_prompt + self._num_tokens - 1]], dim=1)

    @torch.no_grad()
    def sample(self, prompt: Prompt, *, temperature: float, uniforms: np.ndarray | None) -> Sampled:
        """A tokens a row by inverse CDF of ``uniforms`` (N, A) float64, or greedy when None."""
        predicting = self.predicting(prompt)
        log_probs = self._log_probs(predicting, temperature)  # (N, A, V)
        if uniforms is None:
            tokens = log_probs.argmax(dim=-1)
        else:
            draws = torch.from_numpy(uniforms).to(log_probs.device)
            tokens = inverse_cdf(log_probs.flatten(0, 1), draws.flatten()).view(log_probs.shape[:2])
        chosen = log_probs.gather(2, tokens[..., None])[..., 0]
        return Sampled(tokens=tokens, log_prob=chosen.sum(dim=-1), feature=predicting[:, 0].float())

    def token_log_probs(self, prompt: Prompt, tokens: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N, A, V) of every action token, whatever ``tokens`` are, and the feature (N, D)."""
        predicting = self.predicting(prompt)
        return self._log_probs(predicting, temperature), predicting[:, 0]

    def feature(self, prompt: Prompt) -> Tensor:
        """(N, D) float32 hidden state of the last real prompt token."""
        return self.predicting(prompt)[:, 0].float()
