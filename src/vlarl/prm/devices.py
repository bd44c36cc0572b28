"""Where a reward model runs."""

from __future__ import annotations

import torch

from vlarl.errors import EnvironmentUnusable


def chosen_device(wanted: str, *, auto: str | None = None) -> torch.device:
    """The device of a recipe's `device`; ``auto`` is what that word means, absent: a GPU when there is one.

    EnvironmentUnusable E415 where a GPU is wanted and there is none.
    """
    if wanted == "auto":
        return torch.device(auto or ("cuda" if torch.cuda.is_available() else "cpu"))
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EnvironmentUnusable(
            "the reward model is to run on a GPU (`device: cuda`), and torch finds none",
            code="E415",
            hint="`device: auto` takes the CPU where there is no GPU; `vlarl doctor` shows what torch finds",
        )
    return torch.device(wanted)
