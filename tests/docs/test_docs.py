"""The documents: commands in them parse and the harmless ones run; files, targets, links and functions named exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

import vlarl
from vlarl import cli
from vlarl.recipe.shipped import shipped_recipes
from vlarl.run.instructions import Instructions

ROOT = Path(vlarl.__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_|:,.=]*")
SAFE = ("validate", "show", "plan", "list", "explain", "schema", "init")


@dataclass(frozen=True)
class Command:
    document: str
    words: tuple[str, ...]
    whole: bool  # stands in a block to be typed, rather than in a sentence that may name it in part

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def commands(program: str) -> Iterator[Command]:
    """Every command line of ``program`` in the documents."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for language, block in FENCE.findall(text):
            if language in ("", "sh", "bash", "console", "shell"):
                for line in re.sub(r"\\\n\s*", "", block).splitlines():
                    if line.removeprefix("$ ").startswith(f"{program} "):
                        words = shlex.split(line.removeprefix("$ "), comments=True)
                        yield Command(path.name, tuple(words), whole=True)
        for span in SPAN.findall(FENCE.sub("", text)):
            if span.startswith(f"{program} "):
                yield Command(path.name, tuple(shlex.split(span)), whole=False)


VLARL = list(dict.fromkeys(commands("vlarl")))
SAFE_ONES = [
    command
    for command in VLARL
    if command.words[1] in SAFE
    and (command.words[1] in ("list", "schema") or any(not word.startswith("-") for word in command.words[2:]))
    and "--write" not in command.words
    and not any(PLACEHOLDER.fullmatch(word) for word in command.words)
]


def application() -> Any:
    return typer.main.get_command(cli.app)


def test_the_walk_sees_the_commands() -> None:
    assert {command.document for command in VLARL} >= {"README.md", "recipes.md"}
    assert {"train", "eval", "report", "validate"} <= {command.words[1] for command in VLARL}
    assert len(SAFE_ONES) > 5


@pytest.mark.parametrize("command", VLARL, ids=str)
def test_a_command_and_its_options_exist(command: Command) -> None:
    words = [word for word in command.words[1:] if word != "..."]
    of_all = {name for parameter in application().params for name in parameter.opts} | {"--help", "-h"}
    while words and words[0].startswith("-"):
        option = words.pop(0)
        assert option in of_all
        if option == "--instructions":
            assert words.pop(0) in list(Instructions)
    if not words:
        return
    assert words[0] in application().commands
    parsed = application().commands[words[0]]
    known = {name for parameter in parsed.params for name in parameter.opts} | {"--help", "-h"}
    assert {word.partition("=")[0] for word in words[1:] if word.startswith("-")} <= known
    if command.whole:
        parsed.make_context(words[0], words[1:])


@pytest.mark.parametrize("command", [command for command in VLARL if command.whole], ids=str)
def test_recipes_named_in_commands_exist(command: Command) -> None:
    if command.words[1] in ("train", "sft", "validate", "show", "plan"):
        recipe = command.words[2]
        assert (ROOT / recipe).is_file() or recipe in shipped_recipes() or not recipe.startswith("recipes/")
    named = [word for word in command.words if word.startswith("recipes/")]
    assert [word for word in named if not (ROOT / word).is_file()] == []


@pytest.mark.parametrize("command", SAFE_ONES, ids=str)
def test_a_harmless_command_runs(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    if command.words[1] != "init":
        (tmp_path / "mine.yaml").write_text(f"extends: {shipped_recipes()['quickstart']}\n")
    with pytest.raises(SystemExit) as ended:
        cli.main(list(command.words[1:]))
    assert ended.value.code in (0, None), capsys.readouterr().err


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def test_targets_named_exist() -> None:
    named = {word for command in commands("make") for word in command.words[1:] if "=" not in word}
    assert {"quickstart", "test"} <= named
    assert named <= targets()


def slug(heading: str) -> str:
    """The anchor that a heading gets: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def links() -> Iterator[tuple[str, Path, str]]:
    """(where and what, target, anchor) of every link that does not leave the repository."""
    for path in DOCUMENTS:
        for link in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
            if not re.match(r"[a-z]+:", link):
                target, _, anchor = link.partition("#")
                yield f"{path.name}: {link}", (path.parent / target) if target else path, anchor


def test_links_resolve() -> None:
    found = list(links())
    assert found
    assert [what for what, target, _ in found if not target.exists()] == []
    assert [
        what
        for what, target, anchor in found
        if anchor
        and target.suffix == ".md"
        and anchor not in map(slug, re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M))
    ] == []


def functions(path: Path) -> set[str]:
    """Functions, classes and methods of a module, methods with the name of their class."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_functions_named_exist() -> None:
    named = {
        (path.name, module, function)
        for path in DOCUMENTS
        for span in SPAN.findall(path.read_text(encoding="utf-8"))
        for module, function in re.findall(r"^([\w/]+\.py): ([\w.]+)$", span)
    }
    assert len(named) > 5
    package = ROOT / "src" / "vlarl"
    assert {each for each in named if not (package / each[1]).is_file()} == set()
    assert {each for each in named if each[2] not in functions(package / each[1])} == set()
