"""OpenVLA-OFT with action tokens: the weights of OpenVLA, a chunk of control steps decided in one forward."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlarl.policies.action_tokens import NUM_ACTION_TOKENS
from vlarl.policies.decoding import ActionDecoder
from vlarl.policies.openvla.modeling import OpenVlaModel
from vlarl.policies.openvla.policy import OpenVlaPolicy
from vlarl.policies.parallel_decoding import ParallelDecoder
from vlarl.recipe.specs.policies import OpenVlaOftSpec, OpenVlaSpec
from vlarl.types import SuiteFacts


class OpenVlaOftPolicy(OpenVlaPolicy):
    """A decision is ``spec.chunk`` control steps, 7 tokens each, control step after control step.

    Its log-probability is the sum over all of them, those of control steps included that an episode's end left out:
    given the prompt they are independent of what was carried out, so they add no bias to a gradient.
    """

    def __init__(self, spec: OpenVlaSpec, *, suite: SuiteFacts, seed: int, trained: bool = True) -> None:
        assert isinstance(spec, OpenVlaOftSpec)
        self._chunk, self._attention = spec.chunk, spec.attention
        self.num_action_tokens = spec.chunk * NUM_ACTION_TOKENS
        super().__init__(spec, suite=suite, seed=seed, trained=trained)

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "kind": "openvla_oft", "chunk": self._chunk, "attention": self._attention}

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Actions (N, 7 K) float32 of the K control steps of a chunk, for tokens (N, 7 K)."""
        return self._codec.decode(tokens.reshape(-1, NUM_ACTION_TOKENS)).reshape(tokens.shape)

    @property
    def _num_action_columns(self) -> int:
        return self.num_action_tokens + 1  # the token that ends the text

    def _build_decoder(self, model: OpenVlaModel) -> ActionDecoder:
        sizes = model.sizes
        return ParallelDecoder(
            model.language_model,
            num_action_tokens=self.num_action_tokens,
            num_bins=sizes.num_bins,
            first_row=sizes.first_action_row,
            attention=self._attention,
        )
