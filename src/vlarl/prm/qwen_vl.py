"""A vision-language model of the Qwen-VL family as a reward model: adapters on a frozen base, one token an answer.

The prompt is the family's chat: picture (and an earlier one) and task, then both questions as branches. A branch sees
the prompt and itself, and its positions go on where the prompt ends, so one forward answers both as if each had been
asked alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from tokenizers import Tokenizer
from torch import Tensor, nn

from vlarl.devices import chosen_device
from vlarl.errors import RecipeError
from vlarl.prm.protocol import QUESTIONS, Views
from vlarl.prm.qwen_base import TOKENIZER, Base, Pictures, load_network, open_base, unusable_tokenizer
from vlarl.recipe.specs.policies import LoraSpec
from vlarl.recipe.specs.prm import QwenVlPrmSpec
from vlarl.seeding import seed_torch

_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_EARLIER, _NOW = "Some moments ago: ", "\nNow: "
_TASK = "The task is {}"
_ASKED = {"promise": ", is the robot about to complete a step of it?", "progress": ", is it completed?"}
_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
_VISION, _HEAD = "model.visual.", "lm_head"
_ADAPTER = "default"  # peft's name for it

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class QwenVlRewardModel:
    """See the module. Its parameters and its state are the adapters alone, in fp32."""

    def __init__(self, spec: QwenVlPrmSpec, *, image_size: int, seed: int) -> None:
        self.spec, self.previous_frame = spec, spec.previous_frame
        base = open_base(spec.checkpoint)
        self.base_digest, self.base_reference, self.base_name = base.digest, base.reference, base.name
        self._device = chosen_device(spec.device, what="the reward model")
        self._pictures = Pictures(base)
        _, grids = self._pictures.patches(np.zeros((1, image_size, image_size, 3), np.uint8))
        self._prompts = _Prompts(base, spec, num_visual=self._pictures.num_tokens(grids[0]))
        self._network: Any = load_network(base, dtype=_DTYPES[spec.dtype], device=self._device)
        self._prompts.check_image_token(self._network.config.image_token_id)
        self._adapters = _adapted(self._network, spec.lora, seed)
        if spec.gradient_checkpointing:
            self._network.activation_checkpointing_enable({"use_reentrant": False})
        self.train(False)

    def answer_logits(self, views: Views) -> Tensor:
        """(N, 2, 2) float32: question, then negative and positive token."""
        frames = [images for images in (views.previous, views.images) if images is not None]
        assert len(frames) == 1 + (self.previous_frame > 0), "the pictures that the model was made for"
        patches, grids = self._pictures.patches(np.stack(frames, axis=1).reshape(-1, *views.images.shape[1:]))
        asked = self._prompts.of(views)
        ids, kinds, grid = (torch.from_numpy(each) for each in (asked.ids, asked.is_picture.astype(np.int64), grids))
        valid = torch.from_numpy(asked.valid)
        positions, _ = self._network.model.get_rope_index(ids, kinds, image_grid_thw=grid, attention_mask=valid.long())
        begin = asked.ids.shape[1]
        for length, before in zip(reversed(asked.branches), _lengths_before(asked.branches), strict=True):
            positions[:, :, begin - length : begin] -= before
            begin -= length
        mask = _attention(valid, asked.branches).to(self._device)
        hidden = self._network.model(
            input_ids=ids.to(self._device),
            mm_token_type_ids=kinds.to(self._device),
            pixel_values=torch.from_numpy(patches).to(self._device),
            image_grid_thw=grid.to(self._device),
            position_ids=positions.to(self._device),
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            use_cache=False,
        ).last_hidden_state
        ends = [begin + stop - 1 for stop in np.cumsum(asked.branches).tolist()]
        rows = self._network.lm_head.weight[list(self._prompts.answers)].float()
        answers: Tensor = hidden[:, ends].float() @ rows.T
        return answers

    def parameters(self) -> Iterator[nn.Parameter]:
        return iter(self._adapters.values())

    def state_dict(self) -> dict[str, Tensor]:
        """The adapters, on the CPU."""
        return {name: weight.detach().cpu() for name, weight in self._adapters.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors.keys() != self._adapters.keys():
            raise KeyError(f"adapters of other layers: {min(tensors.keys() ^ self._adapters.keys())}")
        with torch.no_grad():
            for name, weight in self._adapters.items():
                weight.copy_(tensors[name])

    def train(self, mode: bool = True) -> None:
        self._network.train(mode)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """N prompts of P tokens, padded on the right, and the questions' branches behind them."""

    ids: np.ndarray  # (N, P + all branches) int64
    valid: np.ndarray  # the same, bool
    is_picture: np.ndarray  # the same, bool
    branches: tuple[int, ...]  # tokens of each question


