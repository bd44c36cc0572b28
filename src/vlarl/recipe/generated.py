"""Committed files that are generated from the specs: the JSON schemas and the docs' field reference."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vlarl.errors import DriftError
from vlarl.recipe.docs import docs_text
from vlarl.recipe.json_schema import recipe_json_schema, schema_text, study_json_schema
from vlarl.recipe.shipped import SCHEMA_FILE, STUDIES, STUDY_SCHEMA_FILE, shipped_folder

__all__ = ["check", "expected", "recipe_json_schema", "schema_text", "write"]


def expected() -> dict[Path, str]:
    """Each committed file with the content it should have; the docs only in a checkout."""
    files = {
        shipped_folder() / SCHEMA_FILE: schema_text(),
        shipped_folder() / STUDIES / STUDY_SCHEMA_FILE: schema_text(study_json_schema()),
    }
    docs = docs_text()
    return {**files, docs[0]: docs[1]} if docs is not None else files


def check() -> list[Path]:
    """The files, if all are up to date; DriftError naming the stale ones otherwise."""
    files = expected()
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if stale:
        names = ", ".join(str(path) for path in stale)
        raise DriftError(f"not what the specs say: {names}", code="D601", hint="`vlarl schema --write` writes it anew")
    return list(files)


def write() -> list[Path]:
    files = expected()
    for path, text in files.items():
        replace_text(path, text)
    return list(files)


def replace_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.chmod(stream.name, 0o644)
    os.replace(stream.name, path)
