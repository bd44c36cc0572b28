"""Commands about process reward models. Each body calls a program and shows what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlarl.cli_command import RUNS, Overrides, RecipeArgument, command
from vlarl.console import Console
from vlarl.errors import UsageError

_RUNS = Path("runs")
_NEWS = 100  # updates between two signs of life


@command("label-segments", RUNS)
def label_segments(
    console: Console,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the labels.")],
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="Its `labels` and demonstrations; defaults when absent.")
    ] = None,
    demos: Annotated[
        list[Path], typer.Option("--demos", metavar="PATH", help="HDF5 file or folder, instead of the recipe's own.")
    ] = [],  # noqa: B006
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Also label episodes of a run, failures included.")
    ] = None,
    run_episodes: Annotated[
        int, typer.Option("--run-episodes", metavar="N", help="Newest episodes a task of that run.", min=1)
    ] = 20,
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where run folders are.")] = _RUNS,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Cut trajectories at gripper changes and rests, label their steps, draw contact sheets."""
    from vlarl.prm.label import label_segments as run_labelling
    from vlarl.recipe.load import load_recipe, parse_recipe
    from vlarl.recipe.shipped import find_recipe
    from vlarl.run.folder import open_run

    if recipe is None and not demos and run is None:
        raise UsageError("nothing to label", code="U260", hint="name a RECIPE, --demos PATH or --run RUN")
    loaded = load_recipe(find_recipe(recipe), overrides) if recipe is not None else parse_recipe("", overrides)
    done = run_labelling(
        loaded.recipe,
        out,
        demonstrations=demos or (None if recipe is not None else []),
        run=open_run(run, runs) if run is not None else None,
        run_episodes=run_episodes,
        say=console.say,
    )
    tasks = done.manifest["tasks"]
    headers = ("task", "successes", "trajectories", "keyframes", "positive", "negative")
    rows = [
        (
            task["instruction"],
            task["successes"],
            task["trajectories"],
            f"{task['mean_keyframes']:.1f}",
            task["examples"]["keyframe"],
            sum(task["examples"][source] for source in ("far", "failed", "other_task", "shuffled")),
        )
        for task in tasks
    ]
    console.document(folder=str(done.folder), manifest=done.manifest)
    console.table(headers, rows)
    console.say(f"look at the cuts in {done.folder / 'contact_sheets'}")
    console.say(f"next: vlarl train-prm {recipe or 'RECIPE'} --labels {done.folder} --out DIR")


@command("train-prm", RUNS)
def train_prm(
    console: Console,
    recipe: RecipeArgument,
    labels: Annotated[Path, typer.Option("--labels", metavar="DIR", help="Labels of `vlarl label-segments`.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the reward model.")],
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Train a process reward model on labels; report on trajectories that were held out."""
    from vlarl.prm.card import REPORT_HEADERS, report_rows
    from vlarl.prm.training import train_prm as run_training
    from vlarl.recipe.load import load_recipe
    from vlarl.recipe.shipped import find_recipe

    loaded = load_recipe(find_recipe(recipe), overrides)

    def tell(update: int, loss: float) -> None:
        if (update + 1) % _NEWS == 0:
            console.say(f"update {update + 1}  loss {loss:.3f}")

    done = run_training(loaded.recipe, labels, out, progress=tell)
    console.document(folder=str(done.folder), digest=done.digest, card=done.card)
    console.table(REPORT_HEADERS, report_rows(done.card["held_out"]))
    console.say(f"reward model {done.digest[:12]} in {done.folder}; its card is {done.folder / 'card.md'}")
    console.say(f"next: add `{{kind: process, model: {done.folder}}}` to the recipe's rewards")
