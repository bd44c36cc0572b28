"""Cross-field rules: what each section allows by itself but the recipe as a whole does not.

Each rule reads a valid recipe and yields findings; it knows nothing of files or text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.curriculum import SuccessBandCurriculumSpec
from vlarl.recipe.specs.policies import AdapterCriticSpec, FrozenCriticSpec, TinySpec
from vlarl.registry import suggest

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SUGGESTIONS = 100


@dataclass(frozen=True)
class Finding:
    """One rule's complaint. ``path`` is where to point, ``reads`` every value that plays a part."""

    code: str
    path: str
    message: str
    reads: tuple[str, ...]
    hint: str | None = None
    notes: tuple[str, ...] = ()
    severity: str = "error"


Rule = Callable[[Recipe], Iterator[Finding]]


def divisors(*factors: int) -> list[int]:
    """Those of the product of ``factors``, ascending. Takes the root of the largest factor, not of the product."""
    primes: Counter[int] = Counter()
    for rest in factors:
        prime = 2
        while prime * prime <= rest:
            while rest % prime == 0:
                primes[prime] += 1
                rest //= prime
            prime += 1
        if rest > 1:
            primes[rest] += 1
    found = [1]
    for prime, times in primes.items():
        found = [divisor * prime**power for divisor in found for power in range(times + 1)]
    return sorted(found)


def divisors_near(wanted: int, *factors: int) -> list[int]:
    """The divisors of a product next to ``wanted``: the largest below and the smallest above, where they exist."""
    found = divisors(*factors)
    below = [d for d in found if d < wanted]
    above = [d for d in found if d > wanted]
    return below[-1:] + above[:1]


def _nearest(wanted: int, *factors: int) -> str:
    near = divisors_near(wanted, *factors)
    return f"{near[0]} does" if len(near) == 1 else f"{near[0]} and {near[1]} are the nearest that do"


def _nearest_words(wanted: int, *factors: int) -> str:
    return " or ".join(map(str, divisors_near(wanted, *factors)))


def minibatches_fill_the_rollout(recipe: Recipe) -> Iterator[Finding]:
    if recipe.train.rollout.kind == "episodes":
        return  # episodes end when they end
    size, total = recipe.ppo.minibatch_size, recipe.rollout_size
    num_envs, num_steps = recipe.suite.num_envs, recipe.train.rollout.num_steps
    reads = ("ppo.minibatch_size", "train.rollout.num_steps", "suite.num_envs")
    arithmetic = f"{num_envs} envs × {num_steps} steps = {total}"
    if size > total:
        message = f"`ppo.minibatch_size` ({size}) is larger than the rollout ({arithmetic})"
        yield Finding("R201", reads[0], message, reads, hint=f"{total} takes the whole rollout at once")
    elif total % size:
        message = f"`ppo.minibatch_size` ({size}) does not divide the rollout ({arithmetic})"
        yield Finding("R201", reads[0], message, reads, hint=_nearest(size, num_envs, num_steps))


def micro_batches_fill_the_minibatch(recipe: Recipe) -> Iterator[Finding]:
    micro, mini = recipe.ppo.micro_batch_size, recipe.ppo.minibatch_size
    if micro is not None and mini % micro:
        message = f"`ppo.micro_batch_size` ({micro}) does not divide `ppo.minibatch_size` ({mini})"
        reads = ("ppo.micro_batch_size", "ppo.minibatch_size")
        yield Finding("R202", reads[0], message, reads, hint=_nearest(micro, mini))


def groups_are_equal(recipe: Recipe) -> Iterator[Finding]:
    if recipe.suite.num_envs % recipe.suite.num_shards:
        return  # R225 says so
    envs, groups = recipe.suite.num_envs // recipe.suite.num_shards, recipe.suite.num_groups
    if recipe.suite.num_shards > 1 and envs % groups:
        reads = ("suite.num_groups", "suite.num_envs", "suite.num_shards")
        message = f"`suite.num_groups` ({groups}) does not divide the {envs} slots of a shard"
        yield Finding("R203", reads[0], message, reads, hint=_nearest(groups, envs))
    elif envs % groups:
        message = f"`suite.num_groups` ({groups}) does not divide `suite.num_envs` ({envs})"
        near = [n for n in (envs - envs % groups, envs - envs % groups + groups) if n]
        hint = f"`suite.num_envs` can be {' or '.join(map(str, near))}, or choose {_nearest_words(groups, envs)} groups"
        yield Finding("R203", "suite.num_groups", message, ("suite.num_groups", "suite.num_envs"), hint=hint)


