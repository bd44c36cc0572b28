"""OpenVLA's prompt as token ids: BOS, the sentence, and the token that stands before the first action token.

The tokenizer is the checkpoint's ``tokenizer.json``, read by the ``tokenizers`` library as it is. Training tokenised
the prompt with the actions' text behind it, which leaves a lone ``▁`` (29871 in Llama's vocabulary) after ``Out:``; the
original appends it to one prompt at a time, here every row has it and a row that already ends so is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from vlarl.errors import AssetError, RecipeError
from vlarl.policies.action_tokens import NUM_ACTION_TOKENS
from vlarl.policies.tokenizer_file import read_tokenizer

BOS = 1
LLAMA_VOCABULARY = 32000
LLAMA_EXTRA = 29871
SPACE = "▁"
TOKENIZER = "tokenizer.json"
_NUM_VISUAL_TOKENS = 256
_CODE = "R383"


_HINT = "take tokenizer.json from the repository that the weights are from"


def prompt(instruction: str) -> str:
    """The text OpenVLA was trained with."""
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """N prompts, padded on the right to L tokens. The picture goes between the first token and the second."""

    ids: np.ndarray  # (N, L) int64
    valid: np.ndarray  # (N, L) bool, True on real tokens


class PromptEncoder:
    """Instructions to token ids; the ids of an instruction are kept."""

    def __init__(
        self, tokenizer: Tokenizer, *, vocabulary: int, pad: int, max_length: int, bucket: int, place: str | None = None
    ) -> None:
        """``vocabulary``: tokens without the padding of the embedding. ``max_length``: of a prompt, in text tokens.

        AssetError (R383) when the tokenizer's vocabulary is not OpenVLA's.
        """
        self._tokenizer = tokenizer
        self._pad = pad
        self._max_length = max_length
        self._bucket = bucket
        self._encoded: dict[str, list[int]] = {}
        self.extra = _extra_token(tokenizer, vocabulary, place)

    def ids(self, instruction: str) -> list[int]:
        """BOS, the prompt, the extra token; as long as it comes."""
        if instruction not in self._encoded:
            found = [BOS, *self._tokenizer.encode(prompt(instruction), add_special_tokens=False).ids]
            assert found[1] != BOS, "BOS once"
            if found[-1] != self.extra:
                found.append(self.extra)
            self._encoded[instruction] = found
        return self._encoded[instruction]

    def encode(self, instructions: Sequence[str], *, among: Sequence[str] = ()) -> Prompts:
        """Prompts as wide as the longest of ``instructions`` and ``among`` needs, in whole buckets.

        RecipeError (R216) when one of ``instructions`` is too long.
        """
        rows = [self._checked(instruction) for instruction in instructions]
        longest = max(*map(len, rows), *(min(len(self.ids(each)), self._max_length) for each in among), 0)
        width = -(-longest // self._bucket) * self._bucket
        ids = np.full((len(rows), width), self._pad, dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        lengths = np.array([len(row) for row in rows])
        return Prompts(ids=ids, valid=np.arange(width) < lengths[:, None])

    def _checked(self, instruction: str) -> list[int]:
        ids = self.ids(instruction)
        if len(ids) > self._max_length:
            shown = instruction if len(instruction) <= 80 else f"{instruction[:79]}…"
            raise RecipeError(
                f"the prompt of «{shown}» has {len(ids)} tokens; beside picture and action the model takes "
                f"{self._max_length}",
                code="R216",
                hint="leave the task out through `suite.tasks`",
            )
        return ids


def load_prompts(
    folder: Path,
    config: Mapping[str, Any],
    *,
    bucket: int,
    num_visual_tokens: int = _NUM_VISUAL_TOKENS,
    num_action_tokens: int = NUM_ACTION_TOKENS,
) -> PromptEncoder:
    """The encoder of a checkpoint folder whose ``config.json`` is ``config``. AssetError (R383).

    RecipeError (R216) when picture and action leave no room for a prompt.
    """
    try:
        vocabulary = int(config["text_config"]["vocab_size"]) - int(config["pad_to_multiple_of"])
        context, pad = int(config["llm_max_length"]), int(config["pad_token_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise AssetError(
            f"config.json of the checkpoint does not describe its prompt: {error!r}",
            code=_CODE,
            place=str(folder),
            hint="copy config.json again from where the checkpoint is from",
        ) from error
    if num_visual_tokens + num_action_tokens >= context:
        raise RecipeError(
            f"{num_visual_tokens} tokens of the picture and {num_action_tokens} of the action leave no room for a "
            f"prompt in the {context} that the model takes",
            code="R216",
            place=str(folder),
            hint="choose a shorter `policy.chunk`",
        )
    return PromptEncoder(
        load_tokenizer(folder),
        vocabulary=vocabulary,
        pad=pad,
        max_length=context - num_visual_tokens - num_action_tokens,
        bucket=bucket,
        place=str(folder),
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """The checkpoint's tokenizer. AssetError (R383) when it is missing or cannot be read.

    A folder with ``tokenizer.model`` alone is refused: reading that needs sentencepiece, which vlarl does not bring.
    """
    path = folder / TOKENIZER
    hint = f"hf download openvla/openvla-7b {TOKENIZER} --local-dir {folder}; all OpenVLA-7B checkpoints share it"
    if not path.exists():
        beside = ", and its tokenizer.model cannot be read without it" if (folder / "tokenizer.model").exists() else ""
        raise AssetError(f"the checkpoint has no {TOKENIZER}{beside}", code=_CODE, place=str(folder), hint=hint)
    try:
        return read_tokenizer(path)
    except ValueError as error:
        raise AssetError(
            f"{TOKENIZER} of the checkpoint cannot be read: {error}", code=_CODE, place=str(path), hint=hint
        ) from None


def _extra_token(tokenizer: Tokenizer, vocabulary: int, place: str | None) -> int:
    """Id of the lone ``▁``; 29871 in Llama's vocabulary."""
    extra = tokenizer.token_to_id(SPACE)
    if extra is None or (vocabulary == LLAMA_VOCABULARY and extra != LLAMA_EXTRA):
        wanted = LLAMA_EXTRA if vocabulary == LLAMA_VOCABULARY else "a token of its own"
        raise AssetError(
            f"the tokenizer of the checkpoint is not the model's: «{SPACE}» is {extra}, not {wanted}",
            code=_CODE,
            place=place,
            hint=_HINT,
        )
    if tokenizer.id_to_token(BOS) != "<s>":
        raise AssetError(
            f"the tokenizer of the checkpoint is not Llama's kind: token {BOS} is {tokenizer.id_to_token(BOS)!r}, not "
            "the one that begins a text",
            code=_CODE,
            place=place,
            hint=_HINT,
        )
    return int(extra)
