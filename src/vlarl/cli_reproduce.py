"""The command that holds a run to what it recorded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlarl.cli_command import RUNS, Overrides, command
from vlarl.cli_runs import RunsOption, watching
from vlarl.console import Console
from vlarl.errors import Exit

if TYPE_CHECKING:
    from vlarl.reproduce import Again

_RUNS = Path("runs")


class StageChoice(StrEnum):
    physics = "physics"
    pixels = "pixels"
    update = "update"


@command("reproduce", RUNS)
def reproduce(
    console: Console,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, its name, `last`, or a published folder.")],
    iterations: Annotated[
        int | None, typer.Option("--iterations", metavar="N", help="Only so many iterations.", min=1)
    ] = None,
    from_checkpoint: Annotated[
        int | None,
        typer.Option(
            "--from-checkpoint", metavar="I", help="Go on from the run's checkpoint I, not from the start.", min=0
        ),
    ] = None,
    stage: Annotated[
        StageChoice | None,
        typer.Option("--stage", help="Only this stage: from recorded actions, or an update from its stored batch."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where it is repeated; RUNS/reproduced when absent.")
    ] = None,
    runs: RunsOption = _RUNS,
    overrides: Overrides = [],  # noqa: B006
) -> Exit:
    """Repeat a run and name the first iteration and stage that differs: 0 equal, 5 drift."""
    from vlarl.reproduce import Order
    from vlarl.reproduce import reproduce as run_again
    from vlarl.reproduce_certificate import certificate_json, certificate_text
    from vlarl.reproduce_here import kernels_advice

    order = Order(
        run=run,
        runs=runs,
        out=out,
        iterations=iterations,
        from_checkpoint=from_checkpoint,
        stage=stage.value if stage is not None else None,
        overrides=tuple(overrides),
    )
    done = run_again(order, lambda again: _train(console, again), console.say)
    found = done.certificate
    console.document(ok=found.drift is None, certificate=str(done.path), **certificate_json(found))
    console.data(certificate_text(found))
    advice = kernels_advice(found.differences) if found.drift is not None else None
    if advice is not None:
        console.say(advice)
    console.say(f"certificate {done.path}")
    return found.exit_status


def _train(console: Console, again: Again) -> None:
    """`vlarl train` with the comparison listening."""
    from dataclasses import replace

    from vlarl.train import train
    from vlarl.train_folder import Repetition

    repetition = Repetition(
        parent=again.parent,
        recipe_digest=again.chain_recipe,
        evaluates=again.evaluates,
        history=again.history,
        iteration=again.start,
    )
    heard = again.comparison

    def iteration(event: Mapping[str, Any]) -> None:
        shown.iteration(event)
        heard.iteration(event)

    def evaluation(event: Mapping[str, Any]) -> None:
        shown.evaluation(event)
        heard.evaluation(event)

    with watching(console, again.loaded, until=again.stop) as shown:
        watcher = replace(
            shown, described=heard.described, began=heard.began, iteration=iteration, evaluation=evaluation
        )
        train(
            again.loaded,
            command=sys.argv,
            run_folder=again.out,
            until=again.stop,
            watcher=watcher,
            repetition=repetition,
        )
