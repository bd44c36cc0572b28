"""Feeds the readers of untrusted files with damaged ones: each ends in an answer or in one clear error.

    python tests/faults/fuzz.py recipe --seconds 3600
    python tests/faults/fuzz.py demonstrations labels reward-model checkpoint openvla reference --seconds 600

`recipe` is guided by coverage and needs `pip install atheris`; its text is read as a recipe, as a study and as a
`--set`. The others change bytes, or values of a JSON document, of small whole files, and sign the result anew where
the format carries digests, as somebody who means harm would. Each attempt has a limit of memory and of time, in a
process that may die without ending the search. What breaks the promise is kept under --keep; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.digest import bytes_digest, file_digest, json_digest
from vlarl.errors import RecipeError, VlarlError

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS / name) for name in ("suites", "prm", "../tools")]  # the makers of small files

MEMORY = 4 << 30  # bytes of address space that attempts may add to what the process holds at its begin
SECONDS = 90  # more than the probe of an HDF5 file takes; for one attempt
BATCH = 200  # attempts a process
ODD = (None, True, -1, 0, 0.5, 1e308, float("nan"), 2**63, 10**40, "", "..", "/etc/passwd", "\x1b[31m", "x" * 10_000)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader, a whole folder for it, and what covers the folder's digests."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    sign: Callable[[Path], object] = lambda folder: None
    signature: tuple[str, ...] = ()  # files that `sign` writes


# -- demonstrations


def make_demonstrations(folder: Path) -> None:
    from test_demonstrations import trajectory, written

    written(folder / "lift_red_demo.hdf5", trajectory(5, 0), trajectory(4, 1))


def read_demonstrations(folder: Path) -> None:
    from vlarl.suites.demonstration_layout import vet_demonstrations
    from vlarl.suites.demonstration_steps import load_demonstrations

    vet_demonstrations([folder / "lift_red_demo.hdf5"])
    load_demonstrations([folder / "lift_red_demo.hdf5"], image_size=8, suite_kind="tabletop", drop_noops=True)


# -- labels and the reward model that is trained on them

PRM = (
    "labels.positive_window=3",
    "labels.far_distance=6",
    "train.torch_threads=1",
    "prm.hidden_size=32",
    "prm.num_layers=1",
    "prm.num_heads=2",
    "prm.num_keypoints=8",
    "prm.training.updates=1",
    "prm.training.warmup_updates=0",
    "prm.training.bootstrap=2",
    "prm.training.holdout=0.25",
)


def make_labels(folder: Path) -> None:
    from build_trajectories import two_tasks

    from vlarl.prm.label import label_segments
    from vlarl.recipe.load import parse_recipe

    with tempfile.TemporaryDirectory() as place:
        demonstrations = Path(place) / "demonstrations"
        demonstrations.mkdir()
        two_tasks(demonstrations, successes=6, failures=3)
        label_segments(parse_recipe("", PRM).recipe, Path(place) / "labels", demonstrations=[demonstrations])
        shutil.rmtree(Path(place) / "labels" / "contact_sheets", ignore_errors=True)
        shutil.copytree(Path(place) / "labels", folder, dirs_exist_ok=True)


def read_labels(folder: Path) -> None:
    from vlarl.prm.training import train_prm
    from vlarl.recipe.load import parse_recipe

    train_prm(parse_recipe("", PRM).recipe, folder, folder / "model")


def sign_labels(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["data"] = file_digest(folder / "labels.hdf5")
    (folder / "manifest.json").write_text(json.dumps(manifest))


def make_reward_model(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        make_labels(Path(place))
        read_labels(Path(place))
        shutil.copytree(Path(place) / "model", folder, dirs_exist_ok=True)


def read_reward_model(folder: Path) -> None:
    from vlarl.prm.folder import load_reward_model

    loaded = load_reward_model(folder, "cpu")
    images = np.zeros((2, *2 * (loaded.meaning.image_size,), 3), np.uint8)
    previous = images if loaded.previous_frame else None
    loaded.answers(images, previous, ("pick up the red cube",) * 2, 2)


def sign_reward_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["weights"] = file_digest(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "COMPLETE").write_text(json_digest(config))


# -- checkpoints

RUN = """
suite: {kind: tabletop, name: tabletop_basic, tasks: [reach_red], image_size: 32, num_envs: 2, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
imitation: null
ppo: {minibatch_size: 8}
train: {iterations: 1, critic_warmup: 0, torch_threads: 1, rollout: {kind: steps, num_steps: 8}}
evaluation: {every: 1, episodes: 1, videos: false}
run: {tensorboard: false}
"""


def make_checkpoint(folder: Path) -> None:
    from vlarl.recipe.load import parse_recipe
    from vlarl.train import train

    with tempfile.TemporaryDirectory() as place:
        run = train(parse_recipe(RUN), command=["fuzz"], run_folder=Path(place)).run
        shutil.copytree(run.checkpoints / "000001", folder, dirs_exist_ok=True)


def read_checkpoint(folder: Path) -> None:
    from vlarl.assembly import load_policy

    load_policy(folder)


def sign_checkpoint(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()} - {"digests.json", "COMPLETE"}
    text = json.dumps({name: file_digest(folder / name) for name in sorted(names)})
    (folder / "digests.json").write_text(text)
    (folder / "COMPLETE").write_text(bytes_digest(text.encode()))


def make_openvla(folder: Path) -> None:
    from small_openvla import Small, write_checkpoint

    with tempfile.TemporaryDirectory() as place:
        write_checkpoint(Path(place) / "small", Small(hidden=64, vision_width=32, vocabulary="small"))
        shutil.copytree(Path(place) / "small", folder, dirs_exist_ok=True)


def read_openvla(folder: Path) -> None:
    from vlarl.policies.openvla.layout import read_layout
    from vlarl.policies.openvla.statistics import load_statistics

    layout = read_layout(folder)
    load_statistics(folder, layout.config, suite="libero_goal")


# -- records of runs


def make_reference(folder: Path) -> None:
    shutil.copytree(_TESTS / "golden" / "smoke", folder, dirs_exist_ok=True)


def read_reference(folder: Path) -> None:
    from vlarl import reproduce_reference
    from vlarl.results import compare

    reference = reproduce_reference.read_reference(str(folder), folder)
    reproduce_reference.repeated_recipe(reference, ())
    documents = list(reference.evaluations().values())
    if documents:
        compare(documents[0], documents[-1])


TARGETS = {
    "demonstrations": Target(make=make_demonstrations, read=read_demonstrations),
    "labels": Target(make=make_labels, read=read_labels, sign=sign_labels),
    "reward-model": Target(
        make=make_reward_model, read=read_reward_model, sign=sign_reward_model, signature=("COMPLETE",)
    ),
    "checkpoint": Target(
        make=make_checkpoint, read=read_checkpoint, sign=sign_checkpoint, signature=("COMPLETE", "digests.json")
    ),
    "openvla": Target(make=make_openvla, read=read_openvla),
    "reference": Target(make=make_reference, read=read_reference),
}


# -- damage


def damage(folder: Path, spared: tuple[str, ...], drawn: random.Random) -> None:
    path = drawn.choice([path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in spared])
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and drawn.random() < 0.8:
        path.write_text(damaged_json(data.decode(), drawn, lines=path.suffix == ".jsonl"))
    else:
        path.write_bytes(damaged_bytes(data, drawn))


def damaged_json(text: str, drawn: random.Random, *, lines: bool) -> str:
    if not lines:
        return json.dumps(with_odd_value(json.loads(text), drawn))
    rows = text.splitlines()
    at = drawn.randrange(len(rows))
    rows[at] = json.dumps(with_odd_value(json.loads(rows[at]), drawn))
    return "".join(f"{row}\n" for row in rows)


def with_odd_value(value: Any, drawn: random.Random) -> Any:
    """``value`` with one of its nodes replaced or removed, deep ones as likely as shallow ones."""
    if not isinstance(value, (dict, list)) or not value or drawn.random() < 0.1:
        return drawn.choice([*ODD, [], {}, [value], {"a": value}])
    key = drawn.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if drawn.random() < 0.1:
        del value[key]
    else:
        value[key] = with_odd_value(value[key], drawn)
    return value


def damaged_bytes(data: bytes, drawn: random.Random) -> bytes:
    spoiled = bytearray(data)
    if drawn.random() < 0.1:
        return bytes(spoiled[: drawn.randrange(len(spoiled) + 1)])
    head = drawn.choice([len(spoiled), min(len(spoiled), 4096)])  # headers lie at the begin
    for _ in range(drawn.choice([1, 1, 2, 4, 8, 32])):
        at, word = drawn.randrange(head), drawn.choice([1, 1, 2, 4, 8])
        spoiled[at : at + word] = drawn.choice([bytes(word), b"\xff" * word, drawn.randbytes(word)])
    return bytes(spoiled)


# -- the search


@dataclass
class Tally:
    outcomes: Counter[str]
    findings: Counter[str]


def search(name: str, target: Target, seconds: float, seed: int, keep: Path) -> Tally:
    tally = Tally(Counter(), Counter())
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        _forked(lambda: target.make(whole))
        assert any(whole.iterdir()), f"{name}: nothing to damage"
        number = seed * 10**9
        work, log = Path(place) / "work", Path(place) / "log"
        while time.monotonic() < end:
            log.write_text("")
            died = _forked(lambda first=number: _batch(target, whole, work, log, first, end))
            lines = log.read_text().splitlines()
            tally.outcomes.update(line.partition(" ")[2] for line in lines if line.startswith("ok"))
            if died:
                what = lines[-1].partition(" ")[2] if lines and lines[-1].startswith("bad") else f"died: {died}"
                tally.findings[what] += 1
                if tally.findings[what] == 1:
                    shutil.copytree(work, keep / f"{name}-{len(tally.findings)}", dirs_exist_ok=True)
                    print(f"{name}: {what}", flush=True)
            number += len(lines) + 1
    return tally


def _batch(target: Target, whole: Path, work: Path, log: Path, first: int, end: float) -> None:
    faulthandler.enable()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    with log.open("a", buffering=1) as told:
        for number in range(first, first + BATCH):
            if time.monotonic() > end:
                return
            drawn = random.Random(number)
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(whole, work)
            with suppress(ValueError, TypeError, LookupError, RecursionError):  # what is no document any more
                for _ in range(drawn.choice([1, 1, 2])):
                    damage(work, target.signature, drawn)
                target.sign(work)
            signal.alarm(SECONDS)
            try:
                target.read(work)
                told.write("ok read\n")
            except VlarlError as error:
                told.write(f"ok {error.code}\n")
            except Exception as error:
                frames = traceback.extract_tb(error.__traceback__)
                ours = [one for one in frames if "/src/vlarl/" in one.filename] or frames
                told.write(f"bad {type(error).__name__} {Path(frames[-1].filename).name}:{frames[-1].lineno}")
                told.write(f" from {Path(ours[-1].filename).name}:{ours[-1].lineno} {str(error)[:200]!r}\n")
                os._exit(1)
            finally:
                signal.alarm(0)


def _forked(work: Callable[[], object]) -> str | None:
    """Runs ``work`` in a process of its own; how it died, or None."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit {os.WEXITSTATUS(status)}" if os.WEXITSTATUS(status) else None


def search_recipes(seconds: float, seed: int, keep: Path) -> None:
    """Does not return: libFuzzer ends the process, with a status of its own when it found something."""
    import atheris

    with atheris.instrument_imports(include=["vlarl.recipe", "ruamel"]):
        from vlarl.recipe.load import load_recipe, parse_recipe
        from vlarl.recipe.study import load_study

    place = Path(tempfile.mkdtemp())
    file = place / "fuzz.yaml"

    def one(data: bytes) -> None:
        kind, text = data[:1], data[1:]
        file.write_bytes(text)
        with suppress(RecipeError):
            if kind < b"\x80":
                load_recipe(file)
            elif kind < b"\xc0":
                load_study(file)
            else:
                parse_recipe("rewards: [{kind: success}]", [text.decode("utf-8", "replace")])

    corpus = keep / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    recipes = _TESTS.parent / "recipes"
    for path in sorted(recipes.rglob("*.yaml")):
        first = b"\x81" if "studies" in path.parts else b"\x01"
        (corpus / f"shipped-{path.parent.name}-{path.stem}").write_bytes(first + path.read_bytes())
    options = [f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", f"-timeout={SECONDS}", "-rss_limit_mb=4096"]
    options += ["-max_len=8192", f"-artifact_prefix={keep}/", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", choices=["recipe", *TARGETS])
    parser.add_argument("--seconds", type=float, default=600, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where what breaks the promise is kept")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    found = 0
    for name in options.targets:
        if name == "recipe":
            search_recipes(options.seconds, options.seed, options.keep)
        tally = search(name, TARGETS[name], options.seconds, options.seed, options.keep)
        shown = ", ".join(f"{what} {count}" for what, count in tally.outcomes.most_common())
        print(f"{name}: {tally.outcomes.total()} attempts without a finding ({shown})", flush=True)
        for what, count in tally.findings.most_common():
            print(f"  {count} times {what}", flush=True)
        found += tally.findings.total()
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
