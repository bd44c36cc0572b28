"""Evaluations in the result format of another tool, so that its readers and tables can use them.

``vla-eval``: the per-benchmark result file of allenai/vla-evaluation-harness as of commit
e1ee9adf64396e155eb10ae1dd3f5dbf9a12d26c (2026-08-12, v0.4.0-22): ``BenchmarkResult``, ``TaskResult`` and
``EpisodeResult`` of ``src/vla_eval/results/collector.py``, the ``config`` of ``src/vla_eval/config.py``. As there, a
task is named by its instruction, an episode by the number of its init state, means are rounded to four digits and
an errored episode counts as a failure without steps. What the format has no place for is under ``vlarl``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vlarl import __version__
from vlarl.results import Document

Format = Literal["vla-eval"]
_LIBERO = {"libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"}
_LIBERO_CLASS = "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark"
_METRICS = {"success": "mean"}


def vla_eval_result(document: Document, *, created_at: str) -> dict[str, Any]:
    """``document`` as a result file of vla-eval. ``created_at``: ISO 8601 with time zone."""
    by_instruction: dict[str, list[dict[str, Any]]] = {}
    instructions = {task["name"]: task["instruction"] for task in document["protocol"]["tasks"]}
    for row in document["episodes"]:
        by_instruction.setdefault(instructions[row["task"]], []).append(_episode(row))
    config = _config(document)
    seed = config["params"]["seed"]
    return {
        "benchmark": "_".join(filter(None, (config["benchmark"].rpartition(":")[2], config["subname"]))),
        "mode": config["mode"],
        "harness_version": f"vlarl {__version__}",
        "created_at": created_at,
        "tasks": [_task(name, episodes) for name, episodes in by_instruction.items()],
        "config": config,
        **({"seed": seed} if seed is not None else {}),
        "metric_keys": dict(_METRICS),
        **_means([episode for episodes in by_instruction.values() for episode in episodes]),
        "vlarl": {key: value for key, value in document.items() if key not in ("tasks", "episodes")},
    }


def _episode(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {"episode_id": row["init"], "metrics": {"success": row["success"]}}
    return {**found, "failure_reason": "exception"} if row["errored"] else {**found, "steps": row["length"]}


def _task(name: str, episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    errors = sum("failure_reason" in episode for episode in episodes)
    return {
        "task": name,
        "episodes": list(episodes),
        "num_episodes": len(episodes),
        "avg_steps": sum(episode.get("steps", 0) for episode in episodes) / len(episodes),
        **({"num_errors": errors} if errors else {}),
        **_means(episodes),
    }


def _means(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        f"mean_{key}": round(sum(episode["metrics"][key] for episode in episodes) / len(episodes), 4)
        for key in _METRICS
    }


def _config(document: Document) -> dict[str, Any]:
    """The entry of vla-eval's ``benchmarks`` list that would ask for the same episodes."""
    protocol, suite = document["protocol"], document["suite"]
    seeds, horizons = protocol["episode_seeds"], {task["horizon"] for task in protocol["tasks"]}
    params: dict[str, Any] = {"suite": suite, "seed": seeds[0] if len(seeds) == 1 else None}
    if suite in _LIBERO:
        params["num_steps_wait"] = protocol["settle_steps"]
    return {
        "benchmark": _LIBERO_CLASS if suite in _LIBERO else f"vlarl:{suite}",
        "mode": "sync",
        "name": None,
        "subname": suite if suite in _LIBERO else None,
        "episodes_per_task": max(task["episodes"] for task in document["tasks"]),
        "max_steps": horizons.pop() if len(horizons) == 1 else None,
        "max_tasks": None,
        "tasks": list(dict.fromkeys(task["instruction"] for task in protocol["tasks"])),
        "params": params,
    }
