"""Critic on the policy's own feature of the last unpadded prompt token."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vlarl.critics.heads import ValueHead
from vlarl.policies.protocol import AdapterName
from vlarl.recipe.specs.policies import SharedCriticSpec
from vlarl.seeding import seed_torch


class SharedCritic(nn.Module):
    """Value head on the feature that sampling and scoring compute anyway."""

    adapter: AdapterName = "policy"
    caches_features = False

    def __init__(self, spec: SharedCriticSpec, *, feature_size: int, seed: int) -> None:
        super().__init__()
        self._stop_gradient = spec.stop_gradient
        seed_torch(seed, "critic-init")
        self.head = ValueHead(feature_size, spec.hidden_sizes)

    def value(self, feature: Tensor) -> Tensor:
        return self.head(feature.detach() if self._stop_gradient else feature)

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"critic": list(self.parameters())}

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this critic to be loaded into it."""
        return {"kind": "shared", "shapes": {name: list(p.shape) for name, p in self.named_parameters()}}
