"""What `openvla.py` measures: the policy on random weights, and what `vlarl plan` says about it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from vlarl.plan_checkpoint import Found
from vlarl.plan_machine import Machine
from vlarl.plan_memory import memory_of, model_of
from vlarl.plan_model import Linear, Llama, OpenVla, Tower
from vlarl.policies.action_tokens import NUM_ACTION_TOKENS
from vlarl.policies.openvla.modeling import OpenVlaModel, empty_model
from vlarl.policies.openvla.policy import OpenVlaInputs, OpenVlaPolicy
from vlarl.policies.openvla.sizes import LanguageSizes, OpenVlaSizes, TowerSizes
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.learning import PpoSpec
from vlarl.recipe.specs.policies import LoraSpec, OpenVlaSpec, SharedCriticSpec
from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.types import Observation

SMALL = OpenVlaSizes(
    featurizer=TowerSizes(
        width=32, num_blocks=3, mlp_size=64, num_heads=2, patch_size=7, grid=4, class_token=True, num_registers=4
    ),
    fused_featurizer=TowerSizes(width=32, num_blocks=3, mlp_size=64, num_heads=2, patch_size=7, grid=4),
    projector_size=96,
    language=LanguageSizes(
        vocab_size=704, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, num_kv_heads=4
    ),
)


class RandomPolicy(OpenVlaPolicy):
    """The policy on random weights; an instruction is the number of a row of prepared inputs."""

    def __init__(self, spec: OpenVlaSpec, sizes: OpenVlaSizes, inputs: OpenVlaInputs) -> None:
        self.spec, self._trains_all, self._dtype = spec, False, torch.bfloat16
        self.device = torch.device(spec.device)
        self.num_bins, self.feature_size = sizes.num_bins, sizes.language.hidden_size
        self.inputs = inputs
        self.held: object = None  # what a run has in memory beside the model: the optimizers of the last update
        self._install(random_model(sizes, self.device), seed=0)
        stir(self)

    def prepare(self, observation: Observation, **_: Any) -> OpenVlaInputs:
        return rows_of(self.inputs, [int(row) for row in observation.instructions])


def random_model(sizes: OpenVlaSizes, device: torch.device) -> OpenVlaModel:
    """Weights at which activations neither vanish nor grow: products on zeros run faster than on numbers."""
    model = empty_model(sizes, dtype=torch.bfloat16, device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.02)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def stir(policy: OpenVlaPolicy, std: float = 0.01) -> None:
    """Move the adapters, whose second factors start at zero."""
    with torch.no_grad():
        for weight in policy.adapters.weights("policy").values():
            weight.add_(std * torch.randn_like(weight))


def random_inputs(sizes: OpenVlaSizes, count: int, text: int) -> OpenVlaInputs:
    """Prompts of up to ``text`` tokens after BOS; the first is that long, so that every group has one shape."""
    random = torch.Generator().manual_seed(1)
    lengths = torch.randint(text // 2, text + 1, (count,), generator=random)
    lengths[0] = text
    ids = torch.randint(3, sizes.first_action_row, (count, 1 + text), generator=random)
    ids[:, 0] = 1
    side = sizes.image_size
    return OpenVlaInputs(
        pixels=torch.randn(count, 6, side, side, generator=random),
        text=ids,
        text_valid=torch.arange(1 + text)[None] <= lengths[:, None],
    )


def rows_of(inputs: OpenVlaInputs, rows: Any) -> OpenVlaInputs:
    return OpenVlaInputs(pixels=inputs.pixels[rows], text=inputs.text[rows], text_valid=inputs.text_valid[rows])


def uniforms(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, NUM_ACTION_TOKENS))


def plan_sizes(sizes: OpenVlaSizes) -> OpenVla:
    """The same sizes in the words of `vlarl plan`."""
    middle, width = sizes.projector_size, sizes.language.hidden_size
    text = sizes.language
    towers = {"DINOv2": sizes.featurizer, "SigLIP": sizes.fused_featurizer}
    return OpenVla(
        towers={
            name: Tower(
                width=tower.width,
                depth=tower.num_blocks,
                mlp=tower.mlp_size,
                num_patches=tower.num_patches,
                patch=tower.patch_size,
                num_prefix=tower.num_prefix_tokens,
                layer_scale=tower.layer_scale,
                pool_mlp=tower.mlp_size if tower.pooling else None,
            )
            for name, tower in towers.items()
        },
        projector=tuple(
            Linear(name=f"fc{i + 1}", fan_in=a, fan_out=b, count=1, bias=True)
            for i, (a, b) in enumerate(pairwise((sizes.vision_width, middle, width, width)))
        ),
        language=Llama(
            width=width,
            depth=text.num_layers,
            mlp=text.intermediate_size,
            vocabulary=text.vocab_size,
            key_width=None if text.num_kv_heads == text.num_heads else text.num_kv_heads * text.head_size,
        ),
    )


class Planned:
    """Costs and peaks of `vlarl plan` for these sizes."""

    def __init__(self, sizes: OpenVlaSizes) -> None:
        self._sizes = plan_sizes(sizes)
        self._found = Found(sizes=self._sizes, parameters=self._sizes.total, bytes=0, statistics=())
        self.costs = model_of(recipe_of(), self._found).costs
        language, adapters = self._sizes.language, LoraSpec()
        read = sum(2 * linear.adapter(adapters.rank) for linear in language.linears)
        self._step_reads = self.costs.decode_reads + read

    def step_bytes(self, count: int) -> int:
        """Least a step of ``count`` slots reads: weights, rounded adapters, keys and values."""
        return self._step_reads + count * self.costs.key_values

    def update_flops(self, checkpointing: bool) -> float:
        return model_of(recipe_of(checkpointing=checkpointing), self._found).costs.update_flops

    def peak(self, phase: str, **knobs: Any) -> int:
        recipe = recipe_of(**knobs)
        machine = Machine(device="gpu", num_gpus=1, gpu_bytes=None, gpu_name=None, host_bytes=None, origin="benchmark")
        memory = memory_of(recipe, model_of(recipe, self._found), machine)[0]
        return memory.peak if memory.phase == phase else 0


def recipe_of(*, environments: int = 1, micro_batch: int = 1, checkpointing: bool = False) -> Recipe:
    return Recipe(
        name="benchmark",
        suite=LiberoSpec(num_envs=environments, num_groups=1),
        policy=OpenVlaSpec(checkpoint="openvla-7b", gradient_checkpointing=checkpointing),
        critic=SharedCriticSpec(),
        ppo=PpoSpec(minibatch_size=micro_batch),
        imitation=None,
    )
