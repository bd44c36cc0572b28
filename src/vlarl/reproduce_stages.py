"""One stage of a run again, from what the run recorded: its physics and pixels, or an update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlarl.assembly import build_parts, build_suite
from vlarl.errors import AssetError
from vlarl.policies.protocol import Sampled
from vlarl.recipe.schema import Recipe
from vlarl.recorder import parameters_digest, restore
from vlarl.registry import build
from vlarl.reproduce_reference import Reference
from vlarl.rollout_episodes import Assignment, collector
from vlarl.run import checkpoint
from vlarl.run.episodes import read_arrays
from vlarl.suites.pool import Pool
from vlarl.suites.slots import unpack_slots
from vlarl.types import Batch, Observation

PHYSICS_STAGES = ("tasks", "inits", "actions", "states", "pixels")


class _RecordedPool(Pool):
    """A pool that knows which group is being decided for, and how often it has been."""

    def prepare_iteration(self) -> None:
        self.group, self.sent = 0, [0] * len(self.groups)

    def observation(self, group: int) -> Observation:
        self.group = group
        return super().observation(group)

    def send(self, group: int, actions: np.ndarray) -> None:
        self.sent[group] += 1
        super().send(group, actions)

    def place(self) -> tuple[slice, int]:
        """Slots and step of the decision that is being made."""
        return self.groups[self.group], self.sent[self.group]


class _RecordedPolicy:
    """Decides what was decided then."""

    num_action_tokens = 7
    num_bins = 256
    feature_size = 1
    action_convention = ""
    identity: Mapping[str, Any] = {}

    def __init__(self, pool: _RecordedPool) -> None:
        self._pool = pool
        self.tokens = self.actions = np.zeros(0)

    def prepare(self, observation: Observation, *, among: Any = ()) -> int:
        return len(observation.instructions)

    def sample(self, inputs: int, *, temperature: float, uniforms: Any) -> Sampled:
        slots, step = self._pool.place()
        tokens = torch.from_numpy(self.tokens[slots, step].astype(np.int64))
        return Sampled(tokens=tokens, log_prob=torch.zeros(inputs), feature=torch.zeros(inputs, 1))

    def features(self, inputs: int, *, adapter: str = "policy") -> Tensor:
        return torch.zeros(inputs, 1)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        slots, step = self._pool.place()
        chosen: np.ndarray = self.actions[slots, step]
        return chosen


class _NoCritic(nn.Module):
    adapter = "policy"
    caches_features = False

    def value(self, feature: Tensor) -> Tensor:
        return feature[:, 0]


def replayed(reference: Reference, recipe: Recipe, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Run iterations ``start`` .. ``stop`` - 1 on their recorded actions; events with the digests of those stages.

    ``start`` is 0 or an iteration with a checkpoint. No policy decides and nothing is updated.
    AssetError (R367) where the run did not keep its episodes.
    """
    suite = build_suite(recipe)
    num_inits = [suite.num_inits(task.index, "train") for task in suite.tasks()]
    curriculum = build(recipe.curriculum, num_inits=num_inits, seed=recipe.seed)
    assignment = Assignment(recipe.train.rollout, curriculum.choose)
    collect = collector(recipe.train.rollout, assignment, recipe.suite.num_envs, suite.tasks())
    pool = _RecordedPool(recipe.suite, suite.tasks(), suite.conventions.image_size, assignment)
    policy = _RecordedPolicy(pool)
    with pool:
        pool.prepare_iteration()
        if start:
            found = checkpoint.load(reference.folder.checkpoints / f"{start:06d}")
            curriculum.load(found.state["curriculum"])
            pool.restore(unpack_slots(found.arrays("slots")))
        else:
            pool.start()
        for iteration in range(start, stop):
            arrays = _arrays(reference, iteration)
            policy.tokens, policy.actions = arrays["tokens"], arrays["actions"]
            pool.prepare_iteration()
            rollout = collect(
                policy,
                _NoCritic(),
                pool,
                instructions=tuple(task.instruction for task in suite.tasks()),
                seed=recipe.seed,
                temperature=1.0,
                ledger={"infer_seconds": 0.0},
            )
            curriculum.learn(rollout)
            yield {"iteration": iteration, "chain": "", "digests": asdict(rollout.digests)}


def updated(reference: Reference, recipe: Recipe, iteration: int) -> dict[str, Any]:
    """The update of one iteration again, from its stored batch and the checkpoint before it.

    AssetError (R367) where batch or checkpoint was not kept.
    """
    path = reference.folder.batches / f"{iteration:06d}.safetensors"
    folder = reference.folder.checkpoints / f"{iteration:06d}"
    for needed, knob in ((path, "run.batches"), (folder, "run.keep")):
        if not needed.exists():
            raise _not_kept(reference, needed, knob)
    parts = build_parts(recipe)
    restore(parts, checkpoint.load(folder, policy=parts.policy.identity))
    if parts.critic.caches_features:
        raise _not_kept(reference, path, "critic.kind")
    batch = _batch(path, parts.instructions, recipe.train.temperature_at(iteration))
    parts.ppo.update(batch, iteration)
    return {"iteration": iteration, "chain": "", "digests": {"parameters": parameters_digest(parts)}}


def update_iterations(reference: Reference) -> list[int]:
    """Iterations whose update can be done again: batch and checkpoint before it are there."""
    stored = {int(path.stem) for path in reference.folder.batches.glob("[0-9]*.safetensors") if path.stem.isdigit()}
    return sorted(stored & set(reference.checkpoints()))


def _batch(path: Path, instructions: tuple[str, ...], temperature: float) -> Batch:
    from safetensors.numpy import load_file

    return Batch(**load_file(path), instructions=instructions, features=None, temperature=temperature)


def _arrays(reference: Reference, iteration: int) -> dict[str, np.ndarray]:
    arrays = read_arrays(reference.folder.episodes, iteration)
    if arrays is None:
        raise _not_kept(reference, reference.folder.episodes / f"{iteration:06d}.safetensors", "run.episodes")
    return arrays


def _not_kept(reference: Reference, path: Path, knob: str) -> AssetError:
    return AssetError(
        f"run {reference.id} did not keep what this stage begins with: {path.name} of {path.parent.name}/",
        code="R367",
        place=str(path),
        hint=f"`{knob}` decides about it; `vlarl reproduce {reference.folder.path}` without `--stage` needs none of it",
    )
