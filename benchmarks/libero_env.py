"""LIBERO episodes per second: vlarl's pool against LIBERO's own SubprocVectorEnv, same processes, same machine.

LIBERO's side is what its scripts use: `OffScreenRenderEnv` with its two cameras and hard resets. Both run the same
episodes of 100 random actions from official init states, reset and settle steps included, and the pictures that end
them are compared. Sides take turns; the median over the turns is printed.

    python benchmarks/libero_env.py --suite libero_goal --task 8 --workers 2 --repeats 3 [--renderer egl] [--json]
    python benchmarks/libero_env.py --parts              # where the time of one step goes, one process
    python benchmarks/libero_env.py --mixed 10           # episodes over 10 tasks in turn, with resident memory
    python benchmarks/libero_env.py --pixels             # frames of all 130 tasks with and without what is out of view
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.registry import build
from vlarl.suites.pool import Pool
from vlarl.types import EpisodeSpec

STEPS, SETTLE, SIDE = 100, 10, 256
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
_IDLE = np.array([0, 0, 0, 0, 0, 0, -1.0])


def actions(workers: int) -> np.ndarray:
    """(workers, STEPS, 7) that move the arm about without ending an episode."""
    wishes = np.random.default_rng(0).uniform(-0.6, 0.6, (workers, STEPS, 7))
    wishes[..., 6] = -1.0
    return wishes.astype(np.float32)


def memory(field: str) -> dict[int, int]:
    """Bytes by process, of this process's children; ``field`` is VmRSS (resident) or VmHWM (its peak)."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if int(fields["PPid"]) == os.getpid() and field in fields:
            found[int(fields["Pid"])] = int(fields[field].split()[0]) * 1024
    return found


def largest(sizes: dict[int, int], processes: set[int]) -> float:
    """MiB of the largest of ``processes``."""
    return max(size for pid, size in sizes.items() if pid in processes) / 2**20


class Libero:
    """LIBERO's own vector environment."""

    def __init__(self, suite: str, task: int, workers: int) -> None:
        from libero.libero import get_libero_path
        from libero.libero.benchmark import get_benchmark
        from libero.libero.envs import OffScreenRenderEnv, SubprocVectorEnv

        before = set(memory("VmRSS"))
        benchmark = get_benchmark(suite)(0)
        row = benchmark.get_task(task)
        self._states = np.asarray(benchmark.get_task_init_states(task))
        path = os.path.join(get_libero_path("bddl_files"), row.problem_folder, row.bddl_file)
        options = {"bddl_file_name": path, "camera_heights": SIDE, "camera_widths": SIDE}
        self._envs = SubprocVectorEnv([lambda: OffScreenRenderEnv(**options)] * workers)
        self._workers = workers
        self.processes = set(memory("VmRSS")) - before

    def episode(self, wishes: np.ndarray) -> tuple[float, float, np.ndarray]:
        """Seconds from the reset to the first settled look, seconds in all, and the last pictures, turned."""
        started = time.perf_counter()
        self._envs.seed([0] * self._workers)  # a single number would give each its own
        self._envs.reset()
        self._envs.set_init_state(self._states[: self._workers])
        for _ in range(SETTLE):
            seen, *_ = self._envs.step(np.stack([_IDLE] * self._workers))
        settled = time.perf_counter()
        for step in range(STEPS):
            seen, *_ = self._envs.step(wishes[:, step])
        pictures = np.stack([each["agentview_image"][::-1, ::-1] for each in seen])
        return settled - started, time.perf_counter() - started, pictures

    def close(self) -> None:
        self._envs.close()


