"""What a process reward model is to the rest: pictures and instructions in, two probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

QUESTIONS = ("promise", "progress")
"""Does this step lead to a keyframe of the task? Has the task come all the way? Each is answered by one token."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """What N decisions are judged by."""

    images: np.ndarray  # (N, H, W, 3) uint8, before the step
    previous: np.ndarray | None  # (N, H, W, 3) uint8, some steps earlier, where the model wants it
    instructions: Sequence[str]  # N

    def __len__(self) -> int:
        return len(self.images)


class RewardModel(Protocol):
    """A vision-language model that answers each question with its positive or its negative token."""

    previous_frame: int  # how many steps earlier the second picture is; 0 for none

    def answer_logits(self, views: Views) -> Tensor:
        """(N, 2, 2) float: question, then token (negative, positive), before the soft-max over both."""
        ...

    def parameters(self) -> Iterator[Any]: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, tensors: Mapping[str, Any]) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...


@runtime_checkable
class OnBase(Protocol):
    """A reward model whose state is a change to a base model, which is named and never stored with it."""

    base_digest: str
    base_reference: str  # where it is found again
    base_name: str  # for people
