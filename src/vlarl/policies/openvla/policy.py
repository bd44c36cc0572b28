"""OpenVLA behind the policy protocol: a checkpoint, with adapters or trained in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vlarl.devices import chosen_device
from vlarl.policies.action_tokens import ACTION_CONVENTION, NUM_ACTION_TOKENS
from vlarl.policies.decoding import ActionDecoder, Prompt
from vlarl.policies.openvla.adapters import Adapters, RoundedFactors
from vlarl.policies.openvla.checkpoint import Layout, load_model, read_layout
from vlarl.policies.openvla.hub import resolve
from vlarl.policies.openvla.images import ImageProcessor, load_normalisation
from vlarl.policies.openvla.modeling import OpenVlaModel
from vlarl.policies.openvla.prompts import load_prompts
from vlarl.policies.openvla.sizes import sizes_of
from vlarl.policies.openvla.statistics import ActionCodec, load_statistics
from vlarl.policies.protocol import AdapterName, Sampled, Scores
from vlarl.policies.static_decoding import StaticDecoder, captured, directly
from vlarl.recipe.specs.policies import LoraSpec, OpenVlaSpec
from vlarl.types import Observation, SuiteFacts

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class OpenVlaInputs:
    """Prepared inputs of N decisions, on the CPU."""

    pixels: Tensor  # (N, 6, S, S) float32
    text: Tensor  # (N, L) int64, padded on the right
    text_valid: Tensor  # (N, L) bool


class OpenVlaPolicy:
    """Results are float32 on the CPU, wherever the model runs; gradients flow back through the transfer.

    With ``trained=False`` it only acts: nothing can be trained, and all weights are kept in ``spec.dtype``.
    """

    num_action_tokens: int = NUM_ACTION_TOKENS
    action_convention = ACTION_CONVENTION

    def __init__(self, spec: OpenVlaSpec, *, suite: SuiteFacts, seed: int, trained: bool = True) -> None:
        assert trained or spec.lora is None, "adapters are there to be trained"
        self.spec = spec
        self._trains_all = trained and spec.lora is None
        self.device = chosen_device(spec.device, what="the policy")
        self._dtype = _DTYPES[spec.dtype]
        self.layout: Layout = read_layout(resolve(spec.checkpoint))
        folder, config = self.layout.folder, self.layout.config
        sizes = sizes_of(self.layout.shapes, config, spec.vision_heads)
        self._digest = self.layout.digest()
        self.num_bins = sizes.num_bins
        self.feature_size = sizes.language.hidden_size
        self._codec = ActionCodec(load_statistics(folder, config, suite=suite.name, key=spec.statistics))
        self._prompts = load_prompts(
            folder,
            config,
            bucket=spec.prompt_bucket,
            num_visual_tokens=sizes.num_patches,
            num_action_tokens=self._num_action_columns,
        )
        self._images = ImageProcessor(
            pipeline=spec.images,
            size=sizes.image_size,
            centre_crop=spec.centre_crop,
            normalisation=load_normalisation(folder),
        )
        # Trained in full, the weights are their own fp32 masters and `dtype` is that of the arithmetic.
        dtype = torch.float32 if self._trains_all else self._dtype
        self._install(load_model(self.layout, sizes, dtype=dtype, device=self.device), seed=seed)

    def _install(self, model: OpenVlaModel, *, seed: int) -> None:
        """What follows from the weights and ``spec``: adapters and decoder."""
        spec = self.spec
        self.model = model.requires_grad_(self._trains_all)
        self.adapters = Adapters(self.model)
        if spec.lora is not None:
            self.adapters.add("policy", spec.lora, seed=seed)
            self.adapters.switch("policy")
        self.model.set_gradient_checkpointing(spec.gradient_checkpointing, self.adapters.for_recomputation)
        on_gpu, autocast = self.device.type == "cuda", self._dtype != torch.float32
        self._rounded: RoundedFactors | None = None
        if on_gpu and autocast and spec.lora is not None:
            self._rounded = self.adapters.rounded("policy", self._dtype, within="language_model.")
        self._decoder = self._build_decoder(self.model)

    @property
    def _num_action_columns(self) -> int:
        """Columns of the model's context that an action takes."""
        return self.num_action_tokens

    def _build_decoder(self, model: OpenVlaModel) -> ActionDecoder:
        # A graph cannot read what autocast makes of fp32 masters, and a copy of all of them has no room.
        can_capture = self.device.type == "cuda" and not (self._dtype != torch.float32 and self._trains_all)
        surroundings = self._rounded.in_place if self._rounded is not None else nullcontext
        return StaticDecoder(
            model.language_model,
            num_action_tokens=self.num_action_tokens,
            num_bins=model.sizes.num_bins,
            first_row=model.sizes.first_action_row,
            capture=partial(captured, surroundings=surroundings) if can_capture else directly,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this policy to be loaded into it."""
        trained = self.spec.model_dump(include={"lora", "images", "centre_crop", "statistics"})
        return {
            "kind": "openvla",
            **trained,
            "base": self._digest,
            "action": ACTION_CONVENTION,
            "num_action_tokens": self.num_action_tokens,
            "num_bins": self.num_bins,
            "normalisation": self._codec.statistics.identity,
        }

    def prepare(self, observation: Observation, *, among: Sequence[str] = ()) -> OpenVlaInputs:
        prompts = self._prompts.encode(observation.instructions, among=among)
        return OpenVlaInputs(
            pixels=torch.from_numpy(self._images(observation.images)),
            text=torch.from_numpy(prompts.ids),
            text_valid=torch.from_numpy(prompts.valid),
        )

    def sample(self, inputs: OpenVlaInputs, *, temperature: float, uniforms: np.ndarray | None) -> Sampled:
        assert self.spec.lora is None or self.adapters.current == "policy", "captured steps know no others"
        if self._rounded is not None:
            self._rounded.refresh()
        with torch.no_grad(), self._arithmetic():
            sampled = self._decoder.sample(self._prompt(inputs), temperature=temperature, uniforms=uniforms)
        return Sampled(
            tokens=sampled.tokens.cpu(), log_prob=sampled.log_prob.cpu(), feature=sampled.feature.float().cpu()
        )

    def score(self, inputs: OpenVlaInputs, tokens: Tensor, *, temperature: float) -> Scores:
        with self._arithmetic():
            scores = self._decoder.score(self._prompt(inputs), tokens.to(self.device), temperature=temperature)
        return Scores(
            log_prob=scores.log_prob.cpu(), entropy=scores.entropy.cpu(), feature=scores.feature.float().cpu()
        )

    def token_log_probs(self, inputs: OpenVlaInputs, tokens: Tensor) -> Tensor:
        """(N, A, V) teacher-forced log-probabilities at temperature 1, for imitation."""
        with self._arithmetic():
            prompt = self._prompt(inputs)
            return self._decoder.token_log_probs(prompt, tokens.to(self.device), temperature=1.0)[0].cpu()

    def features(self, inputs: OpenVlaInputs, *, adapter: AdapterName = "policy") -> Tensor:
        assert adapter == "policy" or self.spec.lora is not None, "weights trained in full leave no base"
        with self._arithmetic(), self.adapters.using(adapter if self.spec.lora else self.adapters.current):
            return self._decoder.feature(self._prompt(inputs)).float().cpu()

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return self._codec.decode(tokens)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        return self._codec.encode(actions)

    def add_adapter(self, name: Literal["critic"], spec: LoraSpec, *, seed: int) -> dict[str, nn.Parameter]:
        return self.adapters.add(name, spec, seed=seed)

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]:
        """By part of the model: `vision`, `projector`, `language_model`; without those where nothing is trained."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self._trained().items():
            part = name.split(".", 1)[0].replace("vision_backbone", "vision")
            groups.setdefault(part, []).append(parameter)
        return groups

    def state_dict(self) -> dict[str, Tensor]:
        """The trained tensors alone; the base is the checkpoint that ``identity`` names by digest."""
        return {name: parameter.detach() for name, parameter in self._trained().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        trained = self._trained()
        if state.keys() != trained.keys():
            raise KeyError(f"other tensors than those that are trained: {min(state.keys() ^ trained.keys())}")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state[name])

    def _trained(self) -> dict[str, nn.Parameter]:
        if self._trains_all:
            return dict(self.model.named_parameters())
        return self.adapters.weights("policy") if self.spec.lora else {}

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """Trained weights are fp32 and computed with in ``dtype``."""
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)

    def _prompt(self, inputs: OpenVlaInputs) -> Prompt:
        text_ids, text_valid = inputs.text.to(self.device), inputs.text_valid.to(self.device)
        text = self.model.language_model.model.embed_tokens(text_ids)
        visual = self.model.forward_visual(inputs.pixels.to(self.device)).to(text.dtype)
        embeddings = torch.cat([text[:, :1], visual, text[:, 1:]], dim=1)
        seen = torch.ones(visual.shape[:2], dtype=torch.bool, device=self.device)
        return Prompt(embeddings=embeddings, valid=torch.cat([text_valid[:, :1], seen, text_valid[:, 1:]], dim=1))
