"""The value head every critic has: LayerNorm and a small fp32 perceptron on a feature of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from vlarl.policies.protocol import AdapterName
from vlarl.seeding import seed_torch


class ValueHead(nn.Module):
    """(N, D) feature to (N,) value; the last layer starts small, so that the first values are near zero."""

    def __init__(self, feature_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(feature_size)]
        width = feature_size
        for hidden in hidden_sizes:
            layers += [nn.Linear(width, hidden), nn.GELU()]
            width = hidden
        last = nn.Linear(width, 1)
        nn.init.normal_(last.weight, std=0.02)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, feature: Tensor) -> Tensor:
        return self.layers(feature.float())[:, 0]


class HeadCritic(nn.Module):
    """A critic that is a value head; its kinds differ in whose feature it reads."""

    kind: ClassVar[str]
    adapter: AdapterName
    caches_features = False

    def __init__(self, feature_size: int, hidden_sizes: Sequence[int], seed: int) -> None:
        super().__init__()
        seed_torch(seed, "critic-init")
        self.head = ValueHead(feature_size, hidden_sizes)

    def value(self, feature: Tensor) -> Tensor:
        return self.head(feature)

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"critic": list(self.parameters())}

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this critic to be loaded into it."""
        return {"kind": self.kind, "shapes": {name: list(t.shape) for name, t in self.state_dict().items()}}