class Vlarl:
    """The pool, one slot a process so that both sides run the same number of episodes at a time."""

    def __init__(self, suite: str, task: int, workers: int, quality: str, renderer: str) -> None:
        before = set(memory("VmRSS"))
        spec = LiberoSpec(
            name=suite,  # type: ignore[arg-type]
            tasks=[task],  # type: ignore[list-item]
            num_envs=workers,
            num_groups=1,
            num_workers=workers,
            render_quality=quality,  # type: ignore[arg-type]
            renderer=renderer,  # type: ignore[arg-type]
        )
        self._built = build(spec)
        self._asked = 0
        self._pool = Pool(spec, self._built.tasks(), SIDE, self._assign)
        self._pool.__enter__()
        self._pool.start()
        self.processes = set(memory("VmRSS")) - before

    def _assign(self, slot: int, index: int) -> EpisodeSpec:
        return EpisodeSpec(task=0, split="eval", init=slot, seed=0)

    def episode(self, wishes: np.ndarray) -> tuple[float, float, np.ndarray]:
        started = time.perf_counter()
        for slot in range(len(wishes)):
            self._pool._place(slot, self._assign(slot, 0), index=0)
        self._pool._arrays.length[:] = 0  # else the steps of the episode before would be repeated
        self._pool._begin_all()
        settled = time.perf_counter()
        for step in range(STEPS):
            self._pool.send(0, wishes[:, step])
            self._pool.receive(0)
        return settled - started, time.perf_counter() - started, self._pool.observation(0).images.copy()

    def close(self) -> None:
        self._pool.__exit__(None, None, None)


def compare(chosen: argparse.Namespace) -> dict[str, Any]:
    wishes = actions(chosen.workers)
    builders: dict[str, Callable[[], Libero | Vlarl]] = {
        "libero": lambda: Libero(chosen.suite, chosen.task, chosen.workers),
        "exact": lambda: Vlarl(chosen.suite, chosen.task, chosen.workers, "exact", chosen.renderer),
        "fast": lambda: Vlarl(chosen.suite, chosen.task, chosen.workers, "fast", chosen.renderer),
    }
    sides = {name: make() for name, make in builders.items()}
    resets: dict[str, list[float]] = {name: [] for name in sides}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    pictures: dict[str, np.ndarray] = {}
    for side in sides.values():
        side.episode(wishes)  # compile, import and cache
    for repeat in range(chosen.repeats):
        for name in sorted(sides, reverse=bool(repeat % 2)):
            reset, total, pictures[name] = sides[name].episode(wishes)
            resets[name].append(reset)
            rates[name].append(chosen.workers * STEPS / total)
            print(f"{name:>8} {rates[name][-1]:7.2f} env steps/s, reset {reset:6.2f} s", file=sys.stderr)
    resident, peak = (
        {name: largest(memory(field), side.processes) for name, side in sides.items()} for field in ("VmRSS", "VmHWM")
    )
    for side in sides.values():
        side.close()
    rate = {name: statistics.median(values) for name, values in rates.items()}
    reset_seconds = {name: statistics.median(values) for name, values in resets.items()}
    return {
        "suite": chosen.suite,
        "task": chosen.task,
        "workers": chosen.workers,
        "renderer": chosen.renderer,
        "steps_per_second": rate,
        "reset_seconds": reset_seconds,
        "mib_per_worker": resident,
        "peak_mib_per_worker": peak,
        "exact_over_libero": rate["exact"] / rate["libero"],
        "fast_over_libero": rate["fast"] / rate["libero"],
        "reset_libero_over_exact": reset_seconds["libero"] / reset_seconds["exact"],
        "pixels_equal": bool(np.array_equal(pictures["libero"], pictures["exact"])),
    }


