"""The layers of the package, read from its source: who may import whom, and how long things may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "vlarl"

GROUND, LANGUAGE, RECORD, PARTS, MECHANICS, ASSEMBLY, PROGRAMS, SURFACE = range(1, 9)
LAYERS: dict[int, tuple[str, ...]] = {
    GROUND: ("errors", "types", "digest", "seeding", "memory", "intervals", "guard"),
    LANGUAGE: ("recipe", "registry"),
    RECORD: ("plan", "assets", "run", "results", "distributed", "devices"),
    PARTS: ("suites", "policies", "critics", "rewards", "curriculum"),
    MECHANICS: ("rollout", "advantages", "ppo", "imitation", "evaluation", "segments"),
    ASSEMBLY: ("assembly", "warmstart", "trials", "recorder", "prm"),
    PROGRAMS: (
        "train",
        "sft",
        "collect",
        "check_demos",
        "evaluate",
        "replay",
        "videos",
        "export",
        "reproduce",
        "report",
        "study",
        "doctor",
    ),
    SURFACE: ("console", "cli", "__main__"),
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
# Layers whose modules make one family; in the others every top-level name stands alone.
FAMILIES = {LANGUAGE, RECORD, ASSEMBLY, SURFACE}
# The pieces of programs that other programs use.
PIECES = {("evaluate", "videos"), ("replay", "videos"), ("report", "videos"), ("train", "videos"), ("study", "report")}
# What parts and mechanics know of the parts: a policy's feature is what a critic reads.
CONTRACTS = {"policies.protocol", "suites.protocol", "rewards.protocol"}
WITHOUT_SIMULATOR_OR_TORCH = {GROUND, LANGUAGE, RECORD, SURFACE}
HEAVY = {"torch", "transformers", "mujoco", "libero", "robosuite", "peft", "accelerate"}
MAX_FILE, MAX_FUNCTION, MAX_LOOP = 450, 60, 150


@dataclass(frozen=True)
class Import:
    """One import of ``target`` (dotted; relative to vlarl where ``own``) on a line."""

    target: str
    own: bool
    line: int
    at_load: bool  # not inside a function


@cache
def modules() -> dict[str, Path]:
    """Dotted name relative to vlarl -> file; packages by their ``__init__``."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


def imports_in(source: str, module: str = "") -> list[Import]:
    """Every import of ``source`` but those for the type checker alone."""
    return list(_walk(ast.parse(source), module, at_load=True))


def _walk(node: ast.AST, module: str, *, at_load: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield from _walk(other, module, at_load=at_load)
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield _import(alias.name, child.lineno, at_load)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}:{child.lineno}: relative import"
            source = child.module or ""
            for alias in child.names:
                inner = f"{source}.{alias.name}".removeprefix("vlarl.")
                is_module = source.partition(".")[0] == "vlarl" and inner in modules()
                yield _import(f"{source}.{alias.name}" if is_module else source, child.lineno, at_load)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, module, at_load=at_load and not inside)


def _import(dotted: str, line: int, at_load: bool) -> Import:
    own = dotted == "vlarl" or dotted.startswith("vlarl.")
    return Import(dotted.removeprefix("vlarl").removeprefix(".") if own else dotted, own, line, at_load)


def room(module: str) -> str:
    """The name in LAYERS: ``report_page`` is a piece of ``report``, ``run.folder`` of ``run``."""
    top = module.partition(".")[0]
    return top if top in LAYER_OF else top.partition("_")[0]


