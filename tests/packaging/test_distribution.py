"""What a wheel holds, and that it works where there is no checkout."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import vlarl
from lock_files import inputs, normalised

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "vlarl"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    importlib.import_module("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_recipes_tokenizer_types_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"vlarl-{vlarl.__version__}.dist-info"
        assert archive.read("vlarl/shipped_recipes/quickstart.yaml") == (ROOT / "recipes/quickstart.yaml").read_bytes()
        assert b"Requires-Python: <3.13,>=3.11" in archive.read(f"{info}/METADATA")
    wanted = {"vlarl/py.typed", "vlarl/policies/tiny/tokenizer.json", "vlarl/shipped_recipes/recipe.schema.json"}
    wanted |= {f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"}
    recipes = {f"vlarl/shipped_recipes/{path.relative_to(ROOT / 'recipes')}" for path in ROOT.glob("recipes/**/*.yaml")}
    assert wanted | recipes <= names
    kept = {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*.py")}
    assert kept <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "benchmarks/"))]


def test_a_shipped_recipe_validates_from_an_unpacked_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-m", "vlarl", "validate", "quickstart", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (recipe,) = json.loads(done.stdout)["recipes"]
    assert recipe["path"] == "site/vlarl/shipped_recipes/quickstart.yaml"


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "vlarl", "--help"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "vlarl [OPTIONS] COMMAND" in done.stdout


def test_the_console_script_resolves() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="vlarl")
    assert callable(script.load())


def imported_packages() -> dict[str, str]:
    """Top-level package → one file of vlarl that imports it, anywhere in the file."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.append(node.module)
            found.update({module.partition(".")[0]: path.name for module in modules})
    return found


def test_every_import_is_a_declared_dependency() -> None:
    extras = inputs()["optional-dependencies"]
    requires = [*inputs()["dependencies"], *(one for name in extras if name != "dev" for one in extras[name])]
    declared = {normalised(Requirement(text).name) for text in requires}
    declared |= {"vlarl", "pydantic-core"}  # pydantic-core is pydantic's own
    owners = metadata.packages_distributions()
    foreign = {package: file for package, file in imported_packages().items() if package not in sys.stdlib_module_names}
    undeclared = {
        package: file
        for package, file in foreign.items()
        if not {normalised(name) for name in owners.get(package, [package])} & declared
    }
    assert undeclared == {}
