"""Trajectory-level PPO: one ratio and one value per control step.

``log pi(a|o)`` is the sum over the action tokens (VLA-RL eq. 1), the surrogate is clipped on that sum
(eq. 2). The old log-probabilities are never touched after the first update of an iteration.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlarl.distributed import ALONE, Ranks
from vlarl.errors import RecipeError, RunError
from vlarl.policies.protocol import Critic, Policy
from vlarl.recipe.specs.learning import PpoSpec
from vlarl.seeding import generator
from vlarl.types import Batch, Observation, UpdateStats


@dataclass(frozen=True)
class Minibatch:
    """M steps of a batch as tensors; ``rows`` are their places in the batch, all with their frames here."""

    batch: Batch
    rows: np.ndarray  # (M,) int64

    def __len__(self) -> int:
        return len(self.rows)

    def observation(self) -> Observation:
        instructions = tuple(self.batch.instructions[task] for task in self.batch.tasks[self.rows])
        return Observation(images=self.batch.images[self.rows - self.batch.first_row], instructions=instructions)

    def tensor(self, field: str) -> Tensor:
        """(M, ...) of an array that covers the whole batch."""
        return torch.from_numpy(getattr(self.batch, field)[self.rows])

    def features(self) -> Tensor:
        """(M, D) as cached in the rollout."""
        assert self.batch.features is not None
        return torch.from_numpy(self.batch.features[self.rows - self.batch.first_row])

    def split(self, size: int | None) -> Iterator[Minibatch]:
        """Micro-batches of at most ``size`` steps."""
        size = size or len(self)
        for start in range(0, len(self), size):
            yield Minibatch(self.batch, self.rows[start : start + size])


def policy_loss(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Clipped surrogate, per step: -min(r A, clip(r, 1 - c, 1 + c) A)."""
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Half squared error, per step; the worse of the free and the clipped prediction."""
    free = (values - returns).square()
    if clip is None:
        return 0.5 * free
    limited = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum(free, (limited - returns).square())


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """1 - Var(returns - values) / Var(returns); 0 where returns do not vary."""
    variance = float(returns.var())
    return 1.0 - float((returns - values).var()) / variance if variance > 0 else 0.0


def _check_numbers(batch: Batch) -> None:
    """Before the first step: a bad row of a later minibatch would otherwise be found when earlier ones have moved."""
    for name in ("old_log_probs", "old_values", "advantages", "returns"):
        bad = np.flatnonzero(~np.isfinite(getattr(batch, name)))
        if len(bad):
            raise RunError(
                f"`{name}` of the rollout holds {len(bad)} values that are not numbers, the first at step {bad[0]}",
                code="X510",
                hint="lower ppo.lr or ppo.max_grad_norm; `vlarl report` shows when gradients began to grow",
            )


def _check_groups(spec: PpoSpec, groups: Mapping[str, Sequence[object]]) -> None:
    for name in spec.group_lr:
        if name not in groups:
            raise RecipeError(
                f"`ppo.group_lr` names `{name}`, which is no group of the policy's trained weights",
                code="R219",
                place=f"ppo.group_lr.{name}",
                hint="the groups are " + ", ".join(groups),
            )


class Ppo:
    """The update: optimizers of policy and critic, and what one iteration does with them.

    A batch is ``num_shards`` equal parts; every minibatch has equally many steps of each, and ``ranks`` shares the
    parts out. Each process adds up the gradients of its parts, then all add up theirs: the same sums in another order.
    """

    def __init__(
        self,
        spec: PpoSpec,
        policy: Policy,
        critic: Critic,
        *,
        critic_warmup: int,
        iterations: int,
        seed: int,
        num_shards: int = 1,
        ranks: Ranks = ALONE,
    ) -> None:
        self.spec = spec
        self._num_shards, self._ranks = num_shards, ranks
        self._policy, self._critic, self._seed = policy, critic, seed
        self._critic_warmup, self._iterations = critic_warmup, iterations
        self._policy_parameters = [p for group in policy.trainable_groups().values() for p in group]
        self._critic_parameters = [p for group in critic.trainable_groups().values() for p in group]
        groups = policy.trainable_groups()
        _check_groups(spec, groups)
        self._factors = [spec.group_lr.get(name, 1.0) for name in groups]
        self.optimizers = {
            "policy": torch.optim.AdamW(
                [{"params": group} for group in groups.values()], lr=spec.lr, eps=spec.adam_eps, weight_decay=0.0
            ),
            "critic": torch.optim.AdamW(self._critic_parameters, lr=spec.value_lr, eps=spec.adam_eps, weight_decay=0.0),
        }

    def update(self, batch: Batch, iteration: int) -> UpdateStats:
        """Some epochs of minibatches over ``batch``; raises RunError before any step on bad numbers."""
        if len(batch) == 0:  # every group was dropped
            return UpdateStats.of_nothing()
        started = perf_counter()
        trains_policy = iteration >= self._critic_warmup
        if self.spec.old_log_probs == "rescored" and trains_policy:
            batch = self._rescored(batch)
        _check_numbers(batch)
        self._set_learning_rates(iteration)
        sums: dict[str, list[float]] = defaultdict(list)
        epochs_done = 0
        for epoch in range(self.spec.epochs):
            if not self._epoch(batch, iteration, epoch, trains_policy, sums):
                break
            epochs_done += 1
        mean = {name: float(np.mean(values)) for name, values in sums.items()}
        return UpdateStats(
            policy_loss=mean.get("policy_loss", 0.0),
            value_loss=mean["value_loss"],
            entropy=mean.get("entropy", 0.0),
            approx_kl=mean.get("approx_kl", 0.0),
            clip_fraction=mean.get("clip_fraction", 0.0),
            explained_variance=explained_variance(batch.old_values, batch.returns),
            policy_grad_norm=mean.get("policy_grad_norm", 0.0),
            critic_grad_norm=mean.get("critic_grad_norm", 0.0),
            first_ratio_error=sums["ratio_error"][0] if trains_policy else 0.0,
            ratio_spread=sums["ratio_error"][-1] if trains_policy else 0.0,
            num_minibatches=len(sums["value_loss"]),
            epochs_done=epochs_done,
            policy_updated=trains_policy,
            seconds=perf_counter() - started,
        )

    def _epoch(
        self, batch: Batch, iteration: int, epoch: int, trains_policy: bool, sums: dict[str, list[float]]
    ) -> bool:
        """One pass; False when ``target_kl`` ended it."""
        for minibatch in self._minibatches(batch, iteration, epoch):
            measured = self._accumulate(minibatch, trains_policy)
            for name, value in measured.items():
                sums[name].append(value)
            if trains_policy:
                self._check_first_ratio(sums["ratio_error"])
                if self.spec.target_kl is not None and measured["approx_kl"] > 1.5 * self.spec.target_kl:
                    return False
            norms = self._step(trains_policy)
            for name, value in norms.items():
                sums[name].append(value)
        return True

    def _minibatches(self, batch: Batch, iteration: int, epoch: int) -> Iterator[list[Minibatch]]:
        """Minibatches in this epoch's order: the part of each shard of this process."""
        shards, size = self._own_rows(batch), self.spec.minibatch_size // self._num_shards
        orders = []
        for shard, rows in shards.items():
            index = (iteration, epoch) if self._num_shards == 1 else (iteration, epoch, shard)
            orders.append(rows[generator(self._seed, "minibatch", *index).permutation(len(rows))])
        for start in range(0, len(batch) // self._num_shards, size):
            yield [Minibatch(batch, order[start : start + size]) for order in orders]

    def _own_rows(self, batch: Batch) -> dict[int, np.ndarray]:
        """Rows of each shard of this process."""
        rows, rest = divmod(len(batch), self._num_shards)
        assert rest == 0, f"{len(batch)} steps in {self._num_shards} shards"
        return {shard: np.arange(shard * rows, (shard + 1) * rows) for shard in self._ranks.shards(self._num_shards)}

    def _accumulate(self, parts: Sequence[Minibatch], trains_policy: bool) -> dict[str, float]:
        """Gradients of one minibatch, micro-batch by micro-batch; equal to the whole within rounding."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        totals: dict[str, float] = defaultdict(float)
        size = len(parts[0]) * self._num_shards
        for micro in (micro for part in parts for micro in part.split(self.spec.micro_batch_size)):
            share = len(micro) / size
            loss, measured = self._losses(micro) if trains_policy else self._critic_losses(micro)
            if not torch.isfinite(loss):
                raise RunError(
                    "the PPO loss is not a number",
                    code="X510",
                    hint="lower ppo.lr or ppo.max_grad_norm; `vlarl report` shows when gradients began to grow",
                )
            (loss * share).backward()
            for name, value in measured.items():
                totals[name] = max(totals[name], value) if name == "ratio_error" else totals[name] + share * value
        self._ranks.sum_gradients([*self._critic_parameters, *(self._policy_parameters if trains_policy else ())])
        return self._ranks.totals(totals, largest=("ratio_error",))

    def _losses(self, micro: Minibatch) -> tuple[Tensor, dict[str, float]]:
        spec = self.spec
        inputs = self._policy.prepare(micro.observation())
        scores = self._policy.score(inputs, micro.tensor("tokens"), temperature=micro.batch.temperature)
        log_ratio = scores.log_prob - micro.tensor("old_log_probs")
        surrogate = policy_loss(log_ratio, micro.tensor("advantages"), spec.clip).mean()
        feature = scores.feature if self._critic.adapter == "policy" else self._feature(micro, inputs)
        values = self._critic.value(feature)
        error = value_loss(values, micro.tensor("old_values"), micro.tensor("returns"), spec.value_clip).mean()
        entropy = scores.entropy.mean()
        loss = surrogate + spec.value_coef * error - spec.entropy_bonus * entropy
        with torch.no_grad():
            ratio = log_ratio.exp()
            measured = {
                "policy_loss": surrogate.item(),
                "value_loss": error.item(),
                "entropy": entropy.item(),
                "approx_kl": (ratio - 1.0 - log_ratio).mean().item(),
                "clip_fraction": ((ratio - 1.0).abs() > spec.clip).float().mean().item(),
                "ratio_error": (ratio - 1.0).abs().max().item(),
            }
        return loss, measured

    def _critic_losses(self, micro: Minibatch) -> tuple[Tensor, dict[str, float]]:
        inputs = None if self._critic.caches_features else self._policy.prepare(micro.observation())
        values = self._critic.value(self._feature(micro, inputs))
        error = value_loss(values, micro.tensor("old_values"), micro.tensor("returns"), self.spec.value_clip).mean()
        return self.spec.value_coef * error, {"value_loss": error.item()}

    def _feature(self, micro: Minibatch, inputs: Any) -> Tensor:
        """(M, D) that the critic reads, with a gradient only into weights of its own."""
        if self._critic.caches_features:
            return micro.features()
        with torch.set_grad_enabled(self._critic.adapter == "critic"):
            return self._policy.features(inputs, adapter=self._critic.adapter)

    def _step(self, trains_policy: bool) -> dict[str, float]:
        norms = {"critic_grad_norm": self._clip(self._critic_parameters)}
        if trains_policy:
            norms["policy_grad_norm"] = self._clip(self._policy_parameters)
        if not all(np.isfinite(norm) for norm in norms.values()):
            raise RunError("a gradient is not a number", code="X511", hint="lower ppo.lr or set determinism: strict")
        self.optimizers["critic"].step()
        if trains_policy:
            self.optimizers["policy"].step()
        return norms

    def _clip(self, parameters: list[torch.nn.Parameter]) -> float:
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.spec.max_grad_norm))

    def _check_first_ratio(self, errors: list[float]) -> None:
        if len(errors) == 1 and errors[0] > self.spec.ratio_tolerance:
            raise RunError(
                f"the first minibatch's PPO ratio is off 1 by {errors[0]:.2g}, beyond ppo.ratio_tolerance "
                f"({self.spec.ratio_tolerance:.2g}): rollout and update do not compute the same probabilities",
                code="X512",
                hint="try --set ppo.old_log_probs=rescored; if that passes, sampling and scoring differ",
            )

    def _rescored(self, batch: Batch) -> Batch:
        """The batch with log-probabilities of the training code path, before any update, where frames are here."""
        rescored = batch.old_log_probs.copy()
        size = self.spec.micro_batch_size or self.spec.minibatch_size // self._num_shards
        with torch.no_grad():
            for micro in (m for rows in self._own_rows(batch).values() for m in Minibatch(batch, rows).split(size)):
                inputs = self._policy.prepare(micro.observation())
                scores = self._policy.score(inputs, micro.tensor("tokens"), temperature=batch.temperature)
                rescored[micro.rows] = scores.log_prob.numpy()
        return replace(batch, old_log_probs=rescored)

    def _set_learning_rates(self, iteration: int) -> None:
        left = 1.0 - iteration / self._iterations if self.spec.lr_decay == "linear" else 1.0
        risen = min(1.0, (iteration - self._critic_warmup + 1) / (self.spec.lr_warmup + 1))
        for group, factor in zip(self.optimizers["policy"].param_groups, self._factors, strict=True):
            group["lr"] = self.spec.lr * factor * risen * left
        for group in self.optimizers["critic"].param_groups:
            group["lr"] = self.spec.value_lr * left
