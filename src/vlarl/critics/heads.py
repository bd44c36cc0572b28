"""The value head every critic uses: LayerNorm and a small fp32 perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


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
