"""Two small runs to repeat: one with a warm start, one that begins at random weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vlarl
from vlarl import cli
from vlarl.recipe.load import load_recipe
from vlarl.run.folder import RunFolder
from vlarl.train import train

RECIPE = """
name: small
seed: 3
suite:
  {kind: tabletop, name: tabletop_basic, tasks: [reach_red, reach_green], image_size: 32, num_envs: 4, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
imitation: {num_episodes: 4, updates: 8, warmup_updates: 2, batch_size: 32, lr: 3e-3}
ppo: {lr: 1e-3, minibatch_size: 16, epochs: 2, clip: 0.05}
train: {iterations: 3, critic_warmup: 1, torch_threads: 1, rollout: {kind: steps, num_steps: 16}}
evaluation: {every: 3, episodes: 1, videos: false}
run: {checkpoint_every: 1, keep: {last: 2, best: false}, batches: [0, 2], tensorboard: false}
determinism: strict
"""


@dataclass(frozen=True)
class Answer:
    """What the command said."""

    status: int
    document: dict[str, Any]
    errors: str

    @property
    def tier(self) -> str:
        return str(self.document["tier"])

    @property
    def drift(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["drift"]
        return found

    def named(self) -> dict[tuple[str, str], str]:
        """(kind, name) → what it can change, of all that differs and matters.

        Without the renderer's libraries: a process that has run other tests has loaded those of the other renderer too.
        """
        found = {(one["kind"], one["name"]): one["changes"] for one in self.document["differences"] if one["matters"]}
        found.pop(("renderer", "libraries"), None)
        return found


def _run(folder: Path, recipe: str, *overrides: str) -> RunFolder:
    folder.mkdir()
    (folder / "small.yaml").write_text(recipe)
    loaded = load_recipe(folder / "small.yaml", [f"run.cache={folder / 'cache'}", *overrides])
    return train(loaded, command=["test"], run_folder=folder / "runs").run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Three iterations after a warm start; checkpoints 2 and 3, batches of 0 and 2."""
    return _run(tmp_path_factory.mktemp("reproduce") / "small", RECIPE)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two iterations from random weights."""
    return _run(tmp_path_factory.mktemp("reproduce") / "bare", RECIPE, "imitation=null", "train.iterations=2")


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[RunFolder], RunFolder]:
    """A copy that a test may damage."""

    def copied(run: RunFolder) -> RunFolder:
        return RunFolder(Path(shutil.copytree(run.path, tmp_path / "copied" / run.id, symlinks=True)))

    return copied


@pytest.fixture
def reproduce(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """`vlarl reproduce` in this process."""

    def run(source: RunFolder | Path | str, *options: str) -> Answer:
        path = source.path if isinstance(source, RunFolder) else source
        words = ["reproduce", str(path), "--json", "--out", str(tmp_path / "again"), *options]
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        said = capsys.readouterr()
        return Answer(int(ended.value.code or 0), json.loads(said.out), said.err)

    return run


@pytest.fixture(scope="session")
def reproduce_ahead() -> Callable[..., Answer]:
    """`vlarl reproduce` in a process that finds packages in ``ahead`` first."""

    def run(ahead: Path, out: Path, source: RunFolder | Path, *options: str) -> Answer:
        program = f"import sys; sys.path.insert(0, {str(ahead)!r}); from vlarl.cli import main; main()"
        path = source.path if isinstance(source, RunFolder) else source
        words = ["reproduce", str(path), "--json", "--out", str(out), *options]
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        return Answer(done.returncode, json.loads(done.stdout), done.stderr)

    return run


@pytest.fixture
def reproduce_with(tmp_path: Path, reproduce_ahead: Callable[..., Answer]) -> Callable[..., Answer]:
    """`vlarl reproduce` with a copy of the package in which one text of one file is another."""

    def run(file: str, old: str, new: str, source: RunFolder | Path, *options: str) -> Answer:
        package = Path(shutil.copytree(Path(vlarl.__file__).parent, tmp_path / "other" / "vlarl"))
        text = (package / file).read_text()
        assert text.count(old) == 1, f"{file} has no single `{old}`"
        (package / file).write_text(text.replace(old, new))
        return reproduce_ahead(package.parent, tmp_path / "again", source, *options)

    return run
