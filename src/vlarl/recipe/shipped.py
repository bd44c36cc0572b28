"""The recipes that come with vlarl, by name."""

from __future__ import annotations

from os.path import exists, isfile
from pathlib import Path

import vlarl
from vlarl.errors import UsageError
from vlarl.recipe.paths import is_yaml
from vlarl.registry import suggest

SCHEMA_FILE = "recipe.schema.json"
STUDY_SCHEMA_FILE = "study.schema.json"
STUDIES = "studies"  # the folder of shipped studies, which are no recipes
RESOLVED_FILE = "recipe.resolved.yaml"  # in a run folder


def shipped_folder() -> Path:
    """The folder of shipped recipes: inside an installed package, or `recipes/` of a checkout."""
    package = Path(vlarl.__file__).parent
    installed = package / "shipped_recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name (`quickstart`, `base/libero`) → file, sorted by name."""
    folder = shipped_folder()
    files = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
    files = [path for path in files if path.relative_to(folder).parts[0] != STUDIES]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def shipped_studies() -> dict[str, Path]:
    """Name (`paper_table2`) → file, sorted by name."""
    return {path.stem: path for path in sorted((shipped_folder() / STUDIES).glob("*.yaml"))}


def find_study(text: str) -> Path:
    """The study file that ``text`` names: a file, or a shipped study's name."""
    path, shipped = Path(text), shipped_studies()
    if is_yaml(text) or exists(path) or path.is_absolute():
        return path  # reading it reports what is missing
    if text in shipped:
        return shipped[text]
    close = suggest(text, shipped)
    raise UsageError(
        f"there is no study `{text}`, neither as a file nor among the shipped ones ({', '.join(shipped)})",
        code="U202",
        hint=f"did you mean `{close}`?" if close else "docs/studies.md says what a study file holds",
    )


def find_recipe(text: str) -> Path:
    """The recipe file that ``text`` names: a file, a run folder (its resolved recipe), or a shipped recipe's name."""
    path = Path(text)
    for candidate in (path, path / RESOLVED_FILE):
        if isfile(candidate):
            return candidate
    shipped = shipped_recipes()
    if text in shipped:
        return shipped[text]
    if is_yaml(text) or exists(path) or path.is_absolute():
        return path  # reading it reports the missing file, with its neighbours
    close = suggest(text, shipped)
    raise UsageError(
        f"there is no recipe `{text}`, neither as a file nor among the shipped ones ({', '.join(shipped)})",
        code="U202",
        hint=f"did you mean `{close}`?" if close else "`vlarl list recipes` shows what each of them is",
    )
