"""Critic on the policy's own feature of the last unpadded prompt token."""

from __future__ import annotations

from torch import Tensor

from vlarl.critics.heads import HeadCritic
from vlarl.policies.protocol import AdapterName, Policy
from vlarl.recipe.specs.policies import SharedCriticSpec


class SharedCritic(HeadCritic):
    """Value head on the feature that sampling and scoring compute anyway."""

    kind = "shared"
    adapter: AdapterName = "policy"

    def __init__(self, spec: SharedCriticSpec, *, policy: Policy, seed: int) -> None:
        super().__init__(policy.feature_size, spec.hidden_sizes, seed)
        self._stop_gradient = spec.stop_gradient

    def value(self, feature: Tensor) -> Tensor:
        return self.head(feature.detach() if self._stop_gradient else feature)
