"""One PPO update on one batch, by as many processes as the environment says: `pair_update.py FILE` stores the result.

Every process makes the whole batch and then keeps the frames of its own rows alone.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from builders import make_batch, shared_critic, tiny_policy, weights
from vlarl.distributed import ALONE, Ranks, join
from vlarl.ppo import Ppo
from vlarl.recipe.specs.learning import PpoSpec

NUM_SHARDS, SIZE = 4, 64
KNOBS: dict[str, Any] = {"lr": 1e-3, "value_lr": 2e-3, "minibatch_size": 16, "epochs": 2, "entropy_bonus": 0.01}


def updated(ranks: Ranks = ALONE, num_shards: int = NUM_SHARDS, **knobs: Any) -> dict[str, np.ndarray]:
    """Weights before and after, and the update's statistics."""
    policy = tiny_policy()
    critic = shared_critic(policy)
    batch = make_batch(policy, critic, SIZE)
    first = SIZE // ranks.world_size * ranks.rank
    own = batch.images[first : first + SIZE // ranks.world_size]
    batch = replace(batch, images=own, first_row=first)
    before = weights(policy, critic).numpy()
    ppo = Ppo(
        PpoSpec(**{**KNOBS, **knobs}),
        policy,
        critic,
        critic_warmup=0,
        iterations=10,
        seed=5,
        num_shards=num_shards,
        ranks=ranks,
    )
    stats = asdict(ppo.update(batch, 0))
    told = [float(value) for name, value in stats.items() if name != "seconds"]
    return {"before": before, "after": weights(policy, critic).numpy(), "stats": np.array(told)}


if __name__ == "__main__":
    job = join(NUM_SHARDS)
    found = updated(job) | {f"rescored_{k}": v for k, v in updated(job, old_log_probs="rescored").items()}
    save_file(found, Path(sys.argv[1]) / f"{job.rank}.safetensors")
    job.leave()