class _Prompts:
    """Instructions to token ids."""

    def __init__(self, base: Base, spec: QwenVlPrmSpec, *, num_visual: int) -> None:
        self._place, self._tokenizer = base.folder / TOKENIZER, base.tokenizer
        found = {word: self._tokenizer.token_to_id(word) for word in _SPECIAL}
        if absent := [word for word, number in found.items() if number is None]:
            raise unusable_tokenizer(self._place, f"it lacks the family's {', '.join(absent)}")
        special = {word: int(number) for word, number in found.items() if number is not None}
        self._picture = special["<|image_pad|>"]
        seen = [special["<|vision_start|>"], *[self._picture] * num_visual, special["<|vision_end|>"]]
        earlier = [*self._ids(_EARLIER), *seen, *self._ids(_NOW)] if spec.previous_frame else []
        self._begin = [*self._ids(_SYSTEM), *earlier, *seen]
        self._branches = [self._ids(_ASKED[question] + _ANSWER) for question in QUESTIONS]
        self.answers = (self._one(spec.negative_answer), self._one(spec.positive_answer))
        if self.answers[0] == self.answers[1]:
            raise RecipeError(
                f"«{spec.positive_answer}» answers both yes and no",
                code="R383",
                place="prm.positive_answer",
                hint="choose two words that are one token each, `1` and `0` for example",
            )
        self._known: dict[str, list[int]] = {}

    def of(self, views: Views) -> _Asked:
        rows = [self._row(instruction) for instruction in views.instructions]
        branches = [token for branch in self._branches for token in branch]
        width = max(map(len, rows))
        ids = np.full((len(rows), width + len(branches)), self._branches[0][0], np.int64)
        valid = np.ones(ids.shape, bool)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            valid[number, len(row) : width] = False
        ids[:, width:] = branches
        return _Asked(ids=ids, valid=valid, is_picture=ids == self._picture, branches=tuple(map(len, self._branches)))

    def check_image_token(self, number: int) -> None:
        """AssetError R383 where the network has another placeholder for pictures."""
        if number != self._picture:
            raise unusable_tokenizer(self._place, f"<|image_pad|> is {self._picture}, the network's {number}")

    def _row(self, instruction: str) -> list[int]:
        if instruction not in self._known:
            self._known[instruction] = [*self._begin, *self._ids(_TASK.format(instruction))]
        return self._known[instruction]

    def _ids(self, text: str) -> list[int]:
        return list(_encode(self._tokenizer, text))

    def _one(self, text: str) -> int:
        found = self._ids(text)
        if len(found) != 1:
            raise RecipeError(
                f"the answer «{text}» is {len(found)} tokens; the probability is of one",
                code="R383",
                place="prm.positive_answer, prm.negative_answer",
                hint="choose words that are one token each, `1` and `0` for example",
            )
        return found[0]


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


def _lengths_before(branches: tuple[int, ...]) -> list[int]:
    """For each branch from the last to the first: tokens of the branches before it."""
    return [sum(branches[:place]) for place in reversed(range(len(branches)))]


def _attention(valid: Tensor, branches: tuple[int, ...]) -> Tensor:
    """(N, 1, K, K) bool: causal over real tokens, and no branch sees another."""
    total = valid.shape[1]
    allowed = torch.ones(total, total, dtype=torch.bool).tril()
    begin = total - sum(branches)
    for length in branches[:-1]:
        allowed[begin + length :, begin : begin + length] = False
        begin += length
    return (allowed[None] & valid[:, None, :])[:, None]


def _adapted(network: nn.Module, spec: LoraSpec, seed: int) -> dict[str, nn.Parameter]:
    """Adapters that change nothing yet, by the name of their layer; they alone are trained."""
    targets = _targets(network, spec)
    config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, lora_dropout=0.0, bias="none", target_modules=targets)
    seed_torch(seed, "prm-init")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, network, adapter_name=_ADAPTER)
    found = {}
    for name, parameter in network.named_parameters():
        is_adapter = f".{_ADAPTER}." in name and ".lora_" in name
        parameter.requires_grad_(is_adapter)
        if is_adapter:
            parameter.data = parameter.data.float()
            found[name.replace(f".{_ADAPTER}.", ".")] = parameter
    return found


def _targets(network: nn.Module, spec: LoraSpec) -> list[str]:
    """RecipeError R218 for a name that no linear layer has."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name != _HEAD]
    allowed = [name for name in linear if spec.vision or not name.startswith(_VISION)]
    if spec.targets == "all-linear":
        return allowed
    for target in spec.targets:
        if not any(f".{name}".endswith(f".{target}") for name in allowed):
            raise RecipeError(
                f"`{target}` is no linear layer that can be adapted",
                code="R218",
                place="prm.lora.targets",
                hint="the last parts of their names are " + ", ".join(sorted({n.split(".")[-1] for n in allowed})),
            )
    return [name for name in allowed if any(f".{name}".endswith(f".{target}") for target in spec.targets)]
