"""What a run does, how long it takes, and what it leaves on host memory and disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType

from vlarl.plan_machine import Rates
from vlarl.plan_model import FED_TOKENS, FP32, Costs
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.suites import LiberoSpec, SuiteSpec

# Control steps until truncation: the longest of a suite's tasks. A test compares them with the suites' own.
HORIZONS: Mapping[str, int] = MappingProxyType(
    {
        "tabletop_basic": 40,
        "tabletop_10": 120,
        "libero_spatial": 220,
        "libero_object": 280,
        "libero_goal": 300,
        "libero_10": 520,
        "libero_90": 400,
    }
)
# docs/results.md, per simulator process on one core of its own.
_TABLETOP_RATE = {"tabletop_basic": 2700.0, "tabletop_10": 1950.0}  # env steps per second, 64 px
# 256 px, reset and settle steps included; `coarse` by its frame's share of the time of a `fast` step.
_LIBERO_RATE = {"exact": 17.3 / 2, "fast": 47.1 / 2, "coarse": 64.0 / 2}
_TABLETOP_WORKER = 220 * 10**6  # bytes
_LIBERO_WORKER = 1370 * 2**20  # bytes, with one compiled task
_LIBERO_TASK = 600 * 10**6  # bytes of each further one
_TRAINER = 900 * 10**6  # bytes: interpreter, torch, simulator libraries
_ITEM = 8  # bytes of a stored pointer-sized number


@dataclass(frozen=True)
class Item:
    """Some bytes, and why they are there."""

    name: str
    bytes: int
    how: str = ""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Counts of a whole run and FLOPs of one iteration."""

    iterations: int
    chunk: int  # control steps of a decision
    rollout_steps: int  # control steps of one iteration, over all slots
    env_steps: int
    updates_per_iteration: int
    updates: int  # optimizer steps of the policy, after the critic's warm-up
    num_tasks: int
    episodes_per_task: int  # at least, when every episode takes its whole horizon
    evaluations: int
    evaluation_episodes: int  # of all evaluations together
    decision_flops: float  # one decision
    sample_flops: float  # one sample of an update
    rollout_flops: float
    update_flops: float
    total_flops: float  # rollouts and updates; evaluations and cloning left out


@dataclass(frozen=True, kw_only=True)
class Time:
    """Seconds of one thing, how often it happens, and where the number comes from."""

    what: str
    seconds: float  # each time
    times: int
    how: str

    @property
    def total(self) -> float:
        return self.seconds * self.times


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes a run leaves."""

    checkpoint: int  # one
    kept: int  # how many stay at most
    batches: int  # stored training batches
    asset: int | None  # the policy's checkpoint, None where it is not here


def num_tasks(suite: SuiteSpec) -> int:
    return len(getattr(suite, "tasks", None) or suite.known_tasks() or ("?",))


def horizon(suite: SuiteSpec) -> int:
    return HORIZONS.get(suite.name, 100)


def decisions(recipe: Recipe, costs: Costs) -> int:
    """Decisions of one iteration, over all slots; of whole episodes what is expected."""
    rollout = recipe.train.rollout
    if rollout.kind == "episodes":
        return rollout.num_groups * rollout.group_size * ceil(rollout.num_steps / costs.chunk)
    return recipe.rollout_size


def work(recipe: Recipe, costs: Costs, *, extra_prompt: bool) -> Work:
    """Counts and FLOPs; ``extra_prompt``: the critic's features take a prefill of their own."""
    steps, train, ppo = decisions(recipe, costs), recipe.train, recipe.ppo
    per_iteration = ppo.epochs * ceil(steps / ppo.minibatch_size)
    learning = train.iterations - min(train.critic_warmup, train.iterations)
    decision = costs.decision_flops + (costs.prompt_flops if extra_prompt else 0.0)
    sample = sample_flops(recipe, costs)
    tasks = num_tasks(recipe.suite)
    env_steps = steps * costs.chunk * train.iterations
    evaluations = _evaluations(recipe)
    return Work(
        iterations=train.iterations,
        chunk=costs.chunk,
        rollout_steps=steps * costs.chunk,
        env_steps=env_steps,
        updates_per_iteration=per_iteration,
        updates=per_iteration * learning,
        num_tasks=tasks,
        episodes_per_task=env_steps // (horizon(recipe.suite) * tasks),
        evaluations=evaluations,
        evaluation_episodes=evaluations * tasks * recipe.evaluation.episodes,
        decision_flops=decision,
        sample_flops=sample,
        rollout_flops=decision * steps,
        update_flops=sample * steps,
        total_flops=steps * train.iterations * decision + learning * steps * sample + _warm_up_flops(recipe, costs),
    )


