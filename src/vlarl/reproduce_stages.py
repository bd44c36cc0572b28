"""One stage of a run again, from what the run recorded: its physics and pixels, or an update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from vlarl.assembly import build_parts, build_suite
from vlarl.digest import array_digest, json_digest
from vlarl.errors import AssetError, DriftError, UsageError
from vlarl.policies.protocol import Critic, Policy, Sampled
from vlarl.recipe.paths import expanded
from vlarl.recipe.schema import Recipe
from vlarl.recorder import parameters_digest, restore
from vlarl.registry import build
from vlarl.reproduce_chain import ROLLOUT, WARM_START, Drift, drift_between
from vlarl.reproduce_reference import Reference
from vlarl.rollout_episodes import Assignment, collector
from vlarl.run import checkpoint
from vlarl.run.episodes import read_arrays, read_rows
from vlarl.seeding import apply_determinism
from vlarl.suites.pool import Pool
from vlarl.suites.slots import unpack_slots
from vlarl.types import Batch, Episode, Observation
from vlarl.warmstart import warm_start

_HINT = "`{}` decides about it; without `--stage` none of it is needed"
AMBIGUOUS = ("choice of tasks", "initial states", "actions")  # stages that may differ because a later one did before
Stage = Literal["physics", "pixels", "update"]
REPLAYED_STAGES = ("tasks", "inits", "states", "pixels")


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
    """Decides what was decided then; where an episode lasts longer now than it did, zeros."""

    num_bins = 256
    feature_size = 1
    action_convention = ""
    identity: Mapping[str, Any] = {}

    def __init__(self, pool: _RecordedPool) -> None:
        self._pool = pool
        self.tokens = self.actions = np.zeros((0, 0, 0))

    @property
    def num_action_tokens(self) -> int:
        return int(self.tokens.shape[2])

    def prepare(self, observation: Observation, *, among: Any = ()) -> int:
        return len(observation.instructions)

    def sample(self, inputs: int, *, temperature: float, uniforms: Any) -> Sampled:
        tokens = torch.from_numpy(self._recorded(self.tokens).astype(np.int64))
        return Sampled(tokens=tokens, log_prob=torch.zeros(inputs), feature=torch.zeros(inputs, 1))

    def features(self, inputs: int, *, adapter: str = "policy") -> Tensor:
        return torch.zeros(inputs, 1)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return self._recorded(self.actions)

    def _recorded(self, arrays: np.ndarray) -> np.ndarray:
        slots, step = self._pool.place()
        found: np.ndarray = arrays[slots, step] if step < arrays.shape[1] else np.zeros_like(arrays[slots, 0])
        return found


class _NoCritic(nn.Module):
    adapter = "policy"
    caches_features = False

    def value(self, feature: Tensor) -> Tensor:
        return feature[:, 0]


def iterations_to_repeat(
    reference: Reference, stage: Stage | None, from_checkpoint: int | None, num_iterations: int | None
) -> tuple[int, ...]:
    """UsageError (U270) where the run did not do them, AssetError (R367) where it did not keep what they begin with."""
    recorded = len(reference.links)
    start = from_checkpoint or 0
    if start >= recorded:
        raise UsageError(
            f"run {reference.id} did {recorded} iterations: after checkpoint {start} there is none to compare",
            code="U270",
            hint=f"its checkpoints are {_listed(reference.checkpoints())}",
        )
    if stage is not None and (reference.published or not reference.names_stages):
        what = (
            "a published run has no episodes, batches or checkpoints" if reference.published else "no digests of stages"
        )
        raise AssetError(
            f"`--stage` needs more of run {reference.id} than there is: {what}",
            code="R367",
            place=str(reference.folder.path),
            hint="name the run folder itself, or leave `--stage` out",
        )
    if from_checkpoint is not None and stage != "update" and start not in reference.checkpoints():
        hint = f"there are {_listed(reference.checkpoints())}; `run.keep` and `run.checkpoint_every` decide about it"
        if reference.published:
            hint = "it was published without any; leave `--from-checkpoint` out"
        raise not_kept(reference, reference.folder.checkpoints / f"{start:06d}", hint)
    count = recorded - start if num_iterations is None else num_iterations
    if start + count > recorded:
        raise UsageError(
            f"run {reference.id} did {recorded} iterations: {count} from {start} on cannot be compared",
            code="U270",
            hint=f"--iterations {recorded - start} takes all of them",
        )
    return (
        tuple(range(start, start + count))
        if stage != "update"
        else _updates(reference, from_checkpoint, num_iterations)
    )


def _updates(reference: Reference, only: int | None, count: int | None) -> tuple[int, ...]:
    """Iterations whose update can be done again: there are the batch and the weights before it."""
    weights = {0, *reference.checkpoints()}
    known = [k for k in range(len(reference.links)) if k in weights and _batch_path(reference, k).is_file()]
    found = [k for k in known if only in (None, k)][:count]
    if not found:
        raise UsageError(
            f"no update of run {reference.id} can be repeated"
            if only is None
            else f"the update of iteration {only} of run {reference.id} cannot be repeated",
            code="U270",
            hint=f"batches and the weights before them are there for {_listed(known)}; "
            "`run.batches` and `run.keep` decide about it",
        )
    return tuple(found)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) if numbers else "none"


def replayed(reference: Reference, recipe: Recipe, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Run iterations ``start`` .. ``stop`` - 1 on their recorded actions; events with digests and ``episodes``.

    ``start`` is 0 or an iteration with a checkpoint. No policy decides and nothing is updated.
    AssetError: R367 where the run did not keep its episodes, R368 where they are not those of its chain.
    """
    apply_determinism(recipe.determinism, recipe.train.rollout_threads)
    suite = build_suite(recipe)
    tasks = suite.tasks()
    num_inits = [suite.num_inits(task.index, "train") for task in tasks]
    curriculum = build(recipe.curriculum, num_inits=num_inits, seed=recipe.seed)
    assignment = Assignment(recipe.train.rollout, curriculum.choose)
    collect = collector(recipe.train.rollout, assignment, recipe.suite.num_envs, tasks)
    pool = _RecordedPool(recipe.suite, tasks, suite.conventions.image_size, assignment)
    policy = _RecordedPolicy(pool)
    with pool:
        if start:
            found = checkpoint.load(reference.folder.checkpoints / f"{start:06d}")
            curriculum.load(found.state["curriculum"])
            pool.restore(unpack_slots(found.arrays("slots")))
        else:
            pool.start()
        for iteration in range(start, stop):
            arrays = _arrays(reference, recipe, iteration)
            policy.tokens, policy.actions = arrays["tokens"], arrays["actions"]
            pool.prepare_iteration()
            rollout = collect(
                cast(Policy, policy),
                cast(Critic, _NoCritic()),
                pool,
                instructions=tuple(task.instruction for task in tasks),
                seed=recipe.seed,
                temperature=1.0,
                ledger={"infer_seconds": 0.0},
            )
            curriculum.learn(rollout)
            digests = asdict(rollout.digests)
            yield {"iteration": iteration, "chain": "", "digests": digests, "episodes": rollout.episodes}


