"""Critic with low-rank adapters of its own on the policy's base weights: no second copy of the model."""

from __future__ import annotations

from torch import nn

from vlarl.critics.heads import HeadCritic
from vlarl.policies.protocol import AdaptedPolicy, AdapterName
from vlarl.recipe.specs.policies import AdapterCriticSpec


class AdapterCritic(HeadCritic):
    """Value head on a feature that is trained for it."""

    kind = "adapter"
    adapter: AdapterName = "critic"

    def __init__(self, spec: AdapterCriticSpec, *, policy: AdaptedPolicy, seed: int) -> None:
        super().__init__(policy.feature_size, spec.hidden_sizes, seed)
        weights = policy.add_adapter("critic", spec.lora, seed=seed)
        # The same tensors as in the policy's modules; torch allows no dots in these names.
        self.weights = nn.ParameterDict({name.replace(".", "/"): weight for name, weight in weights.items()})
