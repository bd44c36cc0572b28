"""What an evaluation document has to hold before anything computes with it: files of others are read as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]
FileName = Annotated[str, Field(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\z")]  # it becomes part of one


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Counts(_Shape):
    successes: Count
    episodes: Count
    errors: Count
    low: Rate
    high: Rate


class _TaskCounts(_Counts):
    task: str


class _Task(_Shape):
    name: str
    instruction: str
    horizon: Count


class _Protocol(_Shape):
    suite: FileName
    split: str | list[str]
    tasks: list[_Task]


class _Row(_Shape):
    task: str
    init: Count
    seed: int
    success: bool
    errored: bool
    length: Count


class _Shard(_Shape):
    number: Count
    of: Count
    episodes: Count


class _Document(_Shape):
    suite: FileName
    policy: Literal["checkpoint", "expert", "random"]
    run: str | None
    iteration: Count | None
    source: str | None = None
    policy_spec: dict[str, Any] | None = None
    digest: str | None
    decoding: Literal["greedy", "sampled"] | None
    temperature: float | None
    seed: int
    overall: _Counts
    tasks: list[_TaskCounts]
    protocol: _Protocol
    protocol_digest: str
    suite_spec: dict[str, Any] | None = None
    shard: _Shard | None = None
    episodes: list[_Row]


def misshapen(document: Mapping[str, Any]) -> str | None:
    """What is wrong with the first field that is wrong, in words; None for a document that can be used."""
    try:
        _Document.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    names = {task["name"] for task in document["protocol"]["tasks"]}
    for row in document["episodes"]:
        if row["task"] not in names:
            return "an episode is of a task that its protocol lacks"
    return None