def replay_drift(reference: Reference, event: Mapping[str, Any], *, pixels: bool = True) -> Drift | None:
    """Between an iteration and what ``replayed`` gave, by the stage that parted first.

    Episodes that end otherwise are followed by others, so different tasks need not mean another choice of tasks: it is
    the physics where an episode of the same task and init state ended otherwise before.
    """
    link = reference.link(event["iteration"])
    drift = drift_between(link, event, stages=REPLAYED_STAGES if pixels else REPLAYED_STAGES[:-1])
    if drift is None or drift.stage not in ("choice of tasks", "initial states"):
        return drift
    rows = [row for row in read_rows(reference.folder.episodes) if row["iteration"] == link.iteration]
    if _ended_otherwise(rows, event["episodes"]):
        return replace(drift, stage="physics", note="under the recorded actions; episodes end otherwise")
    return drift


def _ended_otherwise(rows: Sequence[Mapping[str, Any]], episodes: Sequence[Episode]) -> bool:
    """Whether some slot's first difference is how an episode ended, and not which episode it was."""
    then = {(row["slot"], row["index"]): row for row in rows}
    now = {(episode.slot, episode.index): episode for episode in episodes}
    settled: set[int] = set()  # slots whose first difference is known
    for slot, index in sorted(then.keys() | now.keys()):
        row, episode = then.get((slot, index)), now.get((slot, index))
        if slot in settled:
            continue
        if row is None or episode is None:
            return True  # it went on here and ended there
        spec = episode.spec
        if (row["task"], row["init"], row["seed"]) != (spec.task, spec.init, spec.seed):
            settled.add(slot)
        elif (row["length"], row["success"]) != (episode.length, episode.success):
            return True
    return False


def narrowed(reference: Reference, recipe: Recipe, drift: Drift) -> Drift:
    """Which stage of a rollout parted first, by replaying the recorded actions: all of them follow from one another.

    A frame that differs by one pixel leads to other actions, those to other states and, once an episode ends
    otherwise, to other tasks. With the actions given, each stage shows itself. Recorded demonstrations follow from
    physics and pixels too, so that a warm start that differs is explained in the same way.
    """
    if drift.stage == WARM_START and recipe.imitation is not None and recipe.imitation.demonstrations is None:
        found, _ = _replayed_up_to(reference, recipe, 0)
        if found is not None:
            note = (
                f"its demonstrations were recorded under another simulation: in iteration 0, {found.stage} differs too"
            )
            return replace(drift, note=f"{note} under the recorded actions")
    if drift.iteration is None or drift.stage not in AMBIGUOUS:
        return drift
    found, is_kept = _replayed_up_to(reference, recipe, drift.iteration)
    if found is not None:
        return replace(found, note=found.note or "under the recorded actions")
    if not is_kept:
        note = "the run kept no episodes, without which the first of " + ", ".join(drift.differing) + " is not known"
        return Drift(iteration=drift.iteration, stage=ROLLOUT, equal=drift.equal, note=note)
    note = "under the recorded actions physics and pixels are equal, so the policy decides otherwise"
    return Drift(iteration=drift.iteration, stage="actions", note=note, replayed=True)


