"""Breaks small but whole runs in every way that a cluster knows, goes on with each, and tells what was lost.

    python tests/faults/harness.py [--kills 50] [--terms 20] [--workers 10] [--ranks 5] [--json FILE]

The reference is one run that nothing happens to. A fault is survived when the run, resumed as often as it takes, ends
in the reference's hash chain. Lost work is counted in iterations that had to be done again. The moments are drawn
from one seed, uniformly over the time that the undisturbed run takes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlarl.errors import VlarlError
from vlarl.recipe.load import load_recipe
from vlarl.run import checkpoint
from vlarl.run.events import read_events
from vlarl.run.folder import RunFolder, find_runs
from vlarl.suites.pool import Pool
from vlarl.train import Watcher, resume, train

CHECKPOINT_EVERY = 2
RECIPE = f"""
name: faults
seed: 3
suite: {{kind: tabletop, name: tabletop_basic, tasks: [reach_red, reach_green], image_size: 32, num_envs: 4}}
policy: {{kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}}
imitation: {{num_episodes: 60, updates: 150, warmup_updates: 10, batch_size: 64, lr: 3e-3}}
ppo: {{lr: 1e-4, minibatch_size: 32, epochs: 2, ratio_tolerance: 1e-4}}
train: {{iterations: 12, critic_warmup: 1, torch_threads: 1, rollout: {{kind: steps, num_steps: 24}}}}
evaluation: {{every: 6, episodes: 3, videos: false}}
run: {{checkpoint_every: {CHECKPOINT_EVERY}, keep: {{last: 20}}}}
determinism: strict
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    fault: str
    tried: int
    survived: int  # ended in the reference's chain
    most_lost: int  # iterations done again after one fault
    outcome: str