def shards_are_equal(recipe: Recipe) -> Iterator[Finding]:
    shards = recipe.suite.num_shards
    for path, total in (("suite.num_envs", recipe.suite.num_envs), ("ppo.minibatch_size", recipe.ppo.minibatch_size)):
        if total % shards:
            message = f"`suite.num_shards` ({shards}) does not divide `{path}` ({total})"
            near = [n for n in (total - total % shards, total - total % shards + shards) if n]
            hint = f"`{path}` can be {' or '.join(map(str, near))}, or choose {_nearest_words(shards, total)} shards"
            yield Finding("R225", "suite.num_shards", message, ("suite.num_shards", path), hint=hint)


def heads_share_the_width(recipe: Recipe) -> Iterator[Finding]:
    policy = recipe.policy
    if not isinstance(policy, TinySpec):
        return
    width, heads = policy.hidden_size, policy.num_heads
    reads = ("policy.num_heads", "policy.hidden_size")
    if width % heads or (width // heads) % 2:
        # Rotary embeddings pair the channels of a head.
        message = f"`policy.hidden_size` ({width}) cannot be split into {heads} heads of an even width"
        good = divisors(width // 2) if width % 2 == 0 else []
        near = sorted(sorted(good, key=lambda h: abs(h - heads))[:2])
        hint = f"`policy.num_heads` can be {' or '.join(map(str, near))}" if near else "make `policy.hidden_size` even"
        yield Finding("R204", reads[0], message, reads, hint=hint)


def something_is_trained(recipe: Recipe) -> Iterator[Finding]:
    warmup, iterations = recipe.train.critic_warmup, recipe.train.iterations
    if warmup >= iterations:
        message = (
            f"`train.critic_warmup` ({warmup}) leaves no iteration of `train.iterations` ({iterations}) for the policy"
        )
        hint = f"at most {iterations - 1} leaves one" if iterations > 1 else "0 trains the policy from the start"
        yield Finding("R205", "train.critic_warmup", message, ("train.critic_warmup", "train.iterations"), hint=hint)


def tasks_exist(recipe: Recipe) -> Iterator[Finding]:
    tasks = getattr(recipe.suite, "tasks", None)
    known = recipe.suite.known_tasks()
    seen: set[str] = set()
    for index, task in enumerate(tasks or ()):
        path, reads = f"suite.tasks.{index}", ("suite.tasks", "suite.name")
        if task in seen:
            yield Finding("R207", path, f"task `{task}` is listed twice", reads, hint="remove one of the two")
        elif known is not None and task not in known:
            # A suggestion takes its time, and nobody reads a thousand.
            close = suggest(task, known) if len(seen) < _SUGGESTIONS else None
            message = f"`{recipe.suite.name}` has no task `{task}`"
            hint = f"did you mean `{close}`?" if close else "leave `suite.tasks` out to use all of them"
            notes = () if close else (f"tasks of `{recipe.suite.name}`: {', '.join(known)}",)
            yield Finding("R206", path, message, reads, hint=hint, notes=notes)
        seen.add(task)


def rewards_differ(recipe: Recipe) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, reward in enumerate(recipe.rewards):
        if reward.kind in seen:
            message = f"reward `{reward.kind}` is listed twice; its parts could not be told apart in the breakdown"
            yield Finding("R208", f"rewards.{index}", message, ("rewards",), hint="add the weights up in one entry")
        seen.add(reward.kind)


def oracles_can_see(recipe: Recipe) -> Iterator[Finding]:
    for index, reward in enumerate(recipe.rewards):
        if reward.kind == "dense_oracle" and recipe.suite.kind != "tabletop":
            message = f"suite `{recipe.suite.kind}` cannot tell how far a task is from done, as `dense_oracle` needs"
            hint = "a process reward model judges pictures of any suite: `kind: process`"
            yield Finding("R237", f"rewards.{index}", message, ("rewards", "suite.kind"), hint=hint)


def warm_up_ends(recipe: Recipe) -> Iterator[Finding]:
    spec = recipe.imitation
    if spec is not None and spec.warmup_updates >= spec.updates:
        message = (
            f"`imitation.warmup_updates` ({spec.warmup_updates}) must be below `imitation.updates` ({spec.updates})"
        )
        reads = ("imitation.warmup_updates", "imitation.updates")
        yield Finding("R209", reads[0], message, reads, hint=f"a tenth of the updates would be {spec.updates // 10}")


def every_task_is_demonstrated(recipe: Recipe) -> Iterator[Finding]:
    spec, known = recipe.imitation, recipe.suite.known_tasks()
    tasks = getattr(recipe.suite, "tasks", None) or known
    if spec is not None and spec.demonstrations is None and tasks and spec.num_episodes < len(tasks):
        message = f"`imitation.num_episodes` ({spec.num_episodes}) is less than one for each of the {len(tasks)} tasks"
        reads = ("imitation.num_episodes", "suite.tasks", "suite.name")
        yield Finding("R210", reads[0], message, reads, hint=f"{len(tasks)} records one episode of each task")


def starts_from_something(recipe: Recipe) -> Iterator[Finding]:
    if recipe.imitation is None and isinstance(recipe.policy, TinySpec):
        message = "policy `tiny` starts from random weights when `imitation` is null: it will hardly ever see a reward"
        hint = "remove `imitation: null` to warm-start from the suite's scripted experts"
        yield Finding("R211", "imitation", message, ("imitation", "policy.kind"), hint=hint, severity="warning")


def temperature_has_a_use(recipe: Recipe) -> Iterator[Finding]:
    spec = recipe.evaluation
    if spec.decoding == "greedy" and spec.temperature != 1.0:
        message = f"`evaluation.temperature` ({spec.temperature:g}) does nothing with `decoding: greedy`"
        reads = ("evaluation.temperature", "evaluation.decoding")
        yield Finding(
            "R212", reads[0], message, reads, hint="remove it, or set `decoding: sampled`", severity="warning"
        )


def stored_batches_are_reached(recipe: Recipe) -> Iterator[Finding]:
    last = recipe.train.iterations - 1
    for index, iteration in enumerate(recipe.run.batches):
        if iteration > last:
            message = f"`run.batches` names iteration {iteration}, but the last is {last}"
            reads = ("run.batches", "train.iterations")
            hint = "iterations count from 0"
            yield Finding("R213", f"run.batches.{index}", message, reads, hint=hint, severity="warning")


def workers_have_slots(recipe: Recipe) -> Iterator[Finding]:
    suite = recipe.suite
    most = suite.slots_of_a_group()
    if suite.num_workers > max(most, type(suite).model_fields["num_workers"].default):
        message = f"`suite.num_workers` ({suite.num_workers}) exceeds the slots of a group ({most}): some would idle"
        reads = ("suite.num_workers", "suite.num_envs", "suite.num_groups", "suite.num_shards")
        yield Finding("R214", reads[0], message, reads, hint=f"{most} is the most that has work", severity="warning")


def strict_pixels(recipe: Recipe) -> Iterator[Finding]:
    if recipe.determinism == "strict" and recipe.suite.renderer == "egl":
        message = (
            "`determinism: strict` with `suite.renderer: egl`: pixels then repeat only on the same GPU model and driver"
        )
        reads = ("suite.renderer", "determinism")
        hint = "set `suite.renderer: osmesa` for pixels that repeat on any machine"
        yield Finding("R215", reads[0], message, reads, hint=hint, severity="warning")


def critics_have_base_weights(recipe: Recipe) -> Iterator[Finding]:
    if isinstance(recipe.critic, FrozenCriticSpec | AdapterCriticSpec):
        policy = recipe.policy
        if isinstance(policy, TinySpec) or getattr(policy, "lora", None) is None:
            message = (
                f"critic `{recipe.critic.kind}` reads the policy's base weights, "
                "and only a policy trained through adapters keeps them"
            )
            hint = "`critic: {kind: shared}` works with every policy"
            yield Finding("R223", "critic.kind", message, ("critic.kind", "policy.kind", "policy.lora"), hint=hint)


def checkpoints_are_pinned(recipe: Recipe) -> Iterator[Finding]:
    reference = getattr(recipe.policy, "checkpoint", "")
    name, _, commit = reference.partition("@")
    if recipe.determinism == "strict" and name.startswith("hf://") and not _COMMIT.fullmatch(commit):
        message = f"`determinism: strict` needs a commit of 40 hexadecimal digits with {name}"
        hint = f"copy it from the page's history and write {name}@COMMIT"
        yield Finding("R221", "policy.checkpoint", message, ("policy.checkpoint", "determinism"), hint=hint)


def bands_are_ordered(recipe: Recipe) -> Iterator[Finding]:
    spec = recipe.curriculum
    if isinstance(spec, SuccessBandCurriculumSpec) and spec.low > spec.high:
        message = f"`curriculum.low` ({spec.low:g}) is above `curriculum.high` ({spec.high:g})"
        reads = ("curriculum.low", "curriculum.high")
        yield Finding("R230", reads[0], message, reads, hint=f"at most {spec.high:g} leaves a band")


def a_way_back_is_kept(recipe: Recipe) -> Iterator[Finding]:
    if recipe.evaluation.guard.action == "rollback" and not recipe.run.keep.best:
        message = (
            "`evaluation.guard.action: rollback` goes back to the best checkpoint, which `run.keep.best` lets go of"
        )
        reads = ("evaluation.guard.action", "run.keep.best")
        yield Finding("R231", reads[0], message, reads, hint="set `run.keep.best: true`")


def groups_can_be_compared(recipe: Recipe) -> Iterator[Finding]:
    kind, rollout, warmup = recipe.ppo.advantage, recipe.train.rollout, recipe.train.critic_warmup
    if kind == "gae":
        return
    if rollout.kind != "episodes":
        message = f"`ppo.advantage: {kind}` compares whole episodes; `train.rollout.kind: steps` collects none"
        reads = ("ppo.advantage", "train.rollout.kind")
        yield Finding("R232", reads[0], message, reads, hint="set `train.rollout.kind: episodes`")
    elif rollout.group_size < 2:
        message = f"`ppo.advantage: {kind}` compares the episodes of a group, and groups of one have nothing to compare"
        reads = ("train.rollout.group_size", "ppo.advantage")
        yield Finding("R232", reads[0], message, reads, hint="8 is usual")
    if warmup:
        message = f"`train.critic_warmup` ({warmup}) trains a critic that `ppo.advantage: {kind}` does without"
        reads = ("train.critic_warmup", "ppo.advantage")
        yield Finding("R232", reads[0], message, reads, hint="set `train.critic_warmup: 0`")


def groups_fill_the_slots(recipe: Recipe) -> Iterator[Finding]:
    rollout, envs = recipe.train.rollout, recipe.suite.num_envs
    if rollout.kind != "episodes":
        return
    size, episodes = rollout.group_size, rollout.group_size * rollout.num_groups
    reads = ("train.rollout.group_size", "suite.num_envs")
    if envs % size:
        message = f"`train.rollout.group_size` ({size}) does not divide `suite.num_envs` ({envs})"
        yield Finding("R233", reads[0], message, reads, hint=_nearest(size, envs))
    elif episodes % envs:
        message = (
            f"{rollout.num_groups} groups of {size} are {episodes} episodes, no multiple of `suite.num_envs` ({envs})"
        )
        path = "train.rollout.num_groups"
        yield Finding("R233", path, message, (path, *reads), hint=f"a multiple of {envs // size} keeps every slot busy")
    if recipe.suite.num_shards > 1:
        message = "`train.rollout.kind: episodes` fills minibatches from all slots alike and so takes one shard"
        reads = ("suite.num_shards", "train.rollout.kind")
        yield Finding("R233", reads[0], message, reads, hint="set `suite.num_shards: 1`")


RULES: tuple[Rule, ...] = (
    minibatches_fill_the_rollout,
    micro_batches_fill_the_minibatch,
    groups_are_equal,
    shards_are_equal,
    heads_share_the_width,
    something_is_trained,
    tasks_exist,
    rewards_differ,
    oracles_can_see,
    warm_up_ends,
    every_task_is_demonstrated,
    starts_from_something,
    temperature_has_a_use,
    stored_batches_are_reached,
    workers_have_slots,
    strict_pixels,
    critics_have_base_weights,
    checkpoints_are_pinned,
    bands_are_ordered,
    a_way_back_is_kept,
    groups_can_be_compared,
    groups_fill_the_slots,
)


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Everything that any rule has to say about ``recipe``."""
    for rule in RULES:
        yield from rule(recipe)
