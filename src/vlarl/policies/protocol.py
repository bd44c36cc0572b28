"""What a policy is to the mechanics: sample, score, features; all heads share one support and one temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor, nn

from vlarl.recipe.specs.policies import LoraSpec
from vlarl.types import Observation

AdapterName = Literal["policy", "base", "critic"]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """N decisions."""

    tokens: Tensor  # (N, A) int64 in [0, num_bins)
    log_prob: Tensor  # (N,) float32, summed over the A tokens
    feature: Tensor  # (N, D) float32, last unpadded prompt token


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The same decisions under the present weights, differentiable."""

    log_prob: Tensor  # (N,) float32
    entropy: Tensor  # (N,) float32, mean over the A tokens
    feature: Tensor  # (N, D) float32


class Policy(Protocol):
    """A policy over action tokens, which decides for one control step or for a chunk of K of them."""

    num_action_tokens: int  # A: 7 K
    num_bins: int  # V
    feature_size: int  # D
    action_convention: str

    @property
    def identity(self) -> dict[str, Any]:
        """JSON that a checkpoint must share with this policy to be loaded into it."""
        ...

    def prepare(self, observation: Observation, *, among: Sequence[str] = ()) -> Any:
        """Model inputs for N observations; no gradient, no randomness.

        ``among``: instructions that others in a batch may have. The inputs get the shape that the longest of them
        needs, so that to the last bit what is decided for a row does not depend on which rows are beside it.
        """
        ...

    def sample(self, inputs: Any, *, temperature: float, uniforms: np.ndarray | None) -> Sampled:
        """Tokens by inverse CDF from ``uniforms`` (N, A) in [0, 1); greedy when None. Without gradient."""
        ...

    def score(self, inputs: Any, tokens: Tensor, *, temperature: float) -> Scores: ...

    def token_log_probs(self, inputs: Any, tokens: Tensor) -> Tensor:
        """(N, A, V) teacher-forced log-probabilities at temperature 1, differentiable, for imitation."""
        ...

    def features(self, inputs: Any, *, adapter: AdapterName = "policy") -> Tensor: ...

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Actions (N, 7 K) float32 in [-1, 1] for tokens (N, A), control step after control step."""
        ...

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Tokens (N, 7) int64 for actions (N, 7) of single control steps: inverse of ``decode`` up to half a bin."""
        ...

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> Any: ...


class AdaptedPolicy(Policy, Protocol):
    """A policy whose base weights are frozen, so that others can adapt them as well."""

    def add_adapter(self, name: Literal["critic"], spec: LoraSpec, *, seed: int) -> dict[str, nn.Parameter]:
        """Adapters beside the policy's own; ``features(..., adapter=name)`` uses them. Their weights by name."""
        ...


class Critic(Protocol):
    """One value per control step, from a feature of the policy."""

    adapter: AdapterName  # whose features it reads
    caches_features: bool  # features are constants and travel with the rollout

    @property
    def identity(self) -> dict[str, Any]: ...

    def value(self, feature: Tensor) -> Tensor:
        """(N,) float32 for (N, D)."""
        ...

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> Any: ...