def parts(chosen: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of one process for a control step, the goal's predicates and a frame."""
    found: dict[str, Any] = {"suite": chosen.suite, "task": chosen.task, "renderer": chosen.renderer}
    for quality in ("exact", "fast", "coarse"):
        spec = LiberoSpec(
            name=chosen.suite,
            tasks=[chosen.task],
            renderer=chosen.renderer,
            render_quality=quality,  # type: ignore[arg-type]
            image_size=chosen.side,
        )
        simulation = build(spec).simulation(0)
        simulation.begin(EpisodeSpec(0, "eval", 0, 0))
        image = np.empty((chosen.side, chosen.side, 3), np.uint8)
        wishes = actions(1)[0]
        episode = simulation.episode
        found[f"{quality}_frame_ms"] = _milliseconds(lambda: simulation.render_into(image), 10)  # noqa: B023
    found["step_ms"] = _milliseconds(lambda: episode.step(wishes[0].astype(np.float64)), 50)
    found["predicates_ms"] = _milliseconds(lambda: episode.stage.succeeded(episode.data), 50)
    found["begin_ms"] = _milliseconds(lambda: simulation.begin(EpisodeSpec(0, "eval", 1, 0)), 5)
    found["state_only_steps_per_second"] = 1e3 / (found["step_ms"] + found["predicates_ms"])
    return found


def mixed(chosen: argparse.Namespace) -> dict[str, Any]:
    """One process running an episode of 20 steps on each of ``--mixed`` tasks in turn, twice."""
    spec = LiberoSpec(
        name=chosen.suite, renderer=chosen.renderer, render_quality="fast", models_per_worker=chosen.models
    )
    suite = build(spec)
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    sizes, started, wishes = [], time.perf_counter(), actions(1)[0]
    for index in range(2 * chosen.mixed):
        simulation = suite.simulation(index % chosen.mixed)
        simulation.begin(EpisodeSpec(index % chosen.mixed, "eval", 0, 0))
        for wish in wishes[:20]:
            simulation.advance(wish)
            simulation.render_into(image)
        simulation.close()
        sizes.append(round(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20))
        print(f"task {index % chosen.mixed}: {sizes[-1]} MiB", file=sys.stderr)
    return {
        "tasks": chosen.mixed,
        "models_kept": chosen.models,
        "resident_mib": sizes,
        "steps_per_second": 40 * chosen.mixed / (time.perf_counter() - started),
    }


def pixels(chosen: argparse.Namespace) -> dict[str, Any]:
    """Every task's first frame and one after 30 actions: with all geoms drawn, and without those out of view."""
    compared, different, skipped = 0, [], []
    for suite_name in SUITES:
        suite = build(LiberoSpec(name=suite_name, renderer=chosen.renderer, models_per_worker=1))  # type: ignore[arg-type]
        for task in suite.tasks():
            simulation = suite.simulation(task.index)
            simulation.begin(EpisodeSpec(task.index, "eval", 0, 0))
            for moved in (False, True):
                for wish in actions(1)[0][: 30 * moved]:
                    simulation.advance(wish)
                frame, camera = simulation.episode.frame, simulation.episode.stage.camera("agentview", SIDE, "exact")
                lean, whole = np.empty((2, SIDE, SIDE, 3), np.uint8)
                camera.render_into(frame, lean)
                skipped.append(float(1 - camera._seen(frame).mean()))
                camera._seen = lambda frame: np.ones(camera._model.ngeom, bool)  # noqa: B023
                camera.render_into(frame, whole)
                del camera._seen
                compared += 1
                if not np.array_equal(lean, whole):
                    different.append(f"{suite_name} {task.index} {'moved' if moved else 'first'}")
            simulation.close()
            print(f"{suite_name} {task.index}: {len(different)} of {compared} differ", file=sys.stderr)
    return {"frames": compared, "different": different, "geoms_left_out": statistics.median(skipped)}


def _milliseconds(function: Callable[[], object], repeats: int) -> float:
    function()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return 1e3 * statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="libero_goal")
    parser.add_argument("--task", type=int, default=8)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--renderer", choices=["osmesa", "egl"], default="osmesa")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--side", type=int, default=SIDE, help="with --parts: pixels a side")
    parser.add_argument("--mixed", type=int, metavar="TASKS")
    parser.add_argument("--models", type=int, default=8, help="with --mixed: compiled tasks kept")
    parser.add_argument("--pixels", action="store_true")
    chosen = parser.parse_args()
    # LIBERO's side reads it too.
    os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = chosen.renderer
    os.environ["LP_NUM_THREADS"] = "0"
    run = mixed if chosen.mixed else parts if chosen.parts else pixels if chosen.pixels else compare
    print(json.dumps(run(chosen), indent=1))


if __name__ == "__main__":
    main()
