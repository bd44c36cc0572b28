"""The recipe: every section of a run, its digest, and the difference between two of them.

Part sections (`suite`, `policy`, ...) take any kind that the registry knows, so that an installed
package's kinds are validated, documented and hashed like the built-in ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from vlarl import registry
from vlarl.digest import json_digest
from vlarl.recipe.specs.base import PartSpec, Section
from vlarl.recipe.specs.curriculum import UniformCurriculumSpec
from vlarl.recipe.specs.learning import EvaluationSpec, ImitationSpec, PpoSpec, RunSpec, TrainSpec
from vlarl.recipe.specs.policies import SharedCriticSpec, TinySpec
from vlarl.recipe.specs.prm import LabelsSpec, TinyPrmSpec
from vlarl.recipe.specs.rewards import SuccessRewardSpec
from vlarl.recipe.specs.suites import SuiteSpec, TabletopSpec

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")


@dataclass(frozen=True)
class KindOf:
    """Annotation: the value is one of a section's kinds, chosen by `kind`.

    ``default`` is the kind of a mapping that names none; None makes `kind` compulsory.
    """

    section: str
    default: str | None = None

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {kind: handler.generate_schema(spec) for kind, spec in registry.kinds(self.section).items()}
        return core_schema.tagged_union_schema(choices, discriminator=self.tag)

    def tag(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return value.get("kind", self.default)
        return value.kind if isinstance(value, PartSpec) else None


class Recipe(Section):
    """One run, completely: the same recipe on the same machine gives the same result."""

    # A run depends on the reward model itself, by its digest, and not on how one would be made.
    unhashed: ClassVar[frozenset[str]] = frozenset({"name", "run", "labels", "prm"})

    name: str = Field(
        "unnamed",
        pattern=NAME.pattern,
        description="Name of the recipe; run folders start with it. Absent: the file's name.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="Root of all randomness: init states, action sampling, minibatch order, initial weights."
    )
    suite: Annotated[SuiteSpec, KindOf("suite", "tabletop")] = Field(
        TabletopSpec(), description="What is simulated, in how many slots, and how it is rendered."
    )
    policy: Annotated[PartSpec, KindOf("policy", "tiny")] = Field(TinySpec(), description="The policy that is trained.")
    critic: Annotated[PartSpec, KindOf("critic", "shared")] = Field(
        SharedCriticSpec(), description="The value function: one value per decision of the policy."
    )
    rewards: list[Annotated[PartSpec, KindOf("rewards")]] = Field(
        [SuccessRewardSpec()], min_length=1, description="Rewards that are added up; each kind at most once."
    )
    curriculum: Annotated[PartSpec, KindOf("curriculum", "uniform")] = Field(
        UniformCurriculumSpec(), description="Which task and init state each slot tries next."
    )
    ppo: PpoSpec = Field(PpoSpec(), description="The update.")
    imitation: ImitationSpec | None = Field(
        ImitationSpec(), description="Warm start by behaviour cloning; null starts from the policy as it is."
    )
    train: TrainSpec = Field(
        TrainSpec(), description="The loop: how long, how much is collected, how actions are sampled."
    )
    evaluation: EvaluationSpec = Field(EvaluationSpec(), description="Evaluation on held-out init states.")
    labels: LabelsSpec = Field(
        LabelsSpec(), description="How `vlarl label-segments` cuts trajectories and labels their steps."
    )
    prm: Annotated[PartSpec, KindOf("prm", "tiny")] = Field(
        TinyPrmSpec(), description="The process reward model that `vlarl train-prm` trains from the labels."
    )
    run: RunSpec = Field(RunSpec(), description="The run folder: where, how often, how much is kept.")
    determinism: Literal["off", "seeded", "strict"] = Field(
        "seeded",
        description="`strict` also refuses torch kernels that may differ between two runs; `off` promises nothing.",
    )

    @property
    def imitation_seed(self) -> int:
        """Of the policy's initial weights and everything that makes its warm start."""
        own = None if self.imitation is None else self.imitation.seed
        return self.seed if own is None else own

    @property
    def rollout_size(self) -> int:
        """Steps of one iteration, over all slots; of whole episodes the control steps that are expected."""
        rollout = self.train.rollout
        if rollout.kind == "episodes":
            return rollout.num_groups * rollout.group_size * rollout.num_steps
        return self.suite.num_envs * rollout.num_steps


def hashed_values(section: BaseModel) -> dict[str, Any]:
    """The values of ``section`` that can change a result, as plain JSON data."""
    left_out = section.unhashed | _at_default(section) if isinstance(section, Section) else frozenset()
    return {name: _hashed(getattr(section, name)) for name in type(section).model_fields if name not in left_out}


def _at_default(section: Section) -> frozenset[str]:
    """Names of ``unhashed_at_default`` fields that have their default."""
    fields = type(section).model_fields
    return frozenset(name for name in section.unhashed_at_default if getattr(section, name) == fields[name].default)


def _hashed(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return hashed_values(value)
    if isinstance(value, list | tuple):
        return [_hashed(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _hashed(item) for key, item in value.items()}
    return value + 0.0 if isinstance(value, float) else value  # -0.0 means 0.0


def recipe_digest(recipe: Recipe) -> str:
    """sha256 of the canonical JSON of what can change a result; 64 hexadecimal digits.

    Two texts that mean the same give the same digest. Name, run folder, worker count and renderer
    are left out: the last is recorded with each run instead.
    """
    return json_digest(hashed_values(recipe))


@dataclass(frozen=True)
class Difference:
    """A value that two recipes do not share; ``None`` stands for absent as well as for null."""

    path: str
    left: Any
    right: Any


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar of plain data under its dotted path; empty lists and mappings count as scalars."""
    children: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping):
        children = iter(value.items())
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        children = iter(enumerate(value))
    else:
        yield path, value
        return
    if not value:
        yield path, value
    for key, child in children:
        yield from leaves(child, f"{path}.{key}" if path else str(key))


def differences(left: Recipe, right: Recipe) -> tuple[Difference, ...]:
    """Values that differ, in the order of the recipe; `run` and `name` included."""
    a, b = (dict(leaves(recipe.model_dump(mode="json"))) for recipe in (left, right))
    return tuple(
        Difference(path, a.get(path), b.get(path)) for path in dict.fromkeys((*a, *b)) if a.get(path) != b.get(path)
    )
