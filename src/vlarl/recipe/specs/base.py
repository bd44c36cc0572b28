"""What every section of a recipe shares: strict, frozen, no unknown keys."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

MAX_COUNT = 10**9  # of anything that is counted; far above what a run can use, low enough to reckon with

PositiveInt = Annotated[int, Field(ge=1, le=MAX_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A section of a recipe: values only, checked strictly, never changed after loading."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    unhashed: ClassVar[frozenset[str]] = frozenset()
    """Fields that cannot change a result and so are left out of the recipe's digest."""

    unhashed_at_default: ClassVar[frozenset[str]] = frozenset()
    """Fields left out of it while they have their default: what they choose was the only way there was."""


class PartSpec(Section):
    """A section that names a part: ``kind`` chooses the class, ``target`` says where it lives.

    ``target`` is ``package.module:Class``, imported only when the part is built. It is a class
    attribute on purpose: a recipe can never hold an import path.
    """

    target: ClassVar[str]

    kind: str = Field(description="Which kind of part this is; it decides what else may be set here.")
