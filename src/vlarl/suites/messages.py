"""What trainer and simulator processes say to each other besides shared memory: JSON, so that nothing is unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module

from vlarl.errors import VlarlError
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.suites.shared import Sizes


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one worker is responsible for."""

    number: int
    parent: int  # process id of the trainer
    sizes: Sizes
    slots: tuple[tuple[int, ...], ...]  # by group
    spec: SuiteSpec


def encode_assignment(assignment: Assignment) -> bytes:
    kind = type(assignment.spec)
    return json.dumps(
        {
            "number": assignment.number,
            "parent": assignment.parent,
            "sizes": assignment.sizes._asdict(),
            "slots": assignment.slots,
            "spec_class": f"{kind.__module__}:{kind.__qualname__}",
            "spec": assignment.spec.model_dump_json(),
        }
    ).encode()


def decode_assignment(message: bytes) -> Assignment:
    fields = json.loads(message)
    module, _, name = fields["spec_class"].partition(":")
    kind = getattr(import_module(module), name)
    assert issubclass(kind, SuiteSpec), kind
    return Assignment(
        number=fields["number"],
        parent=fields["parent"],
        sizes=Sizes(**fields["sizes"]),
        slots=tuple(tuple(group) for group in fields["slots"]),
        spec=kind.model_validate_json(fields["spec"]),
    )


def encode_error(error: VlarlError) -> bytes:
    fields = {name: getattr(error, name) for name in ("message", "code", "place", "hint", "kept")}
    return json.dumps({"kind": type(error).__name__, **fields}).encode()


def decode_error(message: bytes) -> VlarlError:
    fields = json.loads(message)
    family: list[type[VlarlError]] = [VlarlError, *VlarlError.__subclasses__()]
    kinds = {kind.__name__: kind for kind in family}
    return kinds[fields.pop("kind")](**fields)
