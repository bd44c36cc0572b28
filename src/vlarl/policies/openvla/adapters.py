"""Low-rank adapters on a frozen model, through peft: the policy's own, and others beside them.

Base weights are never merged in place: in bfloat16 that would wear them down (measured: 20 cycles of merging and
unmerging move a weight by up to half a per cent of its tensor's largest).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from vlarl.errors import RecipeError
from vlarl.policies.protocol import AdapterName
from vlarl.recipe.specs.policies import LoraSpec
from vlarl.seeding import seed_torch

_VISION, _HEAD = "vision_backbone.", "language_model.lm_head"
_PARTS = ("lora_A", "lora_B")


class Adapters:
    """Which adapters a model has, and which of them act."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._specs: dict[AdapterName, LoraSpec] = {}
        self._layers: list[tuple[str, LoraLayer]] = []
        self.current: AdapterName = "base"

    def add(self, name: AdapterName, spec: LoraSpec, *, seed: int) -> dict[str, nn.Parameter]:
        """New adapters that change nothing yet (their second factor is zero); their weights in fp32, by name."""
        assert name not in self._specs, name
        config = LoraConfig(
            r=spec.rank, lora_alpha=spec.alpha, lora_dropout=0.0, bias="none", target_modules=self._targets(spec)
        )
        seed_torch(seed, "lora-init", name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a second set of adapters is meant
            inject_adapter_in_model(config, self._model, adapter_name=name)
        self._layers = [(n, m) for n, m in self._model.named_modules() if isinstance(m, LoraLayer)]
        self._specs[name] = spec
        for weight in self.weights(name).values():
            weight.data = weight.data.float()
        for _, module in self._layers:
            # Autocast converts the small factors; peft would keep an fp32 copy of every layer's input instead.
            module.cast_input_dtype_enabled = False
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        self.switch(self.current)
        return self.weights(name)

    def weights(self, name: AdapterName) -> dict[str, nn.Parameter]:
        """``<layer>.lora_A.weight`` (r, in) and ``<layer>.lora_B.weight`` (out, r) of every adapted layer."""
        found = {}
        for layer, module in self._layers:
            for part in _PARTS:
                factors = getattr(module, part)
                if name in factors:
                    found[f"{layer}.{part}.weight"] = factors[name].weight
        return found

    def rounded(self, name: AdapterName, dtype: torch.dtype, *, within: str) -> RoundedFactors:
        """Copies of the factors of layers whose name starts with ``within``."""
        parts = [getattr(module, part) for layer, module in self._layers if layer.startswith(within) for part in _PARTS]
        return RoundedFactors([factors[name] for factors in parts if name in factors], dtype)

    def switch(self, name: AdapterName) -> None:
        """From now on forwards run with these adapters, or with none (``base``)."""
        for _, module in self._layers:
            if name == "base" or name not in module.lora_A:
                module.enable_adapters(False)
            else:
                module.set_adapter(name)
                module.enable_adapters(True)
        for each in self._specs:  # peft turns gradients off with the adapter; which act changes nothing about that
            for weight in self.weights(each).values():
                weight.requires_grad_(True)
        self.current = name

    @contextmanager
    def using(self, name: AdapterName) -> Iterator[None]:
        """The same for the time of a block."""
        before = self.current
        if name == before:
            yield
            return
        self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    def for_recomputation(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For gradient checkpointing: now as it is; again later, in the backward pass, with what acts now."""
        return nullcontext(), self.using(self.current)

    def _targets(self, spec: LoraSpec) -> list[str]:
        linear = [
            name.removesuffix(".base_layer")
            for name, module in self._model.named_modules()
            if isinstance(module, nn.Linear) and ".lora_" not in name
        ]
        allowed = [name for name in linear if name != _HEAD and (spec.vision or not name.startswith(_VISION))]
        if spec.targets == "all-linear":
            return allowed
        for target in spec.targets:
            if not any(name.split(".")[-1] == target or name.endswith(f".{target}") for name in allowed):
                raise RecipeError(
                    f"`{target}` is no linear layer that can be adapted",
                    code="R218",
                    place="policy.lora.targets",
                    hint="the last parts of their names are "
                    + ", ".join(sorted({name.split(".")[-1] for name in allowed})),
                )
        return [name for name in allowed if any(name.endswith(f".{target}") for target in spec.targets)]


class RoundedFactors:
    """Adapter factors in the arithmetic's dtype, at addresses that stay: what a captured forward reads.

    Autocast rounds the fp32 masters to the same numbers, but to wherever there is room, and anew in every block.
    """

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype) -> None:
        self._layers = layers
        self._masters: list[Tensor] = [layer.weight for layer in layers]
        self._copies: list[Tensor] = [
            nn.Parameter(master.detach().to(dtype), requires_grad=False) for master in self._masters
        ]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what the masters are now."""
        if self._copies:
            torch._foreach_copy_(self._copies, self._masters)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Forwards inside the block compute with the copies, and without autocast."""
        self._put(self._copies)
        try:
            with ExitStack() as without:
                for device in {copy.device.type for copy in self._copies}:
                    without.enter_context(torch.autocast(device, enabled=False))
                yield
        finally:
            self._put(self._masters)

    def _put(self, weights: Iterable[Tensor]) -> None:
        for layer, weight in zip(self._layers, weights, strict=True):
            assert isinstance(weight, nn.Parameter)
            layer.weight = weight