class Harness:
    """A recipe, its undisturbed run, and the ways to break others."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.recipe = folder / "faults.yaml"
        self.recipe.write_text(RECIPE)
        self.overrides = [f"run.cache={folder / 'cache'}"]
        self._count = 0
        self.train(self.runs("warm-up"))  # the clone is in the cache from here on
        began = time.monotonic()
        self.reference = self.chain(self.started(self.runs("reference"), lambda process: process.wait()))
        self.seconds = time.monotonic() - began
        assert len(self.reference) == 12, "the reference ran to its end"

    def runs(self, name: str) -> Path:
        self._count += 1
        return self.folder / "runs" / f"{self._count:03d}-{name}"

    def train(self, runs: Path, *overrides: str, **options: Any) -> RunFolder:
        loaded = load_recipe(self.recipe, [*self.overrides, *overrides])
        return train(loaded, command=["faults"], run_folder=runs, **options).run

    def started(self, runs: Path, disturb: Callable[[subprocess.Popen[bytes]], object], *words: str) -> RunFolder:
        """`vlarl train` in a process of its own, disturbed; the folder it left."""
        with self.process(runs, *words) as process:
            disturb(process)
            process.wait()
        found = find_runs(runs)
        return found[0] if found else RunFolder(runs / "nothing-yet")

    def process(self, runs: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        settings = [word for override in self.overrides for word in ("--set", override)]
        command = [sys.executable, "-m", "vlarl", "train", str(self.recipe), "--runs", str(runs), *settings, *words]
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @staticmethod
    def chain(run: RunFolder) -> list[str]:
        events = read_events(run.events) if run.events.is_file() else []
        return [event["chain"] for event in events if event["kind"] == "iteration"]

    def gone_on_with(self, run: RunFolder, reference: list[str] | None = None, *overrides: str) -> tuple[bool, int]:
        """Whether the rest ends in the reference's chain, and how many iterations were done again."""
        reference = self.reference if reference is None else reference
        if not run.manifest.is_file():  # killed before the run began
            return self.chain(self.train(self.runs("again"), *overrides)) == reference, 0
        done = len(self.chain(run))
        kept = checkpoint.iterations(run.checkpoints)
        newest = checkpoint.load(run.path).iteration if kept else 0
        if done < len(reference) or json.loads(run.manifest.read_text())["status"] != "done":
            resume(run, command=["faults"])
        return self.chain(run) == reference, max(0, done - newest)

    # -- the faults, each one row

    def signalled(self, number: signal.Signals, times: int) -> Row:
        results = []
        for _ in range(times):
            moment = self.random.uniform(0.0, self.seconds)

            def strike(process: subprocess.Popen[bytes], moment: float = moment) -> None:
                try:
                    process.wait(moment)
                except subprocess.TimeoutExpired:
                    process.send_signal(number)

            results.append(self.gone_on_with(self.started(self.runs(number.name), strike)))
        return _row(f"{number.name} to the trainer at a random moment", results)

    def killed_workers(self, times: int) -> Row:
        results = []
        for _ in range(times):
            at = self.random.randrange(12)

            def kill(event: Any, at: int = at) -> None:
                if event["iteration"] == at:
                    os.kill(self.random.choice(_children(os.getpid())), signal.SIGKILL)

            run = self.train(self.runs("worker"), watcher=Watcher(iteration=kill))
            results.append((self.chain(run) == self.reference, 0))
        return _row("SIGKILL to a simulator process", results, "replaced and its episodes replayed, without a stop")

    def hung_workers(self, times: int) -> Row:
        """A stopped process stands for one whose simulator does not come back; the pool waits 5 s here, not 120."""
        results = []
        timeouts = Pool.__init__.__kwdefaults__
        usual = timeouts["timeout_seconds"]
        timeouts["timeout_seconds"] = 5.0
        try:
            for _ in range(times):
                at = self.random.randrange(12)

                def stop(event: Any, at: int = at) -> None:
                    if event["iteration"] == at:
                        os.kill(self.random.choice(_children(os.getpid())), signal.SIGSTOP)

                run = self.train(self.runs("hung"), watcher=Watcher(iteration=stop))
                results.append((self.chain(run) == self.reference, 0))
        finally:
            timeouts["timeout_seconds"] = usual
        return _row("a simulator process that hangs", results, "replaced and its episodes replayed, without a stop")

    def killed_ranks(self, times: int) -> Row:
        """Two processes with two shards: one dies, the other ends the job, and one process alone goes on with it."""
        shards = "suite.num_shards=2"
        results = []
        reference = self.chain(self.train(self.runs("shards"), shards))
        for _ in range(times):
            runs, moment, rank = self.runs("ranks"), self.random.uniform(0.0, self.seconds), self.random.randrange(2)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
            pair = []
            for place in range(2):
                environment = {**os.environ, **job, "RANK": str(place), "LOCAL_RANK": str(place)}
                pair.append(self.process(runs, "--set", shards, env=environment))
            try:
                pair[rank].wait(moment)
            except subprocess.TimeoutExpired:
                pair[rank].kill()
            found = find_runs(runs)
            run = found[0] if found else RunFolder(runs / "nothing-yet")
            if not found:  # they had not met: the other waits for minutes, in case the first is late; launchers do not
                pair[1 - rank].kill()
            for process in pair:
                process.wait()
            results.append(self.gone_on_with(run, reference, shards))
        return _row(
            "SIGKILL to one of two training processes", results, "the other ends the job; resumed by one process"
        )

    def damaged(self, name: str, damage: Callable[[Path], None], times: int) -> Row:
        results = []
        for _ in range(times):
            run = self.train(self.runs(name), until=8)
            damage(run.checkpoints / "000008")
            results.append(self.gone_on_with(run))
        return _row(f"newest checkpoint: {name}", results, "passed over and named; the one before it is used")

    def flipped(self, checkpoint_folder: Path) -> None:
        path = self.random.choice([p for p in sorted(checkpoint_folder.iterdir()) if p.name != "COMPLETE"])
        data = bytearray(path.read_bytes())
        data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        path.write_bytes(data)

    def cut_short(self, checkpoint_folder: Path) -> None:
        path = self.random.choice([p for p in sorted(checkpoint_folder.iterdir()) if p.name != "COMPLETE"])
        os.truncate(path, self.random.randrange(path.stat().st_size))

    def full_disk(self, times: int) -> Row:
        """A tmpfs that has room for some of the run; then one file is removed and the run goes on."""
        results, said = [], set()
        for _ in range(times):
            place = self.folder / "small-disk"
            with _tmpfs(place, kib=self.random.randrange(700, 2200)):
                filler = place / "filler"
                filler.write_bytes(bytes(100_000))
                try:
                    run = self.train(place / "runs")
                except VlarlError as error:
                    said.add(f"{error.code}, exit {int(error.exit_status)}")
                    subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
                    found = find_runs(place / "runs")
                    run = found[0] if found else RunFolder(place / "nothing-yet")
                results.append(self.gone_on_with(run))
        return _row("full disk (tmpfs)", results, "one message: " + ", ".join(sorted(said)))

    def shared_folder(self) -> Row:
        run = self.train(self.runs("shared"), until=6)
        refused = 0
        with run.lock():
            try:
                resume(run, command=["faults"])
            except VlarlError as error:
                refused += error.code == "E420"
        intact, lost = self.gone_on_with(run)
        return _row("two processes on one run folder", [(intact and refused == 1, lost)], "the second refused, E420")

    def clock_going_back(self, times: int) -> Row:
        results = []
        for _ in range(times):
            real, jump = time.time, self.random.uniform(60, 10**6)
            began = real()
            time.time = lambda real=real, began=began, jump=jump: real() - jump * (real() > began + 1.0)
            try:
                run = self.train(self.runs("clock"), until=6)
                resume(run, command=["faults"])
            finally:
                time.time = real
            results.append((self.chain(run) == self.reference, 0))
        return _row("wall clock jumps back", results, "no notice: nothing is computed from it")

    def not_a_number(self) -> Row:
        """A reward that is not a number stops the run with a checkpoint to go on from."""
        from vlarl.rewards.success import SuccessReward

        score, calls = SuccessReward.score, []

        def poisoned(reward: SuccessReward, rollout: Any) -> Any:
            calls.append(None)
            values = score(reward, rollout)
            return values * float("nan") if len(calls) == 8 else values

        SuccessReward.score = poisoned
        runs = self.runs("nan")
        said = "nothing"
        try:
            self.train(runs)
        except VlarlError as error:
            said = f"{error.code}, exit {int(error.exit_status)}"
        finally:
            SuccessReward.score = score
        [run] = find_runs(runs)
        return _row("reward is not a number", [self.gone_on_with(run)], f"one message: {said}")


