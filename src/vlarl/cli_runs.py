"""Commands that run something. Each body is a few lines that call a program and show what it returns."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlarl.cli_command import CHECK, RUNS, Overrides, RecipeArgument, command
from vlarl.cli_results import tell_outcome
from vlarl.console import Console
from vlarl.errors import Exit

if TYPE_CHECKING:
    from vlarl.recipe.load import LoadedRecipe
    from vlarl.train import TrainingResult, Watcher

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, its name, or `last`.")]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where run folders are.")]
EpisodesOption = Annotated[
    int | None,
    typer.Option(
        "--episodes", metavar="N", help="Episodes a task; default: those of the run's recipe, 20 without a run.", min=1
    ),
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="RUN|DIR|hf://OWNER/NAME@COMMIT",
        help="Run, checkpoint of a run, or checkpoint in Hugging Face layout; the newest fitting run when absent.",
    ),
]
SettingsOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="How a checkpoint in Hugging Face layout is used: `policy.images=plain`, `suite.num_envs=8`.",
    ),
]
_RUNS = Path("runs")
_CLONE_NEWS = 100  # updates between two signs of life of the warm start


class PolicyChoice(StrEnum):
    checkpoint = "checkpoint"
    expert = "expert"
    random = "random"


class DecodingChoice(StrEnum):
    greedy = "greedy"
    sampled = "sampled"


class SplitChoice(StrEnum):
    eval = "eval"
    sampled = "sampled"


@command("train", RUNS)
def train(
    console: Console,
    recipe: RecipeArgument,
    overrides: Overrides = [],  # noqa: B006
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help="Instead of the recipe's `run.folder`.")
    ] = None,
    or_resume: Annotated[
        bool, typer.Option("--or-resume", help="Go on with the newest unfinished run of the same recipe, if any.")
    ] = False,
) -> None:
    """Run a recipe: warm start, then collect, score and update until done."""
    from vlarl.train import train as run_training

    loaded = _load(console, recipe, overrides)
    with watching(console, loaded) as watcher:
        result = run_training(loaded, command=sys.argv, or_resume=or_resume, run_folder=runs, watcher=watcher)
    _show_training(console, result)


@command("resume", RUNS)
def resume(
    console: Console,
    run: RunArgument,
    overrides: Overrides = [],  # noqa: B006
    iterations: Annotated[
        int | None, typer.Option("--iterations", metavar="N", help="New total number of iterations.", min=1)
    ] = None,
    runs: RunsOption = _RUNS,
) -> None:
    """Go on with a stopped run; the result is that of never stopping."""
    from vlarl.distributed import met_by_all
    from vlarl.recipe.load import load_recipe
    from vlarl.run.folder import open_run
    from vlarl.train import resume as resume_training

    with met_by_all():
        folder = open_run(run, runs)
    with watching(console, load_recipe(folder.resolved_recipe, overrides), until=iterations) as watcher:
        result = resume_training(folder, command=sys.argv, iterations=iterations, overrides=overrides, watcher=watcher)
    _show_training(console, result)


@command("sft", RUNS)
def sft(
    console: Console,
    recipe: RecipeArgument,
    overrides: Overrides = [],  # noqa: B006
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help="Instead of the recipe's `run.folder`.")
    ] = None,
) -> None:
    """Behaviour-clone only: a run that stops after its warm start and can be resumed into RL."""
    from vlarl.train import train as run_training

    loaded = _load(console, recipe, overrides)
    with watching(console, loaded) as watcher:
        result = run_training(loaded, command=sys.argv, run_folder=runs, until=0, watcher=watcher)
    _show_training(console, result)
    if result.told:
        console.say(f"go on with reinforcement learning: vlarl resume {result.run.path}")


@command("collect", RUNS)
def collect(
    console: Console,
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the HDF5 files, one a task.")],
    overrides: Overrides = [],  # noqa: B006
    episodes: Annotated[
        int | None, typer.Option("--episodes", metavar="N", help="Episodes over all tasks.", min=1)
    ] = None,
) -> None:
    """Record the suite's scripted experts as demonstrations in LIBERO's layout."""
    from vlarl.collect import collect_demonstrations

    loaded = _load(console, recipe, overrides)
    done = collect_demonstrations(
        loaded.recipe, out, num_episodes=episodes, progress=lambda result: console.say(f"recorded {result.path.stem}")
    )
    rows = [(name, r.recorded, r.tried, r.num_steps, str(r.path)) for name, r in done.rows]
    headers = ("task", "recorded", "tried", "steps", "file")
    console.document(folder=str(done.folder), tasks=[dict(zip(headers, row, strict=True)) for row in rows])
    console.table(headers, rows)


@command("check-demos", RUNS)
def check_demos(
    console: Console,
    source: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="HDF5 demonstrations in LIBERO's layout.")],
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="S", help="Refuse demonstrations of any other suite.")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", metavar="N", help="Only the first N of each file.", min=1)
    ] = None,
) -> Exit:
    """Replay stored actions of demonstrations and compare the states: 5 when they differ."""
    from vlarl.check_demos import HEADERS, check_demonstrations, check_json, check_notes, check_rows
    from vlarl.registry import suite_spec_for

    if suite is not None:
        suite_spec_for(suite)  # UsageError where there is none
    done = check_demonstrations(
        source, suite=suite, num_episodes=episodes, progress=lambda demo: console.say(f"replayed {demo}")
    )
    console.document(**check_json(done))
    console.table(HEADERS, check_rows(done))
    for note in check_notes(done):
        console.say(note)
    return done.exit_status


@command("eval", RUNS)
def evaluate(
    console: Console,
    suite: Annotated[str, typer.Option("--suite", metavar="S", help="Suite, for example tabletop_basic.")],
    checkpoint: CheckpointOption = None,
    policy: Annotated[PolicyChoice, typer.Option("--policy", help="What acts.")] = PolicyChoice.checkpoint,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="A,B", help="Only these tasks, separated by commas.")
    ] = None,
    episodes: EpisodesOption = None,
    split: Annotated[
        SplitChoice,
        typer.Option(
            "--split", help="The suite's own evaluation states, or a second set: sampled as for training, and others."
        ),
    ] = SplitChoice.eval,
    decoding: Annotated[
        DecodingChoice, typer.Option("--decoding", help="How tokens are chosen.")
    ] = DecodingChoice.greedy,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="With `--decoding sampled`.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of sampled and random actions.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the result goes.")] = None,
    runs: RunsOption = _RUNS,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Run the I-th of N parts, for `vlarl merge`.")
    ] = None,
    videos: Annotated[
        int, typer.Option("--videos", metavar="N", help="Videos a task: first, best, worst episode.", min=0, max=3)
    ] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run all episodes, also those on disk already.")] = False,
    overrides: SettingsOption = [],  # noqa: B006
) -> Exit:
    """Evaluate on held-out init states: k/n and a 95 % interval per task. Runs only what is not on disk yet."""
    from vlarl.evaluate import evaluate as run_evaluation
    from vlarl.results_shards import parse_shard

    outcome = run_evaluation(
        suite,
        checkpoint=checkpoint,
        policy=policy.value,
        tasks=tasks.split(",") if tasks else None,
        episodes=episodes,
        split=split.value,
        decoding=decoding.value,
        temperature=temperature,
        seed=seed,
        out=out,
        runs=runs,
        shard=parse_shard(shard) if shard is not None else None,
        videos=videos,
        fresh=fresh,
        overrides=overrides,
        progress=lambda done, total, trial: _tell_tenths(console, "evaluated", done, total),
        say=console.say,
    )
    return tell_outcome(console, outcome)


@command("replay", RUNS)
def replay(
    console: Console,
    run: RunArgument,
    episode: Annotated[str, typer.Argument(metavar="TASK:INIT", help="Episode of an evaluation.")],
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--evaluation", metavar="FILE", help="Its document; the run's newest with that episode when absent."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Video to write.")] = None,
    runs: RunsOption = _RUNS,
) -> None:
    """Replay an evaluated episode, check that it ends as recorded, write a video."""
    from vlarl.replay import replay as run_replay
    from vlarl.replay import replay_json, replay_text

    done = run_replay(run, episode, evaluation=evaluation, out=out, runs=runs)
    console.document(**replay_json(done))
    console.data(replay_text(done))


@command("report", RUNS)
def report(
    console: Console,
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|STUDY...",
            help="Run folder, its name, `last`, or a study's folder. Several runs are compared with the first.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write: .html, .md (Markdown) or .csv.")
    ] = None,
    runs: RunsOption = _RUNS,
) -> None:
    """Write one file that shows what a run did, what a study found, or how several runs compare."""
    from vlarl.report import report as write_report
    from vlarl.report import report_json, report_notes, report_text

    written = write_report(*run, out=out, runs=runs)
    console.document(**report_json(written))
    console.data(report_text(written))
    for note in report_notes(written):
        console.say(note)


@command("doctor", CHECK)
def doctor(
    console: Console,
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Also check what this recipe needs.")] = None,
    runs: Annotated[
        Path | None,
        typer.Option("--runs", metavar="DIR", help="Where run folders go; the recipe's folder, or runs, when absent."),
    ] = None,
    container: Annotated[
        bool,
        typer.Option("--container", help="Check what an image holds, not the machine; a warning is a failure then."),
    ] = False,
) -> Exit:
    """Check this machine: what was found, why it matters, what to do."""
    from vlarl.doctor import doctor as examine
    from vlarl.doctor import doctor_json, doctor_text

    diagnosis = examine(recipe, runs=runs, container=container)
    console.document(**doctor_json(diagnosis))
    console.data(doctor_text(diagnosis, verbose=console.verbose))
    return diagnosis.exit_status


def _load(console: Console, recipe: str, overrides: list[str]) -> LoadedRecipe:
    from vlarl.distributed import met_by_all, speaks
    from vlarl.recipe.load import load_recipe
    from vlarl.recipe.shipped import find_recipe

    with met_by_all():
        loaded = load_recipe(find_recipe(recipe), overrides)
    if not console.as_json and speaks():
        console.diagnostics(loaded.warnings)
    return loaded


@contextmanager
def watching(console: Console, loaded: LoadedRecipe, until: int | None = None) -> Iterator[Watcher]:
    """A watcher that shows progress up to iteration ``until``; the bar appears with the first iteration."""
    from vlarl.train import Watcher
    from vlarl.warmstart import Progress

    recipe = loaded.recipe
    bars: list[Any] = []

    def iteration(event: Mapping[str, Any]) -> None:
        if not bars:
            bars.append(console.progress("iteration", until or recipe.train.iterations, event["iteration"]))
            bars.append(bars[0].__enter__())
        bars[1](event["iteration"] + 1, _facts(event))
        for warning in event["warnings"]:
            console.say(f"warning: iteration {event['iteration']}: {warning}")

    def cloned(update: int, loss: float) -> None:
        if (update + 1) % _CLONE_NEWS == 0 and recipe.imitation is not None:
            console.say(f"imitation {update + 1}/{recipe.imitation.updates}  loss {loss:.3f}")

    watcher = Watcher(
        say=console.say,
        iteration=iteration,
        evaluation=lambda event: console.say(_evaluation_line(event)),
        warm_start=Progress(
            recorded=lambda result: console.say(f"recorded {result.path.stem}: {result.recorded} episodes"),
            cloned=cloned,
            noted=console.say,
        ),
    )
    try:
        yield watcher
    finally:
        if bars:
            bars[0].__exit__(None, None, None)


def _facts(event: Mapping[str, Any]) -> dict[str, str]:
    stats, ledger, counts = event["stats"], event["ledger"], event["success_rate"]
    steps = event["env_steps"] / (event["iteration"] + 1)
    return {
        "success": f"{counts['k']}/{counts['n']}",
        "kl": f"{stats['approx_kl']:.4f}",
        "clipped": f"{stats['clip_fraction']:.2f}",
        "value": f"{stats['explained_variance']:+.2f}",
        "steps/s": f"{steps / ledger['total_seconds']:.0f}",
    }


def _evaluation_line(event: Mapping[str, Any]) -> str:
    from vlarl.intervals import PairedComparison
    from vlarl.results import Comparison
    from vlarl.results_text import count_cells, sentence

    counted, rate, interval, _ = count_cells(event["overall"])
    line = f"evaluation after {event['iteration']} iterations: {counted} {rate} {interval}"
    if "against_baseline" in event:
        pair = PairedComparison(**event["against_baseline"])
        line += f"\n  against step 0: {sentence(Comparison(overall=pair, tasks={}))}"
    return "\n".join([line, *(f"  warning: {warning}" for warning in event["warnings"])])


def _tell_tenths(console: Console, what: str, done: int, total: int) -> None:
    if done * 10 // total != (done - 1) * 10 // total:
        console.say(f"{what} {done}/{total}")


def _show_training(console: Console, result: TrainingResult) -> None:
    from vlarl.results import RESUMABLE_PROTOCOL, compare
    from vlarl.results_text import comparison_table, sentence, table

    if not result.told:
        return
    fields: dict[str, Any] = {"run": str(result.run.path), "iterations": result.iterations, "chain": result.chain}
    fields |= {"first_evaluation": result.first["overall"], "last_evaluation": result.last["overall"]}
    console.data(table(result.first))
    if result.last["iteration"] != result.first["iteration"]:
        comparison = compare(result.first, result.last, despite=RESUMABLE_PROTOCOL)
        fields["comparison"] = vars(comparison.overall)
        console.data(f"\n{table(result.last)}\n\n{comparison_table(comparison)}\n\n{sentence(comparison)}")
    console.document(**fields)
    console.say(f"run {result.run.path}\nchain {result.chain}")
