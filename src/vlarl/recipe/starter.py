"""The recipe that `vlarl init` writes: one file, commented, without `extends`."""

from __future__ import annotations

from os.path import exists, isdir
from pathlib import Path

from vlarl.errors import EnvironmentUnusable, UsageError
from vlarl.recipe.fields import documented, documented_path
from vlarl.recipe.generated import replace_text
from vlarl.recipe.load import load_recipe
from vlarl.recipe.schema import NAME
from vlarl.recipe.shipped import SCHEMA_FILE, find_recipe, shipped_folder
from vlarl.recipe.write import to_yaml


def write_starter(source: str, destination: Path | None, *, full: bool, force: bool) -> Path:
    """Writes the recipe ``source`` to ``destination`` (a folder, a file, or NAME.yaml here) and returns the file.

    Raises UsageError when the file exists and ``force`` is not set.
    """
    loaded = load_recipe(find_recipe(source))
    path = destination or Path(f"{loaded.recipe.name}.yaml")
    if isdir(path):
        path = path / f"{loaded.recipe.name}.yaml"
    if exists(path) and not force:
        hint = f"choose another name, or `vlarl init {path} --from {source} --force` to write over it"
        raise UsageError(f"`{path}` exists", code="U201", hint=hint)
    described = {field.path: field.description for field in documented()}
    header = f"# yaml-language-server: $schema={shipped_folder() / SCHEMA_FILE}\n"
    values = dict(loaded.values(resolved=full))
    if destination is not None and NAME.fullmatch(path.stem):
        values["name"] = path.stem  # runs are called by it
    text = header + to_yaml(values, above=lambda p: described.get(documented_path(p, values)))
    try:
        replace_text(path, text)
    except OSError as error:
        message, hint = f"{path} cannot be written: {error.strerror}", "choose a folder you may write, and a short name"
        raise EnvironmentUnusable(message, code="E431", place=str(path), hint=hint) from error
    return path