def _replayed_up_to(reference: Reference, recipe: Recipe, iteration: int) -> tuple[Drift | None, bool]:
    """The first drift under the recorded actions, and whether there are any."""
    start = max((k for k in reference.checkpoints() if k <= iteration), default=0)
    try:
        for event in replayed(reference, recipe, start, iteration + 1):
            found = replay_drift(reference, event)
            if found is not None:
                return found, True
    except DriftError as error:
        return restored_otherwise(start, error), True
    except AssetError as error:
        if error.code != "R367":
            raise
        return None, False
    return None, True


def restored_otherwise(iteration: int, error: DriftError) -> Drift:
    return Drift(iteration=iteration, stage="physics", note=f"the checkpoint cannot be restored: {error.message}")


def stage_again(
    reference: Reference, recipe: Recipe, stage: Stage, iterations: Sequence[int], done: Callable[[int], None]
) -> Drift | None:
    """One stage of ``iterations``, up to the first that differs; consecutive ones for physics and pixels."""
    if stage == "update":
        for iteration in iterations:
            drift = _updated(reference, recipe, iteration)
            if drift is not None:
                return drift
            done(iteration)
        return None
    try:
        for event in replayed(reference, recipe, iterations[0], iterations[-1] + 1):
            drift = replay_drift(reference, event, pixels=stage == "pixels")
            if drift is not None:
                return drift
            done(event["iteration"])
    except DriftError as error:
        return restored_otherwise(iterations[0], error)
    return None


def _updated(reference: Reference, recipe: Recipe, iteration: int) -> Drift | None:
    """The update of one iteration again, from its stored batch and the checkpoint before it or the warm start.

    AssetError (R367) where batch or checkpoint was not kept.
    """
    path = _batch_path(reference, iteration)
    folder = reference.folder.checkpoints / f"{iteration:06d}"
    if not path.is_file():
        raise not_kept(reference, path, _HINT.format("run.batches"))
    parts = build_parts(recipe)
    if parts.critic.caches_features:
        raise not_kept(reference, path, _HINT.format("critic.kind"))
    if checkpoint.is_checkpoint(folder):
        restore(parts, checkpoint.load(folder, policy=parts.policy.identity))
    elif iteration > 0:
        raise not_kept(reference, folder, _HINT.format("run.keep"))
    else:
        if recipe.imitation is not None:
            warm_start(parts.policy, recipe, parts.suite, expanded(recipe.run.cache))
        known = reference.start.get("parameters")
        if known is not None and known != parameters_digest(parts):
            return Drift(iteration=None, stage=WARM_START, note="the weights that the update begins with")
    batch = _batch(path, parts.instructions, recipe.train.temperature_at(iteration))
    parts.ppo.update(batch, iteration)
    event = {"digests": {"parameters": parameters_digest(parts)}}
    return drift_between(reference.link(iteration), event, stages=("parameters",))


def _batch_path(reference: Reference, iteration: int) -> Path:
    return reference.folder.batches / f"{iteration:06d}.safetensors"


def _batch(path: Path, instructions: tuple[str, ...], temperature: float) -> Batch:
    """A stored batch; frames that other processes of the job had lie in files of their own."""
    from safetensors.numpy import load_file

    arrays = load_file(path)
    others = [load_file(one)["images"] for one in sorted(path.parent.glob(f"{path.stem}-from-*{path.suffix}"))]
    images = np.concatenate([arrays.pop("images"), *others])
    return Batch(**arrays, images=images, instructions=instructions, features=None, temperature=temperature)


def _arrays(reference: Reference, recipe: Recipe, iteration: int) -> dict[str, np.ndarray]:
    arrays = read_arrays(reference.folder.episodes, iteration)
    path = reference.folder.episodes / f"{iteration:06d}.safetensors"
    if arrays is None:
        raise not_kept(reference, path, _HINT.format("run.episodes"))
    shards = [array_digest(each) for each in np.split(arrays["tokens"].astype(np.int64), recipe.suite.num_shards)]
    if (shards[0] if len(shards) == 1 else json_digest(shards)) != reference.link(iteration).digests["actions"]:
        raise AssetError(
            f"the record of run {reference.id} contradicts itself: {path.name} holds other actions than its chain",
            code="R368",
            place=str(path),
            hint="the file was changed or damaged after the run; restore it from a copy",
        )
    return arrays


def not_kept(reference: Reference, path: Path, hint: str) -> AssetError:
    return AssetError(
        f"run {reference.id} did not keep what this begins with: {path.name} of {path.parent.name}/",
        code="R367",
        place=str(path),
        hint=hint,
    )
