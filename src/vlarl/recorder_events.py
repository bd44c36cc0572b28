"""What a run says of an iteration, its event (one JSON object), and what TensorBoard is told of run and events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vlarl.assembly import Parts
from vlarl.recipe.schema import Recipe
from vlarl.recipe.write import scalar_text
from vlarl.run.coverage import Coverage, count_actions
from vlarl.run.events import ITERATION
from vlarl.run.figures import Encoded, coverage_map, probability_map
from vlarl.run.machine import redact
from vlarl.types import Scored, UpdateStats


def iteration_event(iteration: int, parts: Parts, scored: Scored, stats: UpdateStats, **others: Any) -> dict[str, Any]:
    """What is known of an iteration; ``others`` are the recorder's own fields (env_steps, chain, ...)."""
    episodes, active = scored.rollout.episodes, scored.rollout.active
    return {
        "kind": ITERATION,
        "iteration": iteration,
        "success_rate": {"k": sum(e.success for e in episodes), "n": len(episodes)},
        "errors": sum(e.errored for e in episodes),
        "episode_length": float(np.mean([e.length for e in episodes])) if episodes else None,
        "reward": {
            name: float((values if active is None else values[active]).mean())
            for name, values in scored.breakdown.items()
        },
        "stats": asdict(stats),
        "action_counts": count_actions(scored.rollout),
        **others,
        **_adaptive(parts),
    }


def _adaptive(parts: Parts) -> dict[str, Any]:
    """What the curriculum goes by from here on, by task and bucket, and the rewards whose weight an alarm watches."""
    names = [task.name for task in parts.suite.tasks()]
    found = {name: dict(zip(names, rows, strict=True)) for name, rows in parts.curriculum.summary().items()}
    watched = parts.rewards.summary()
    return ({"curriculum": found} if found else {}) | ({"watched": watched} if watched else {})


def _curriculum_curves(event: Mapping[str, Any]) -> dict[str, Any]:
    """A task's probability is the sum over its buckets, its success their mean."""
    found = event.get("curriculum", {})
    return {
        "probability": {task: sum(row) for task, row in found.get("probability", {}).items()},
        "success": {task: float(np.mean(row)) for task, row in found.get("success", {}).items()},
    }


def curves(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as TensorBoard tags that mirror the recipe's sections."""
    counts, stats = event["success_rate"], event["stats"]
    rate = counts["k"] / counts["n"] if counts["n"] else None
    critic = {name: stats[name] for name in ("value_loss", "explained_variance", "critic_grad_norm")}
    ppo = {name: value for name, value in stats.items() if name not in critic and not isinstance(value, bool)}
    return {
        "rollout": {
            "success_rate": rate,
            "episode_length": event["episode_length"],
            "env_steps": event["env_steps"],
            "action_coverage": Coverage(np.array(event["action_counts"])).share,
        },
        "curriculum": _curriculum_curves(event),
        "reward": {
            name: {"mean": value, **event.get("watched", {}).get(name, {})} for name, value in event["reward"].items()
        },
        "ppo": ppo,
        "critic": critic,
        "time": event["ledger"],
    }


def figures(events: Sequence[Mapping[str, Any]]) -> dict[str, Encoded]:
    """Pictures of a run's events so far, by tag; none before the first iteration.

    The curriculum's probabilities over all iterations where it is adaptive, and the actions of the newest iteration's
    rollout: to watch a run by, not to compare with another iteration's, which had another temperature and other tasks.
    """
    records = [event for event in events if event["kind"] == ITERATION]
    if not records:
        return {}
    found = {}
    if "action_counts" in records[-1]:  # not in those of earlier versions
        counts = np.array(records[-1]["action_counts"], np.int64)
        found["rollout/action_coverage_map"] = coverage_map(Coverage(counts))
    adaptive = [record for record in records if "curriculum" in record]
    if adaptive:
        rows = [_curriculum_curves(record)["probability"] for record in adaptive]
        columns = {task: [row[task] for row in rows] for task in rows[-1]}
        found["curriculum/probabilities"] = probability_map(columns, [r["iteration"] + 1 for r in adaptive])
    return found


def hparams(recipe: Recipe) -> dict[str, float | str | bool]:
    """Every value of a recipe under its dotted path, lists as text; what is null is left out."""
    return dict(_leaves(recipe.model_dump(mode="json")))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | str | bool]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float):
            yield f"{prefix}{name}", value
        elif value is not None:
            yield f"{prefix}{name}", redact(value if isinstance(value, str) else scalar_text(value))
