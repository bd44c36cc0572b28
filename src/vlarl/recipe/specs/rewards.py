"""Rewards and curricula."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vlarl.recipe.specs.base import PartSpec, PositiveInt


class SuccessRewardSpec(PartSpec):
    """Sparse reward at the end of an episode."""

    target: ClassVar[str] = "vlarl.rewards.success:SuccessReward"

    kind: Literal["success"] = "success"
    weight: float = Field(1.0, description="Factor on this reward in the sum.")
    truncated: float = Field(0.0, description="Reward of the step at which an episode is truncated, before the weight.")
    errored: float = Field(0.0, description="Reward of the step at which an episode errors, before the weight.")


class UniformCurriculumSpec(PartSpec):
    """Every task equally often, train init states at random."""

    target: ClassVar[str] = "vlarl.curriculum:UniformCurriculum"

    kind: Literal["uniform"] = "uniform"
    bucket_size: PositiveInt = Field(
        50, description="Train init states per bucket (bucket = init // bucket_size), for success statistics."
    )
