"""Curricula: which task and train init state a slot tries next."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vlarl.recipe.specs.base import Fraction, PartSpec, PositiveFloat, PositiveInt


class UniformCurriculumSpec(PartSpec):
    """Every task equally often, train init states at random."""

    target: ClassVar[str] = "vlarl.curriculum:UniformCurriculum"

    kind: Literal["uniform"] = "uniform"
    bucket_size: PositiveInt = Field(
        50, description="Train init states per bucket (bucket = init // bucket_size), for success statistics."
    )


class AdaptiveCurriculumSpec(PartSpec):
    """What the curricula share that follow the success rate s of each (task, bucket of train init states).

    P = (1 - floor) * preferred + floor * uniform, with s = (successes + prior_weight * prior_success) /
    (episodes + prior_weight) over the window.
    """

    bucket_size: PositiveInt | None = Field(
        None,
        description="Train init states per bucket (bucket = init // bucket_size); absent: one bucket a task. "
        "Small buckets tell init states apart and take long to fill.",
    )
    window: PositiveInt = Field(
        100, description="Episodes per bucket that count: the oldest iteration is dropped while so many are left."
    )
    prior_success: Fraction = Field(0.5, description="Success rate a bucket is taken to have before it was tried.")
    prior_weight: PositiveFloat = Field(2.0, description="How many episodes that prior is worth.")
    floor: Fraction = Field(
        0.1, description="Share of the episodes that is drawn as `uniform` would, so that nothing is forgotten."
    )


class PaperCurriculumSpec(AdaptiveCurriculumSpec):
    """VLA-RL's formula, P proportional to exp((0.5 - s) / tau): the less success, the more often."""

    target: ClassVar[str] = "vlarl.curriculum:PaperCurriculum"

    kind: Literal["paper"] = "paper"
    tau: PositiveFloat = Field(0.5, description="Temperature: s = 0 is exp(1 / tau) times as likely as s = 1.")


class FrontierCurriculumSpec(AdaptiveCurriculumSpec):
    """P proportional to exp(-|0.5 - s| / tau): most often what succeeds half the time."""

    target: ClassVar[str] = "vlarl.curriculum:FrontierCurriculum"

    kind: Literal["frontier"] = "frontier"
    tau: PositiveFloat = Field(0.25, description="Temperature: s = 0.5 is exp(0.5 / tau) times as likely as 0 or 1.")


class SuccessBandCurriculumSpec(AdaptiveCurriculumSpec):
    """Equally likely where low <= s <= high, less by exp(-distance / tau) outside of that band."""

    target: ClassVar[str] = "vlarl.curriculum:SuccessBandCurriculum"

    kind: Literal["success_band"] = "success_band"
    low: Fraction = Field(0.2, description="Lower end of the band of success rates.")
    high: Fraction = Field(0.8, description="Upper end of the band; not below `low`.")
    tau: PositiveFloat = Field(0.1, description="How fast the preference falls outside of the band.")


class LearningProgressCurriculumSpec(AdaptiveCurriculumSpec):
    """P proportional to exp(|change of s| / tau), the change between older and newer half of the window."""

    target: ClassVar[str] = "vlarl.curriculum:LearningProgressCurriculum"

    kind: Literal["learning_progress"] = "learning_progress"
    tau: PositiveFloat = Field(0.1, description="Temperature: a change by tau makes a bucket e times as likely.")
