"""The command of studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlarl.cli_command import RUNS, command
from vlarl.console import Console
from vlarl.errors import Exit, UsageError

if TYPE_CHECKING:
    from vlarl.recipe.study import Study, StudyJob
    from vlarl.study import Order


@command("study", RUNS)
def study(
    console: Console,
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study file, or the name of a shipped study.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the study; runs/study-NAME when absent.")
    ] = None,
    num_jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Runs at a time.", min=1)] = 1,
    only: Annotated[
        list[str], typer.Option("--only", metavar="CELL", help="Only this cell; may be given several times.")
    ] = [],  # noqa: B006
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="MINUTES", help="Stop after so long, at checkpoints, with status 75.", min=0),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="DIR", help="Warm starts that cells share; DIR/cache when absent.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only say which runs there are and how far they are.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Only write the table anew.")] = False,
    collect: Annotated[
        Path | None, typer.Option("--collect", metavar="DIR", help="Only copy what is worth publishing to DIR.")
    ] = None,
    collected: Annotated[
        Path | None,
        typer.Option("--collected", metavar="DIR", help="Runs that --collect put there earlier are done; skip them."),
    ] = None,
    task: Annotated[
        int | None, typer.Option("--task", metavar="K", help="Only the K-th run of `--list`, as a Slurm array does.")
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Only print a script for `sbatch`, a task a run.")] = False,
) -> Exit:
    """Run every cell of a study with every seed; go on where it stopped; write one table."""
    from vlarl.recipe.shipped import find_study
    from vlarl.recipe.study import load_study
    from vlarl.results_study import read_collected
    from vlarl.study import Order, chosen_jobs, outcome_json, outcome_text, run_study

    _refuse_together({"--list": list_, "--table": table, "--collect": collect is not None, "--slurm": slurm})
    loaded = load_study(find_study(study))
    if not console.as_json:
        console.diagnostics(loaded.warnings)
    folder = out or Path("runs") / f"study-{loaded.spec.name}"
    earlier = read_collected(loaded, collected) if collected is not None else None
    seconds = 60 * budget if budget is not None else None
    order = Order(out=folder, cache=cache or folder / "cache", collected=earlier, num_jobs=num_jobs, budget=seconds)
    jobs = chosen_jobs(loaded, only, task)
    if slurm:
        return _print_script(console, loaded, study, order, only)
    if list_:
        return _list_runs(console, loaded, jobs, order)
    if table or collect is not None:
        return _write_again(console, loaded, order, collect)
    outcome = run_study(loaded, jobs, order, console.say)
    console.document(ok=outcome.exit_status == Exit.OK, out=str(folder), **outcome_json(outcome))
    console.data(outcome_text(loaded, outcome))
    if outcome.exit_status == Exit.RESUMABLE:
        console.say("stopped before all is done; the same command goes on")
    return outcome.exit_status


def _refuse_together(given: dict[str, bool]) -> None:
    named = [option for option, is_given in given.items() if is_given]
    if len(named) > 1:
        raise UsageError(
            f"{' and '.join(named)} cannot be given together", code="U200", hint="type one after the other"
        )


def _print_script(console: Console, study: Study, named: str, order: Order, only: list[str]) -> Exit:
    from vlarl.study import chosen_jobs
    from vlarl.study_slurm import slurm_script, wants_gpu

    jobs = chosen_jobs(study, only)
    script = slurm_script(
        study=named,
        name=study.spec.name,
        num_tasks=len(jobs),
        num_cpus=1 + max(job.recipe.suite.num_workers for job in jobs),
        out=order.out,
        cache=order.cache,
        only=only,
        collected=None if order.collected is None else order.collected.folder,
        gpu=any(wants_gpu(job.recipe) for job in jobs),
    )
    console.document(script=script, num_tasks=len(jobs))
    console.data(script)
    return Exit.OK


def _list_runs(console: Console, study: Study, jobs: list[StudyJob], order: Order) -> Exit:
    from vlarl.study import STATES_HEADERS, states, states_json, states_rows

    found = states(jobs, order)
    console.document(runs=states_json(found), diagnostics=study.warnings)
    console.table(STATES_HEADERS, states_rows(found, order.out))
    return Exit.OK


def _write_again(console: Console, study: Study, order: Order, destination: Path | None) -> Exit:
    from vlarl.results_study_table import markdown, table_data
    from vlarl.study import PUBLISHED, refresh, states
    from vlarl.study_collect import collect

    states(study.jobs, order)  # DriftError where a run would be left out
    runs, made = refresh(study, order)
    if destination is None:
        console.document(table=table_data(made))
        console.data(markdown(made, study.spec.name))
    else:
        written = collect(order.out, destination, runs, PUBLISHED, order.collected)
        size = sum(path.stat().st_size for path in written)
        console.document(files=[str(path) for path in written], size=size)
        console.data(str(destination))
        console.say(f"{len(written)} files, {size / 1e6:.2f} MB")
    return Exit.OK