def forbidden(module: str, imported: Import) -> str | None:
    """Why ``module`` may not import that, or None."""
    mine, layer = room(module), LAYER_OF[room(module)]
    if not imported.own:
        heavy = imported.at_load and imported.target.partition(".")[0] in HEAVY
        return f"layer {layer} loads {imported.target}" if heavy and layer in WITHOUT_SIMULATOR_OR_TORCH else None
    if not imported.target:  # vlarl itself: its version
        return None
    theirs = room(imported.target)
    if theirs not in LAYER_OF:
        return f"{imported.target} is in no layer"
    their_layer = LAYER_OF[theirs]
    if theirs == mine or (imported.target in CONTRACTS and layer >= PARTS):
        return None
    if their_layer > layer:
        return f"layer {layer} imports {imported.target} of layer {their_layer}"
    if their_layer == layer and layer not in FAMILIES and (mine, theirs) not in PIECES:
        return f"{imported.target} is a sibling in layer {layer}"
    if layer == MECHANICS and their_layer == PARTS:
        return f"mechanics see parts through protocols, not {imported.target}"
    return None


def problems(module: str, source: str) -> list[str]:
    found = ((imported, forbidden(module, imported)) for imported in imports_in(source, module))
    return [f"{module}:{imported.line}: {why}" for imported, why in found if why]


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_every_module_belongs_to_a_layer() -> None:
    unknown = sorted(name for name in modules() if name and room(name) not in LAYER_OF)
    assert unknown == [], "say in LAYERS where these belong"


def test_no_name_is_in_two_layers() -> None:
    assert len(LAYER_OF) == sum(map(len, LAYERS.values()))


def test_imports_go_downwards_only() -> None:
    known = {name: path for name, path in modules().items() if room(name) in LAYER_OF}
    found = [text for name, path in known.items() for text in problems(name, path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("digest", "from vlarl.errors import VlarlError"),  # ground imports nothing of vlarl
        ("recipe.load", "import vlarl.run.folder"),  # upwards
        ("recipe.load", "def f():\n    from vlarl.ppo import Ppo"),  # upwards, though lazily
        ("run.folder", "import torch"),
        ("run.folder", "from torch import nn"),
        ("cli", "import mujoco"),
        ("rewards.success", "from vlarl.suites.pool import Pool"),  # siblings
        ("ppo", "from vlarl.policies.tiny.policy import TinyPolicy"),  # parts other than by protocol
        ("ppo", "from vlarl.advantages import gae"),  # mechanics among themselves
        ("train", "from vlarl.evaluate import evaluate"),  # programs among themselves
        ("evaluate", "import vlarl.train"),
        ("videos", "from vlarl.replay import replay"),
        ("train", "from vlarl.console import Console"),
    ],
)
def test_the_walk_finds_what_is_forbidden(module: str, line: str) -> None:
    assert len(problems(module, line)) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("recipe.load", "from vlarl.recipe.text import parse\nfrom vlarl import __version__"),
        ("recipe.load", "from vlarl import registry"),
        ("run.checkpoint", "def save():\n    import torch"),
        ("run.checkpoint", "if TYPE_CHECKING:\n    import torch\n    from vlarl.ppo import Ppo"),
        ("ppo", "from vlarl.policies.protocol import Policy\nimport torch"),
        ("critics.shared", "from vlarl.policies.protocol import AdapterName"),
        ("suites.recording", "from vlarl.suites.protocol import Suite"),
        ("evaluate", "from vlarl.videos import write_video"),
        ("report", "from vlarl.report_page import page"),
        ("cli", "def train():\n    from vlarl.train import train"),
    ],
)
def test_the_walk_lets_pass_what_is_allowed(module: str, line: str) -> None:
    assert problems(module, line) == []


def test_files_and_functions_stay_short() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    long_functions = {
        f"{name}.{function}": length
        for name, path in modules().items()
        for function, length in functions(ast.parse(path.read_text()))
        if length > (MAX_LOOP if name == "train" else MAX_FUNCTION)
    }
    loops = [
        function
        for function, length in functions(ast.parse(modules()["train"].read_text() if "train" in modules() else ""))
        if length > MAX_FUNCTION
    ]
    assert {name: length for name, length in lengths.items() if length > MAX_FILE} == {}
    assert long_functions == {}
    assert len(loops) <= 1, f"one function of train.py may be long, not all of {loops}"


def test_the_command_line_loads_neither_torch_nor_a_simulator() -> None:
    script = f"import sys, vlarl.cli; print(*sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
