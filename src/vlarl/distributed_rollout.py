"""From the rollouts of several processes to one that all of them know, frames left where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from vlarl.digest import json_digest
from vlarl.distributed import Message, Ranks
from vlarl.types import Episode, EpisodeSpec, Scored, StageDigests

# Large, and read only where the minibatches of their slots are computed.
_STAYING = frozenset({"images", "features", "last_images"})


def combined(shards: Sequence[StageDigests]) -> StageDigests:
    """The digests of all shards of slots as one; those of a single shard are themselves."""
    if len(shards) == 1:
        return shards[0]
    stages = (stage.name for stage in fields(StageDigests))
    return StageDigests(**{stage: json_digest([getattr(shard, stage) for shard in shards]) for stage in stages})


def share(scored: Scored, ranks: Ranks) -> Scored:
    """The scored rollout over the slots of all processes, in the order of ranks; the same everywhere.

    Images, final images and features stay those of this process, beginning at ``first_slot``. A job of one gets
    back what it gave.
    """
    if ranks.world_size == 1:
        return scored
    rollout = scored.rollout
    arrays = {name: value for name, value in vars(rollout).items() if _travels(name, value)}
    parts = {f"breakdown.{name}": values for name, values in scored.breakdown.items()}
    received = ranks.gather(
        Message(
            {
                "episodes": [asdict(episode) for episode in rollout.episodes],
                "digests": [asdict(digests) for digests in rollout.shard_digests],
                "first_slot": rollout.first_slot,
            },
            {**arrays, "rewards": scored.rewards, **parts},
        )
    )
    joined = {name: np.concatenate([message.arrays[name] for message in received]) for name in received[0].arrays}
    digests = tuple(StageDigests(**shard) for message in received for shard in message.data["digests"])
    own: dict[str, Any] = {name: joined[name] for name in arrays}
    whole = replace(
        rollout,
        **own,
        final_images={(rollout.first_slot + slot, t): image for (slot, t), image in rollout.final_images.items()},
        episodes=tuple(
            _episode(episode, message.data["first_slot"])
            for message in received
            for episode in message.data["episodes"]
        ),
        digests=combined(digests),
        shard_digests=digests,
    )
    breakdown = {name: joined[f"breakdown.{name}"] for name in scored.breakdown}
    return Scored(rollout=whole, rewards=joined["rewards"], breakdown=breakdown)


def _travels(name: str, value: Any) -> bool:
    return isinstance(value, np.ndarray) and name not in _STAYING


def _episode(described: dict[str, Any], first_slot: int) -> Episode:
    spec = EpisodeSpec(**described["spec"])
    return Episode(**{**described, "spec": spec, "slot": described["slot"] + first_slot})