def _row(fault: str, results: list[tuple[bool, int]], outcome: str = "resumed to the same chain") -> Row:
    survived = sum(same for same, _ in results)
    told = outcome if survived == len(results) else f"ANOTHER CHAIN in {len(results) - survived}; {outcome}"
    return Row(
        fault=fault,
        tried=len(results),
        survived=survived,
        most_lost=max((lost for _, lost in results), default=0),
        outcome=told,
    )


def _children(of: int) -> list[int]:
    """Simulator processes of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            is_worker = b"vlarl.suites.worker" in (entry / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == of and is_worker:
            found.append(int(entry.name))
    return found


@contextmanager
def _tmpfs(place: Path, *, kib: int) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def rows(
    harness: Harness, *, kills: int, terms: int, workers: int, ranks: int, few: int, mounts: bool
) -> Iterator[Row]:
    yield harness.signalled(signal.SIGKILL, kills)
    yield harness.signalled(signal.SIGTERM, terms)
    yield harness.killed_workers(workers)
    yield harness.hung_workers(ranks)
    yield harness.killed_ranks(ranks)
    yield harness.damaged("a flipped bit", harness.flipped, few)
    yield harness.damaged("a truncated file", harness.cut_short, few)
    yield harness.damaged("COMPLETE is missing", lambda folder: (folder / "COMPLETE").unlink(), 1)
    if mounts:
        yield harness.full_disk(few)
    yield harness.shared_folder()
    yield harness.clock_going_back(2)
    yield harness.not_a_number()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--ranks", type=int, default=5, help="killed processes of a job, simulators that hang")
    parser.add_argument("--few", type=int, default=10, help="damaged checkpoints of each kind, full disks")
    parser.add_argument("--no-mounts", action="store_true", help="leave out the full disk, which needs root")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder))
        found = []
        print("| fault | tried | same chain | most iterations done again | outcome |\n|---|---|---|---|---|")
        numbers = {name: getattr(options, name) for name in ("kills", "terms", "workers", "ranks", "few")}
        for row in rows(harness, mounts=not options.no_mounts, **numbers):
            found.append(row)
            print(f"| {row.fault} | {row.tried} | {row.survived} | {row.most_lost} | {row.outcome} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    return int(any(row.survived < row.tried or row.most_lost > CHECKPOINT_EVERY for row in found))


if __name__ == "__main__":
    sys.exit(main())
