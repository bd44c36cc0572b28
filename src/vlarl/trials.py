"""From a policy and a list of episodes to an evaluation: opens the pool, runs, closes, counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlarl.distributed import ALONE, Message, Ranks
from vlarl.evaluation import Queue, evaluate_policy
from vlarl.policies.protocol import Policy
from vlarl.recipe.schema import hashed_values
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.results import Evaluated, document, protocol_block
from vlarl.suites.pool import Pool
from vlarl.suites.protocol import Suite
from vlarl.types import EpisodeSpec, Trial

Progress = Callable[[Trial], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """An evaluation, not yet written."""

    document: Mapping[str, Any]
    trials: tuple[Trial, ...]  # in the order of the document's rows


def run_policy(
    policy: Policy,
    suite_spec: SuiteSpec,
    suite: Suite,
    specs: Sequence[EpisodeSpec],
    *,
    evaluated: Evaluated,
    progress: Progress = lambda trial: None,
    ranks: Ranks = ALONE,
) -> EvaluationResult:
    """Every episode of ``specs`` once, with ``suite_spec.num_envs`` slots over all processes.

    ``evaluated`` says how actions are chosen (decoding, temperature, seed) and whose policy this is.
    ``suite`` was built from ``suite_spec``. Every process gets the whole result.
    """
    assert evaluated.decoding is not None, "a policy decodes greedily or samples"
    assert (evaluated.temperature is None) == (evaluated.decoding == "greedy"), "a temperature belongs to sampling"
    share = suite_spec.model_copy(update={"num_envs": -(-suite_spec.num_envs // ranks.world_size)})
    own = specs[ranks.rank :: ranks.world_size]
    trials = policy_trials(policy, share, suite, own, evaluated=evaluated, progress=progress) if own else []
    trials = merged(trials, specs, ranks)
    described = described_by(suite_spec, suite, specs, evaluated)
    return EvaluationResult(document=described(trials), trials=tuple(trials))


def policy_trials(
    policy: Policy,
    suite_spec: SuiteSpec,
    suite: Suite,
    specs: Sequence[EpisodeSpec],
    *,
    evaluated: Evaluated,
    progress: Progress = lambda trial: None,
) -> list[Trial]:
    """The episodes of ``run_policy`` alone, the same to the last bit whichever others are in ``specs``."""
    tasks = suite.tasks()
    suite_spec = suite_spec.model_copy(update={"num_shards": 1})  # nothing here is shared out by shard
    queue = Queue(tuple(specs), suite_spec.num_envs)
    with Pool(suite_spec, tasks, suite.conventions.image_size, queue) as pool:
        pool.start()
        return evaluate_policy(
            policy,
            pool,
            specs,
            temperature=evaluated.temperature,
            seed=evaluated.seed,
            among=[task.instruction for task in tasks],
            progress=progress,
        )


def merged(trials: Sequence[Trial], specs: Sequence[EpisodeSpec], ranks: Ranks) -> list[Trial]:
    """The trials of all processes, in the order of ``specs``."""
    if ranks.world_size == 1:
        return list(trials)
    rows = [[*vars(trial.spec).values(), trial.success, trial.errored, trial.length] for trial in trials]
    actions = [np.zeros((0, 7), np.float32), *(trial.actions for trial in trials)]
    found = {}
    for message in ranks.gather(Message(rows, {"actions": np.concatenate(actions)})):
        start = 0
        for task, split, init, seed, success, errored, length in message.data:
            spec = EpisodeSpec(task, split, init, seed)
            taken = message.arrays["actions"][start : start + length]
            found[spec] = Trial(spec=spec, success=success, errored=errored, length=length, actions=taken)
            start += length
    return [found[spec] for spec in specs]


def described_by(
    suite_spec: SuiteSpec, suite: Suite, specs: Sequence[EpisodeSpec], evaluated: Evaluated
) -> Callable[[Sequence[Trial]], dict[str, Any]]:
    """Makes the document of an evaluation on ``specs`` from its trials, wherever they come from.

    Given some of the trials or none, it makes one that says what the whole evaluation is, with these episodes.
    """
    conventions = suite.conventions
    protocol = protocol_block(
        suite.tasks(),
        specs,
        suite=suite.name,
        conventions={
            "settle_steps": conventions.settle_steps,
            "control_hz": conventions.control_hz,
            "action": conventions.action,
            "image": conventions.image,
            "image_size": conventions.image_size,
            **conventions.more,
        },
        renderer=getattr(suite, "renderer", None),
    )
    values = hashed_values(suite_spec)
    return lambda trials: document(trials, suite.tasks(), protocol=protocol, evaluated=evaluated, suite_spec=values)
