"""Where a model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlarl.errors import EnvironmentUnusable

if TYPE_CHECKING:
    import torch


def device_name(device: torch.device | None) -> str:
    """`cpu`, also for None, or the kind of GPU: what repeats on one kind may differ on another."""
    import torch

    return torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else "cpu"


def chosen_device(wanted: str, *, what: str, auto: str | None = None) -> torch.device:
    """The device that a recipe's `device` means for ``what``; ``auto`` stands for that one, absent: a GPU if there is.

    EnvironmentUnusable E415 where a GPU is wanted and there is none.
    """
    import torch

    if wanted == "auto":
        return torch.device(auto or ("cuda" if torch.cuda.is_available() else "cpu"))
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EnvironmentUnusable(
            f"{what} is to run on a GPU (`device: cuda`), and torch finds none",
            code="E415",
            hint="`device: auto` takes the CPU where there is no GPU; `vlarl doctor` shows what torch finds",
        )
    return torch.device(wanted)