def sample_flops(recipe: Recipe, costs: Costs) -> float:
    """FLOPs that the update of one iteration spends on each of its samples."""
    passes = recipe.ppo.epochs * costs.update_flops * (2.0 if recipe.critic.kind == "adapter" else 1.0)
    return passes + (costs.decision_flops if recipe.ppo.old_log_probs == "rescored" else 0.0)


def _warm_up_flops(recipe: Recipe, costs: Costs) -> float:
    """The critic's warm-up: features without a gradient, unless they are cached or trained."""
    each = {"frozen": 0.0, "adapter": costs.update_flops}.get(recipe.critic.kind, costs.prompt_flops)
    samples = decisions(recipe, costs) * recipe.ppo.epochs
    return min(recipe.train.critic_warmup, recipe.train.iterations) * samples * each


def _evaluations(recipe: Recipe) -> int:
    done, every = recipe.train.iterations, recipe.evaluation.every
    return 1 + done // every + (1 if done % every else 0)


def decision_seconds(costs: Costs, slots: int, rates: Rates, *, extra_prompt: bool = False) -> float:
    """Seconds in which ``slots`` slots decide together: one prefill, then a pass over the weights for each token."""
    prefills = 2.0 if extra_prompt else 1.0
    prefill = prefills * slots * costs.prompt_flops / (rates.flops * rates.prefill_share)
    read = FED_TOKENS * (costs.decode_reads + slots * costs.key_values) / (rates.bandwidth * rates.read_share)
    computed = slots * costs.decode_flops / (rates.flops * rates.prefill_share)
    return prefill + max(read, computed)


def num_simulators(suite: SuiteSpec, processes: int) -> int:
    """Simulator processes of ``processes`` training processes: in each no more than a group has slots."""
    return processes * min(suite.num_workers, suite.slots_of_a_group(processes))


def simulation_rate(suite: SuiteSpec, processes: int) -> float | None:
    """Env steps per second of all simulator processes together, each on a core of its own; None if never measured."""
    if isinstance(suite, LiberoSpec):
        each: float | None = _LIBERO_RATE[suite.render_quality]
    else:
        each = _TABLETOP_RATE.get(suite.name)
    return None if each is None else each * num_simulators(suite, processes)


