"""Steps per second of the pool and of gymnasium's AsyncVectorEnv, on the same envs and the same cores.

Both stay alive, both take random actions, and they take turns; the median over the turns is printed.
AsyncVectorEnv (shared memory, SAME_STEP autoreset) has one process per env; the pool has one per core.

    python benchmarks/pool.py --cores 2 --num-envs 32 --steps 200 --repeats 5 [--json]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.registry import build
from vlarl.suites.pool import Pool
from vlarl.types import EpisodeSpec

Turn = Callable[[int], float]  # steps of every env -> env steps per second


def make_env(spec: TabletopSpec, task: int) -> object:
    suite = build(spec)
    from vlarl.suites.env import TaskEnv  # after the suite: it chooses the renderer

    return TaskEnv(suite, task)


def pool_turn(pool: Pool, num_envs: int, steps: int) -> float:
    """The trainer's pattern: one group simulates while actions for another are made."""
    random = np.random.default_rng(0)
    sizes = [group.stop - group.start for group in pool.groups]
    started = time.perf_counter()
    for step in range(steps):
        for group, size in enumerate(sizes):
            if step:
                pool.receive(group)
            pool.send(group, random.uniform(-1, 1, (size, 7)).astype(np.float32))
    for group in range(len(sizes)):
        pool.receive(group)
    return num_envs * steps / (time.perf_counter() - started)


def async_turn(envs: object, num_envs: int, steps: int) -> float:
    random = np.random.default_rng(0)
    started = time.perf_counter()
    for _ in range(steps):
        envs.step(random.uniform(-1, 1, (num_envs, 7)).astype(np.float32))  # type: ignore[attr-defined]
    return num_envs * steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--num-groups", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200, help="control steps per turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.cores])  # inherited by all processes

    from gymnasium.vector import AsyncVectorEnv, AutoresetMode

    spec = TabletopSpec(num_envs=chosen.num_envs, num_groups=chosen.num_groups, num_workers=chosen.cores)
    tasks = build(spec).tasks()
    factories = [functools.partial(make_env, spec, slot % len(tasks)) for slot in range(chosen.num_envs)]
    # Each process makes its own GL context, so none may be forked from one that has one.
    envs = AsyncVectorEnv(factories, shared_memory=True, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)

    def assign(slot: int, index: int) -> EpisodeSpec:
        return EpisodeSpec(task=slot % len(tasks), split="train", init=slot * 200 + index % 200, seed=slot)

    rates: dict[str, list[float]] = {"pool": [], "async_vector_env": []}
    with Pool(spec, tasks, spec.image_size, assign) as pool:
        pool.start()
        envs.reset(seed=0)
        turns: dict[str, Turn] = {
            "pool": lambda steps: pool_turn(pool, chosen.num_envs, steps),
            "async_vector_env": lambda steps: async_turn(envs, chosen.num_envs, steps),
        }
        for turn in turns.values():
            turn(10)
        for repeat in range(chosen.repeats):
            for name in sorted(turns, reverse=bool(repeat % 2)):
                rates[name].append(turns[name](chosen.steps))
                print(f"{name:>18} {rates[name][-1]:8.0f} env steps/s", file=sys.stderr)
    envs.close()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratio = medians["pool"] / medians["async_vector_env"]
    if chosen.json:
        print(json.dumps({**medians, "ratio": ratio, "num_envs": chosen.num_envs, "cores": chosen.cores}))
    else:
        print(
            f"pool {medians['pool']:.0f}, AsyncVectorEnv {medians['async_vector_env']:.0f} env steps/s: {ratio:.2f} x"
        )


if __name__ == "__main__":
    main()
