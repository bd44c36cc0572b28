"""Reading the small files of a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlarl.errors import AssetError


def read_object(path: Path, *, code: str, hint: str | None = None) -> dict[str, Any]:
    """The JSON object in ``path``; AssetError with ``code`` when it cannot be read or is something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path.name} of the checkpoint cannot be read: {error}"
        raise AssetError(message, code=code, place=str(path), hint=hint) from None
    if not isinstance(found, dict):
        message = f"{path.name} of the checkpoint is not a JSON object"
        raise AssetError(message, code=code, place=str(path), hint=hint)
    return found
