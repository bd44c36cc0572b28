"""Commands about what exists: evaluations and trained weights."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlarl.cli_command import RUNS, command
from vlarl.console import Console
from vlarl.errors import Exit

if TYPE_CHECKING:
    from vlarl.evaluate import EvaluationOutcome


class FormatChoice(StrEnum):
    vla_eval = "vla-eval"


class WeightsChoice(StrEnum):
    openvla = "openvla"
    peft = "peft"


def tell_outcome(console: Console, outcome: EvaluationOutcome) -> Exit:
    """An evaluation's document, table and notes; returns its exit status."""
    from vlarl.evaluate import outcome_json, outcome_notes, outcome_text

    console.document(**outcome_json(outcome))
    console.data(outcome_text(outcome))
    for note in outcome_notes(outcome):
        console.say(note)
    return outcome.exit_status


@command("merge", RUNS)
def merge(
    console: Console,
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD...", help="Documents that `eval --shard` wrote.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the result goes.")] = None,
) -> Exit:
    """Put the shards of an evaluation together; the result is that of running it in one piece."""
    from vlarl.evaluate_merge import merge_shards

    outcome = merge_shards(shards, out=out)
    return tell_outcome(console, outcome)


@command("compare", RUNS)
def compare(
    console: Console,
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="The .json file of an evaluation.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="That of another on the same episodes.")],
) -> None:
    """Pair two evaluations of the same episodes: what AFTER gains and loses against BEFORE, with intervals."""
    from vlarl.results import compare as pair
    from vlarl.results import read_document, resampled_difference
    from vlarl.results_text import comparison_table, headline, interval_text, sentence

    one, other = read_document(before), read_document(after)
    found, interval = pair(one, other), resampled_difference(one, other)
    tasks = {name: vars(each) for name, each in found.tasks.items()}
    console.document(overall=vars(found.overall), tasks=tasks, bootstrap=[interval.low, interval.high])
    console.data(f"before: {headline(one)}\nafter:  {headline(other)}")
    console.data(f"\n{comparison_table(found)}\n\n{sentence(found)}")
    console.data(f"bootstrap over init states: {interval_text(interval.low, interval.high, sign='+')}")


@command("export-results", RUNS)
def export_results(
    console: Console,
    document: Annotated[Path, typer.Argument(metavar="DOCUMENT", help="The .json file of an evaluation.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")],
    chosen: Annotated[FormatChoice, typer.Option("--format", help="Whose format.")] = FormatChoice.vla_eval,
) -> None:
    """Write an evaluation in the result format of another tool."""
    from datetime import UTC, datetime

    from vlarl.results import read_document
    from vlarl.results_export import vla_eval_result
    from vlarl.run.files import disk_errors, write_json

    result = vla_eval_result(read_document(document), created_at=datetime.now(UTC).isoformat())
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, result)
    console.document(path=str(out), format=chosen.value, benchmark=result["benchmark"])
    console.data(str(out))


@command("export", RUNS)
def export(
    console: Console,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, its name, or `last`.")],
    chosen: Annotated[
        WeightsChoice,
        typer.Option("--format", help="`openvla`: the whole checkpoint, adapters merged. `peft`: the adapters alone."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder.")],
    checkpoint: Annotated[
        int | None,
        typer.Option("--checkpoint", metavar="N", help="After N iterations; the newest when absent.", min=0),
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where run folders are.")] = Path("runs"),
) -> None:
    """Write an OpenVLA policy for other programs: Hugging Face layout, or adapters for peft."""
    from vlarl.export import export as run_export
    from vlarl.export import export_json, export_notes, export_text

    done = run_export(run, format=chosen.value, out=out, iteration=checkpoint, runs=runs)
    console.document(**export_json(done))
    console.data(export_text(done))
    for note in export_notes(done):
        console.say(note)