def times(recipe: Recipe, costs: Costs, rates: Rates, devices: int, *, extra_prompt: bool) -> tuple[Time, ...]:
    """Seconds of rollout, update, evaluation and cloning."""
    suite, train = recipe.suite, recipe.train
    slots = ceil(suite.num_envs / devices)
    group = ceil(slots / suite.num_groups)
    deciding = decision_seconds(costs, group, rates, extra_prompt=extra_prompt) * suite.num_groups
    rate = simulation_rate(suite, devices)
    simulating = suite.num_envs * costs.chunk / rate if rate else 0.0
    overlaps = suite.num_groups > 1
    step = max(deciding, simulating) if overlaps else deciding + simulating
    slowest = "the simulators" if simulating > deciding else "the policy"
    at_once = suite.num_envs * costs.chunk
    how = f"{at_once / step:,.0f} env steps/s: deciding {at_once / deciding:,.0f}/s"
    how += (
        f", simulating {rate:,.0f}/s on {num_simulators(suite, devices)} cores" if rate else ", simulation not counted"
    )
    how += f"; {slowest} set the pace" if overlaps and rate else ""
    sample = sample_flops(recipe, costs) / (rates.flops * rates.update_share * devices)
    evaluated = num_tasks(suite) * recipe.evaluation.episodes * ceil(horizon(suite) / costs.chunk)
    rounds = decisions(recipe, costs) / suite.num_envs
    rows = [
        Time(what="rollout", seconds=step * rounds, times=train.iterations, how=how),
        Time(
            what="update",
            seconds=sample * decisions(recipe, costs),
            times=train.iterations,
            how=f"{1.0 / sample:,.0f} samples/s over {recipe.ppo.epochs} epoch{'s' * (recipe.ppo.epochs > 1)}",
        ),
        Time(
            what="evaluation",
            seconds=evaluated * step / suite.num_envs,
            times=_evaluations(recipe),
            how="at most: every episode to its end",
        ),
    ]
    if recipe.imitation is not None:
        seen = recipe.imitation.batch_size
        each = seen * costs.update_flops / (rates.flops * rates.update_share * devices)
        rows.append(
            Time(
                what="cloning",
                seconds=each * recipe.imitation.updates,
                times=1,
                how=f"{seen / each:,.0f} samples/s; recording demonstrations not counted",
            )
        )
    return tuple(rows)


def host_items(recipe: Recipe, costs: Costs, processes: int, *, caches: bool) -> tuple[Item, ...]:
    """Host memory of ``processes`` trainers, their simulators and the rollout."""
    suite = recipe.suite
    size = int(getattr(suite, "image_size", 256))
    frame = 3 * size * size
    workers = num_simulators(suite, processes)
    steps, tokens = decisions(recipe, costs), costs.num_tokens
    numbers = ((tokens + 1) * _ITEM + (tokens + 5) * FP32 + 6) * steps  # tokens, actions, log-probabilities, ..., flags
    features = costs.feature_size * FP32 * steps if caches else 0
    models = compiled_tasks(suite, workers)
    each = _LIBERO_WORKER + (models - 1) * _LIBERO_TASK if isinstance(suite, LiberoSpec) else _TABLETOP_WORKER
    what = f"{workers} workers x {each / 1e9:.2f} GB"
    what += f", up to {models} compiled tasks each" if isinstance(suite, LiberoSpec) else ""
    return (
        Item("trainer", processes * _TRAINER, "interpreter and libraries"),
        Item("simulators", workers * each, what),
        Item("rollout", frame * steps + numbers, f"{steps:,} frames of {size} px"),
        Item("critic features", features, "cached for the update"),
    )


def compiled_tasks(suite: SuiteSpec, workers: int) -> int:
    """Compiled tasks that one of ``workers`` may come to hold: those it keeps, and those its slots are on."""
    busy = ceil(suite.num_envs / workers)
    return min(num_tasks(suite), max(suite.models_per_worker, busy))


def disk(recipe: Recipe, costs: Costs, head: int, asset: int | None) -> Disk:
    """Checkpoints hold what is trained, in fp32, with both moments."""
    keep = recipe.run.keep
    written = ceil(recipe.train.iterations / recipe.run.checkpoint_every) + _evaluations(recipe)
    every = recipe.train.iterations // keep.every if keep.every else 0
    size = int(getattr(recipe.suite, "image_size", 256))
    stored = sum(iteration < recipe.train.iterations for iteration in recipe.run.batches)
    return Disk(
        checkpoint=3 * FP32 * (costs.trainable + head),
        kept=min(written, keep.last + int(keep.best) + every),
        batches=stored * decisions(recipe, costs) * (3 * size * size + costs.num_tokens * _ITEM + 5 * FP32),
        asset=asset,
    )
