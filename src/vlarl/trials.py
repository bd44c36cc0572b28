"""From a policy and a list of episodes to an evaluation: opens the pool, runs, closes, counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
) -> EvaluationResult:
    """Every episode of ``specs`` once, with ``suite_spec.num_envs`` slots.

    ``evaluated`` says how actions are chosen (decoding, temperature, seed) and whose policy this is.
    ``suite`` was built from ``suite_spec``.
    """
    assert evaluated.decoding is not None, "a policy decodes greedily or samples"
    assert (evaluated.temperature is None) == (evaluated.decoding == "greedy"), "a temperature belongs to sampling"
    trials = policy_trials(policy, suite_spec, suite, specs, evaluated=evaluated, progress=progress)
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
