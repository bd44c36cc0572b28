"""`vlarl export`: what an OpenVLA run trained, as a checkpoint in Hugging Face layout or as adapters for peft.

Neither policy nor simulator is built: stored tensors are read, changed and written one at a time.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlarl.assembly_weights import settings
from vlarl.errors import AssetError, UsageError
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.policies import OpenVlaSpec
from vlarl.run import checkpoint as checkpoints
from vlarl.run.folder import RunFolder, open_run

if TYPE_CHECKING:
    from torch import Tensor

    from vlarl.policies.openvla.layout import Layout

Format = Literal["openvla", "peft"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A checkpoint written for others."""

    path: Path
    format: Format
    run: str
    iteration: int
    num_trained: int  # tensors that take the place of the base's, or adapted layers
    digest: str | None  # of the layout, as evaluations name it; None: adapters alone
    suite: str
    settings: tuple[str, ...]  # `policy.images=plain`: how the run used it, where that is not the default
    passed_over: tuple[str, ...]  # newer checkpoints of the run that are damaged, and how


def export(
    run: str | Path, *, format: Format, out: Path, iteration: int | None = None, runs: Path = Path("runs")
) -> Exported:
    """Write the policy of a run's checkpoint ``iteration``, None for the newest whole one, into the new folder ``out``.

    ``openvla``: the base's files with what was trained in place of the base's tensors, adapters merged in fp32 and
    stored in the base's precision. ``peft``: the adapters alone.
    Raises UsageError (U250) where the run has nothing of the kind, AssetError: R350 no such checkpoint, R375 ``out``
    exists, R377 the base is not the one that the run started from.
    """
    from vlarl.assembly import stored_recipe

    folder = open_run(run, runs)
    _check_out(out)
    found = checkpoints.load(_source(folder, iteration))
    recipe = stored_recipe(found)
    spec = _openvla(recipe, format)
    base = _base(spec, found)
    num_trained, digest = _write(base, found, spec, out) if format == "openvla" else _adapters(base, found, spec, out)
    return Exported(
        path=out,
        format=format,
        run=folder.id,
        iteration=found.iteration,
        num_trained=num_trained,
        digest=digest,
        suite=recipe.suite.name,
        settings=tuple(settings(recipe)),
        passed_over=found.warnings,
    )


def export_text(done: Exported) -> str:
    """For stdout: the folder."""
    return str(done.path)


def export_notes(done: Exported) -> list[str]:
    """For stderr: what was written, and how to go on."""
    notes = [f"passed over a checkpoint: {reason}" for reason in done.passed_over]
    what = f"run {done.run} after {done.iteration} iterations"
    if done.format == "peft":
        return [*notes, f"{what}: adapters of {done.num_trained} layers, for `PeftModel.from_pretrained`"]
    words = ["vlarl", "eval", "--suite", done.suite, "--checkpoint", str(done.path)]
    words += [word for setting in done.settings for word in ("--set", setting)]
    return [
        *notes,
        f"{what}: {done.num_trained} trained tensors in place of the base's (sha256 {str(done.digest)[:8]}…)",
        f"evaluate it: {shlex.join(words)} --out DIR",
    ]


def export_json(done: Exported) -> dict[str, Any]:
    """Fields of the `--json` document."""
    return {
        **vars(done),
        "path": str(done.path),
        "settings": list(done.settings),
        "passed_over": list(done.passed_over),
    }


def _check_out(out: Path) -> None:
    if out.exists():
        hint = "name a folder that does not exist yet"
        raise AssetError(f"{out} exists already", code="R375", place=str(out), hint=hint)


def _source(run: RunFolder, iteration: int | None) -> Path:
    if iteration is None:
        return run.path
    present = checkpoints.iterations(run.checkpoints)
    if iteration not in present:
        raise AssetError(
            f"run {run.id} has no checkpoint of iteration {iteration}",
            code="R350",
            place=str(run.checkpoints),
            hint=f"it has {', '.join(map(str, present)) or 'none'}",
        )
    return run.checkpoints / f"{iteration:06d}"


def _openvla(recipe: Recipe, format: Format) -> OpenVlaSpec:
    spec = recipe.policy
    if not isinstance(spec, OpenVlaSpec):
        raise UsageError(
            f"the policy of this run is `{spec.kind}`, for which there is no format that others read",
            code="U250",
            hint="runs of `openvla` and `openvla_oft` can be exported; of this one, copy the checkpoint's folder",
        )
    if format == "peft" and spec.lora is None:
        raise UsageError(
            "this run trained every weight and has no adapters", code="U250", hint="use `--format openvla`"
        )
    return spec


def _base(spec: OpenVlaSpec, found: checkpoints.Checkpoint) -> Layout:
    from vlarl.policies.openvla.hub import resolve
    from vlarl.policies.openvla.layout import read_layout

    base = read_layout(resolve(spec.checkpoint))
    trained_from: Mapping[str, Any] = found.state["policy"]
    if base.digest() != trained_from["base"]:
        raise AssetError(
            f"{spec.checkpoint} is not the checkpoint that the run started from: its files have another digest",
            code="R377",
            place=str(base.folder),
            hint="put back the checkpoint that the run started from",
        )
    return base


def _write(base: Layout, found: checkpoints.Checkpoint, spec: OpenVlaSpec, out: Path) -> tuple[int, str]:
    from vlarl.policies.openvla.checkpoint import export_checkpoint
    from vlarl.policies.openvla.layout import read_layout
    from vlarl.policies.openvla.trained import merged

    written: list[str] = []

    def weights() -> Iterator[tuple[str, Tensor]]:
        stored = merged(base, found.tensors("policy"), spec.lora) if spec.lora else found.stream("policy")
        for name, tensor in stored:
            written.append(name)
            yield name, tensor

    export_checkpoint(out, base, weights())
    return len(written), read_layout(out).digest()


def _adapters(base: Layout, found: checkpoints.Checkpoint, spec: OpenVlaSpec, out: Path) -> tuple[int, None]:
    from vlarl.policies.openvla.trained import adapted_layers, write_adapter

    assert spec.lora is not None
    adapters = found.tensors("policy")
    write_adapter(out, adapters, spec.lora, source=base, reference=spec.checkpoint)
    return len(adapted_layers(adapters)), None
