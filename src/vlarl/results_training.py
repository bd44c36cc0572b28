"""What training itself was like, out of a run's iteration records: curves, rewards, time, the curriculum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEARNING_CURVES = {  # statistic of PPO and the critic -> its title
    "approx_kl": "Approximate KL",
    "clip_fraction": "Clip fraction",
    "entropy": "Entropy",
    "explained_variance": "Explained variance",
    "value_loss": "Value loss",
    "policy_grad_norm": "Policy gradient norm",
}
_OF_THE_POLICY = {"approx_kl", "clip_fraction", "entropy", "policy_grad_norm"}
_STAGES = ("simulate", "render", "infer", "score", "update", "record", "idle", "total")
_DIGITS = 4  # significant; curves are drawn, not computed with


@dataclass(frozen=True, kw_only=True)
class Training:
    """Of one run: lists have an entry an iteration, None where there is no such number."""

    env_steps: tuple[int, ...]
    stats: Mapping[str, tuple[float | None, ...]]  # by the names of LEARNING_CURVES
    rewards: Mapping[str, tuple[float | None, ...]]  # part -> mean per control step
    seconds: Mapping[str, float]  # stage -> over all iterations, as of `ledger`
    probabilities: Mapping[str, tuple[float, ...]]  # task -> as of the curriculum; empty where it is fixed
    success: Mapping[str, tuple[float, ...]]  # task -> as the curriculum sees it


def training_of(records: Sequence[Mapping[str, Any]]) -> Training:
    """Of a run's iteration records."""
    parts = dict.fromkeys(name for record in records for name in record.get("reward") or {})
    maps = [record.get("curriculum") or {} for record in records]
    # A run that was begun by a version without them has no map at all.
    tasks = list(maps[-1].get("probability") or {}) if maps and all(one.get("probability") for one in maps) else []
    return Training(
        env_steps=tuple(int(record["env_steps"]) for record in records),
        stats={name: tuple(_short(stat(record, name)) for record in records) for name in LEARNING_CURVES},
        rewards={name: tuple(_short(_of(record, "reward", name)) for record in records) for name in parts},
        seconds={stage: round(value, 1) for stage, value in ledger(records).items()},
        probabilities={task: tuple(round(sum(one["probability"][task]), _DIGITS) for one in maps) for task in tasks},
        success={task: tuple(round(_mean(one["success"][task]), _DIGITS) for one in maps) for task in tasks},
    )


def stat(record: Mapping[str, Any], name: str) -> float | None:
    """None where there is nothing to show: of the policy's update, while only the critic was trained."""
    critic_only = name in _OF_THE_POLICY and _of(record, "stats", "policy_updated") is False
    return None if critic_only else _of(record, "stats", name)


def iteration_seconds(record: Mapping[str, Any]) -> float:
    """Of collecting, scoring and updating; 0 where it was not recorded."""
    return float(_of(record, "ledger", "total_seconds") or 0.0)


def ledger(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds per stage over all iterations; ``other`` is what the trainer did besides the named stages."""
    total = {stage: sum(float(_of(r, "ledger", f"{stage}_seconds") or 0.0) for r in records) for stage in _STAGES}
    named = total["infer"] + total["score"] + total["update"] + total["record"] + total["idle"]
    return {**total, "other": max(0.0, total["total"] - named)}


def _of(record: Mapping[str, Any], section: str, name: str) -> Any:
    return (record.get(section) or {}).get(name)


def _short(value: Any) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.{_DIGITS}g}")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
