"""Behaviour cloning: next-token likelihood of the demonstrated action tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vlarl.errors import RunError
from vlarl.policies.protocol import Policy
from vlarl.recipe.specs.learning import ImitationSpec
from vlarl.seeding import generator
from vlarl.types import ACTION_SIZE, Demonstrations


@dataclass(frozen=True, kw_only=True)
class ImitationStats:
    """How the cloning went; losses are means per token."""

    losses: tuple[float, ...]  # one per update
    accuracy: float  # share of tokens that are the most likely one, last tenth of the updates


def learning_rate(spec: ImitationSpec, update: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if update < spec.warmup_updates:
        return spec.lr * (update + 1) / spec.warmup_updates
    progress = (update - spec.warmup_updates) / max(1, spec.updates - spec.warmup_updates)
    return spec.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def _targets(tokens: np.ndarray, demonstrations: Demonstrations, rows: np.ndarray, chunk: int) -> np.ndarray:
    """(M, 7 K) tokens of the ``chunk`` = K steps from each of ``rows`` (M,) on; past an episode's end its last step."""
    if chunk == 1:
        own: np.ndarray = tokens[rows]
        return own
    assert demonstrations.last_rows is not None, "a chunk needs to know where an episode ends"
    window = np.minimum(rows[:, None] + np.arange(chunk), demonstrations.last_rows[rows][:, None])
    chunks: np.ndarray = tokens[window].reshape(len(rows), -1)
    return chunks


def clone(
    policy: Policy,
    demonstrations: Demonstrations,
    spec: ImitationSpec,
    *,
    seed: int,
    progress: Callable[[int, float], None] = lambda update, loss: None,
) -> ImitationStats:
    """Train ``policy`` in place for ``spec.updates`` gradient steps; RunError before a step on bad numbers."""
    assert np.isfinite(demonstrations.actions).all(), "actions are finite: the reader of demonstrations checks it"
    parameters = [p for group in policy.trainable_groups().values() for p in group]
    optimizer = torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
    tokens = policy.encode(demonstrations.actions)
    chunk = max(1, policy.num_action_tokens // ACTION_SIZE)
    order, losses, hits = np.empty(0, np.int64), [], []
    for update in range(spec.updates):
        if len(order) < spec.batch_size:
            epoch = generator(seed, "imitation-order", update).permutation(len(demonstrations))
            order = np.concatenate([order, *[epoch] * (1 + spec.batch_size // len(epoch))])
        rows, order = order[: spec.batch_size], order[spec.batch_size :]
        target = torch.from_numpy(_targets(tokens, demonstrations, rows, chunk))
        log_probs = policy.token_log_probs(policy.prepare(demonstrations.observation(rows)), target)
        loss = -log_probs.gather(2, target[..., None]).mean()
        if not torch.isfinite(loss):
            raise RunError("the imitation loss is not a number", code="X520", hint="lower imitation.lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, spec.max_grad_norm)
        if not torch.isfinite(norm):
            raise RunError("an imitation gradient is not a number", code="X520", hint="lower imitation.lr")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, update)
        optimizer.step()
        losses.append(loss.item())
        hits.append(float((log_probs.detach().argmax(dim=-1) == target).float().mean()))
        progress(update, losses[-1])
    tail = max(1, spec.updates // 10)
    return ImitationStats(losses=tuple(losses), accuracy=float(np.mean(hits[-tail:])))
