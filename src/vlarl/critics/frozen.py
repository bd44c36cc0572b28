"""Critic on the feature of the policy's base weights, its adapters switched off."""

from __future__ import annotations

from vlarl.critics.heads import HeadCritic
from vlarl.policies.protocol import AdapterName, Policy
from vlarl.recipe.specs.policies import FrozenCriticSpec


class FrozenCritic(HeadCritic):
    """Value head on constants: a feature is computed once, in the rollout, and travels with it.

    Costs one more prefill a step in the rollout and next to nothing in the update.
    """

    kind = "frozen"
    adapter: AdapterName = "base"
    caches_features = True

    def __init__(self, spec: FrozenCriticSpec, *, policy: Policy, seed: int) -> None:
        super().__init__(policy.feature_size, spec.hidden_sizes, seed)
