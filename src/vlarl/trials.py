"""From a policy, or a baseline, and a list of episodes to an evaluation: opens the pool, runs, closes, counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlarl.evaluation import Queue, evaluate_policy
from vlarl.policies.protocol import Policy
from vlarl.recipe.schema import hashed_values
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.results import Evaluated, document, protocol_block
from vlarl.suites.baselines import Baseline, run_baseline
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
    queue = Queue(tuple(specs), suite_spec.num_envs)
    with Pool(suite_spec, suite.tasks(), suite.conventions.image_size, queue) as pool:
        pool.start()
        trials = evaluate_policy(
            policy, pool, specs, temperature=evaluated.temperature, seed=evaluated.seed, progress=progress
        )
    return to_result(trials, suite_spec, suite, evaluated)


def run_scripted(
    baseline: Baseline,
    suite_spec: SuiteSpec,
    suite: Suite,
    specs: Sequence[EpisodeSpec],
    *,
    num_workers: int,
    seed: int = 0,
    progress: Progress = lambda trial: None,
) -> EvaluationResult:
    """The same for the suite's expert or for random actions."""
    trials = run_baseline(baseline, suite_spec, specs, num_workers=num_workers, seed=seed, progress=progress)
    return to_result(trials, suite_spec, suite, Evaluated(policy=baseline, seed=seed))


def to_result(trials: Sequence[Trial], suite_spec: SuiteSpec, suite: Suite, evaluated: Evaluated) -> EvaluationResult:
    """The document of ``trials``, wherever they come from: a part of them may have been read from disk."""
    conventions = suite.conventions
    protocol = protocol_block(
        suite.tasks(),
        [trial.spec for trial in trials],
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
    described = document(
        trials, suite.tasks(), protocol=protocol, evaluated=evaluated, suite_spec=hashed_values(suite_spec)
    )
    return EvaluationResult(document=described, trials=tuple(trials))
