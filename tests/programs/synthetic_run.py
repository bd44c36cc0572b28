"""A run folder as training would leave it, made up: for tests of what reads one."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vlarl.results import Evaluated, document, protocol_block, write
from vlarl.run import folder, manifest
from vlarl.run.events import EventLog
from vlarl.run.folder import RunFolder
from vlarl.types import EpisodeSpec, Task, Trial

NAMES = ("reach_red", "reach_green", "lift_red", "lift_green", "push_red", "push_green")
TASKS = tuple(
    Task(suite="tabletop_basic", index=i, name=name, instruction=f"do {name.replace('_', ' ')}", horizon=40)
    for i, name in enumerate(NAMES)
)
CONVENTIONS = {
    "settle_steps": 0,
    "control_hz": 20.0,
    "action": "delta_xyz, delta_axis_angle, gripper(-1 open, +1 close)",
    "image": "agentview rgb, upright",
    "image_size": 64,
}
STEPS_PER_ITERATION = 4096
Rule = Callable[[int, int], bool]  # task, init -> success


def make_trials(
    rule: Rule, episodes: int, *, tasks: int = len(NAMES), errored: frozenset[int] = frozenset()
) -> list[Trial]:
    """``episodes`` of each task; those whose position is in ``errored`` errored."""
    trials = []
    for position, (init, task) in enumerate((i, t) for i in range(episodes) for t in range(tasks)):
        success = rule(task, init) and position not in errored
        length = 8 + (init * 7 + task) % 20 if success else 40
        actions = np.full((length, 7), 0.01 * task, dtype=np.float32)
        spec = EpisodeSpec(task, "eval", init, 0)
        trials.append(Trial(spec=spec, success=success, errored=position in errored, length=length, actions=actions))
    return trials


def make_document(
    trials: list[Trial], *, iteration: int | None = 0, renderer: str = "osmesa", **fields: object
) -> dict:
    specs = [trial.spec for trial in trials]
    protocol = protocol_block(TASKS, specs, suite="tabletop_basic", conventions=CONVENTIONS, renderer=renderer)
    evaluated = {"run": "r", "iteration": iteration, "digest": "ab" * 32, "decoding": "greedy", "seed": 7, **fields}
    spec = {"kind": "tabletop", "name": "tabletop_basic", "tasks": None, "image_size": 64}
    return document(trials, TASKS, protocol=protocol, evaluated=Evaluated(**evaluated), suite_spec=spec)  # type: ignore[arg-type]


def hashed(task: int, init: int) -> float:
    """A fixed number in [0, 1) per episode."""
    return math.modf(abs(math.sin(12.9898 * (task + 1) + 78.233 * (init + 1))) * 43758.5453)[0]


def make_run(base: Path, *, iterations: int = 60, episodes: int = 64, name: str = "quickstart") -> RunFolder:
    """A finished run whose success rises from about a half to nearly one."""
    run = folder.create(base, name, "3f9a1c" + "0" * 58, datetime(2026, 11, 22, 7, 15, 30, tzinfo=UTC))
    intent = manifest.Intent(
        command=("vlarl", "train", "recipes/quickstart.yaml"),
        recipe_sources={"recipes/quickstart.yaml": b"name: quickstart\n"},
        overrides=("ppo.lr=1e-4",),
        recipe_digest="3f9a1c" + "0" * 58,
        seed=7,
        determinism="seeded",
        tier="T4",
        tier_reason="one process, CPU renderer",
        renderer={"backend": "osmesa", "renderer": "llvmpipe"},
    )
    manifest.begin(run, intent)
    run.recipe.write_text("name: quickstart\n")
    run.resolved_recipe.write_text("name: quickstart\nseed: 7\nsuite:\n  kind: tabletop\n  name: tabletop_basic\n")
    with EventLog(run.events) as log:
        for i in range(iterations):
            log.append(make_record(i, iterations))
    for iteration in sorted({0, iterations // 3, 2 * iterations // 3, iterations}):
        rate = 0.55 + 0.42 * (iteration / max(1, iterations)) ** 0.6

        def succeeds(task: int, init: int, rate: float = rate) -> bool:
            return hashed(task, init) < rate - 0.05 * task + 0.1

        trials = make_trials(succeeds, episodes)
        write(make_document(trials, iteration=iteration), trials, run.evaluations)
    manifest.finish(run, "done", 0, {"chain": "c" * 64})
    return run


def make_record(iteration: int, iterations: int) -> dict:
    """What training writes about one iteration."""
    share = iteration / max(1, iterations - 1)
    wiggle = hashed(3, iteration) - 0.5
    n = 90 + round(20 * hashed(5, iteration))
    warm = iteration < 3
    return {
        "kind": "iteration",
        "iteration": iteration,
        "env_steps": (iteration + 1) * STEPS_PER_ITERATION,
        "chain": f"{iteration:064x}",
        "success_rate": {"k": round(n * min(1.0, 0.45 + 0.5 * share**0.6 + 0.06 * wiggle)), "n": n},
        "reward": {"success": 0.01 + 0.02 * share},
        "stats": {
            "policy_loss": -0.01,
            "value_loss": 0.08 * math.exp(-3 * share) + 0.01 + 0.01 * wiggle**2,
            "entropy": 2.4 - 1.1 * share + 0.1 * wiggle,
            "policy_updated": not warm,
            "approx_kl": 0.0 if warm else 0.008 + 0.004 * wiggle,
            "clip_fraction": 0.0 if warm else 0.12 + 0.05 * wiggle,
            "explained_variance": 0.75 * (1 - math.exp(-6 * share)) + 0.05 * wiggle,
            "policy_grad_norm": 0.0 if warm else 0.5 + 0.2 * wiggle,
            "first_ratio_error": 1e-7,
        },
        "ledger": {
            "simulate_seconds": 3.1,
            "render_seconds": 1.9,
            "infer_seconds": 2.2,
            "update_seconds": 4.5,
            "record_seconds": 0.2,
            "idle_seconds": 1.1,
            "total_seconds": 8.2,
        },
        "warnings": ["the policy had no gradient"] if iteration in (3, 4) else [],
    }
