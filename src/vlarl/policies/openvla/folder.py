"""Reading the small files of a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlarl.errors import AssetError
from vlarl.run import documents


def read_object(path: Path, *, code: str, hint: str | None = None) -> dict[str, Any]:
    """The JSON object in ``path``; AssetError with ``code`` when it cannot be read or is something else."""
    try:
        return documents.read_object(path)
    except (OSError, ValueError) as error:
        message = f"{path.name} of the checkpoint cannot be read: {error}"
        raise AssetError(message, code=code, place=str(path), hint=hint) from None
