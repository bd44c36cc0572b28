"""The commands. Each body is a few lines that call a program and show what it returns.

Imports inside the bodies keep `vlarl --help` fast and `vlarl validate` free of torch. The decorator
`command` declares the options that every command has and turns errors into exit statuses.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vlarl.console import Console, Display, table_text
from vlarl.errors import Exit, VlarlError

EXIT_HELP = (
    "Exit status: 0 ok, 1 run failed (what it kept is named), 2 wrong usage, 3 invalid recipe, 4 machine or asset not "
    "usable, 5 drift from what was recorded, 75 stopped but resumable, 130 interrupted twice."
)
RECIPES, RUNS, LEARN, CHECK = "Recipes", "Runs", "Reference", "Machine"


class GroupedHelp(TyperGroup):
    """Lists the commands under headings; plain text, because loading rich would double the time."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            listed = self.get_command(ctx, name)
            if listed is not None and not listed.hidden:
                panel = getattr(listed, "rich_help_panel", None) or "Commands"
                panels.setdefault(str(panel), []).append((name, listed.get_short_help_str(limit=90)))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


app = typer.Typer(
    cls=GroupedHelp,
    help="Online reinforcement learning for vision-language-action policies: one validated recipe, one repeatable run.",
    epilog=EXIT_HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="PATH=VALUE", help="Change one value: `ppo.lr=1e-4`, `rewards[success].weight=2`."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of an unexpected error.")]
DisplayOption = Annotated[
    Display | None, typer.Option("--display", help="How stderr is written; chosen by the terminal when absent.")
]
_SHARED = {"as_json": (JsonOption, False), "verbose": (VerboseOption, False), "display": (DisplayOption, None)}

Body = Callable[..., Exit | None]


def command(name: str, panel: str) -> Callable[[Body], Body]:
    """Registers ``body`` (console, then its own options) as a command with the options all commands share."""

    def register(body: Body) -> Body:
        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for key, (annotation, default) in _SHARED.items()
        ]

        @functools.wraps(body)
        def run(*, as_json: bool, verbose: bool, display: Display | None, **options: Any) -> None:
            console = Console.for_command(name, as_json=as_json, verbose=verbose, display=display)
            raise typer.Exit(int(guarded(console, functools.partial(body, console, **options))))

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name, rich_help_panel=panel, epilog=EXIT_HELP)(run)
        return body

    return register


def guarded(console: Console, body: Callable[[], Exit | None]) -> Exit:
    """Runs ``body``; an error becomes its message and its exit status, never a traceback."""
    try:
        status = body() or Exit.OK
        sys.stdout.flush()
        return status
    except VlarlError as error:
        console.failure(error)
        return error.exit_status
    except KeyboardInterrupt:
        console.say("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has seen enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:
        console.failure(_unexpected(error, verbose=console.verbose))
        return Exit.RUN_FAILED


def _unexpected(error: Exception, *, verbose: bool) -> VlarlError:
    import tempfile
    import traceback

    text = "".join(traceback.format_exception(error))
    if verbose:
        sys.stderr.write(text)
    with tempfile.NamedTemporaryFile("w", prefix="vlarl-error-", suffix=".log", delete=False) as stream:
        stream.write(f"vlarl {' '.join(sys.argv[1:])}\n{text}")
    first = (str(error).splitlines() or [""])[0]
    message = f"unexpected {type(error).__name__}: {first}" if first else f"unexpected {type(error).__name__}"
    return VlarlError(
        message, code="X500", place=stream.name, hint="the file above holds the traceback; `-v` prints it"
    )


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from vlarl import __version__

        print(__version__)
        raise typer.Exit


@command("init", RECIPES)
def init(
    console: Console,
    destination: Annotated[
        Path | None, typer.Argument(metavar="[DEST]", help="File to write; NAME.yaml when absent.")
    ] = None,
    source: Annotated[str, typer.Option("--from", metavar="NAME", help="Recipe to start from.")] = "quickstart",
    full: Annotated[bool, typer.Option("--full", help="Write every field, defaults included.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write a commented recipe to start from."""
    from vlarl.recipe.starter import write_starter

    path = write_starter(source, destination, full=full, force=force)
    console.document(path=str(path))
    console.data(str(path))
    console.say(f"next: vlarl validate {path}\n      vlarl train {path}")


@command("validate", RECIPES)
def validate(
    console: Console,
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Recipe files, patterns or names.")],
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
) -> Exit:
    """Check recipes and report every problem at once."""
    from vlarl.recipe.load import validate_all

    results = validate_all(recipes, overrides)
    for result in results:
        if result.digest is not None:
            console.data(f"ok  {result.digest[:12]}  {result.path}")
        if not console.as_json:
            console.diagnostics(result.diagnostics, summary=result.summary)
    ok = all(result.digest is not None for result in results)
    listed = [{"path": r.path, "ok": r.digest is not None, "digest": r.digest} for r in results]
    console.document(ok=ok, recipes=listed, diagnostics=[d for r in results for d in r.diagnostics])
    return Exit.OK if ok else Exit.RECIPE


@command("show", RECIPES)
def show(
    console: Console,
    recipe: RecipeArgument,
    overrides: Overrides = [],  # noqa: B006
    resolved: Annotated[bool, typer.Option("--resolved", help="Every value, defaults included.")] = False,
    origin: Annotated[bool, typer.Option("--origin", help="Say beside each value where it comes from.")] = False,
    diff: Annotated[
        str | None, typer.Option("--diff", metavar="RECIPE", help="Only what differs from this recipe.")
    ] = None,
) -> None:
    """Show a recipe after `extends` and `--set`."""
    from vlarl.recipe.load import load_recipe
    from vlarl.recipe.shipped import find_recipe

    loaded = load_recipe(find_recipe(recipe), overrides)
    if diff is None:
        values = loaded.values(resolved=resolved)
        origins = loaded.origins(values) if origin else {}
        console.document(recipe=values, digest=loaded.digest, origins=origins, diagnostics=loaded.warnings)
        console.data(loaded.as_yaml(values, origins))
    else:
        rows = loaded.differences(load_recipe(find_recipe(diff)))
        console.document(differences=rows, digest=loaded.digest)
        if rows:
            console.table(("value", "here", Path(diff).name), [(d["path"], d["here"], d["there"]) for d in rows])
        else:
            console.say("no differences")


@command("list", LEARN)
def list_(
    console: Console,
    what: Annotated[
        str, typer.Argument(metavar="[WHAT]", help="recipes, suites, policies, critics, rewards or curricula.")
    ] = "",
) -> None:
    """List shipped recipes and the kinds of parts."""
    from vlarl.recipe.listing import listing

    tables = listing(what)
    console.document(tables={name: table.as_data() for name, table in tables.items()})
    console.data("\n\n".join(table_text(table.headers, table.rows) for table in tables.values()))


@command("explain", LEARN)
def explain(
    console: Console, topic: Annotated[str, typer.Argument(metavar="FIELD|CODE", help="For example ppo.clip or R201.")]
) -> None:
    """Explain a field of the recipe or the code of an error."""
    from vlarl.recipe.docs import explain as explain_topic

    text, data = explain_topic(topic)
    console.document(topic=data)
    console.data(text)


@command("schema", LEARN)
def schema(
    console: Console,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the committed files with the specs; 5 when stale.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write the committed schema and field reference anew.")
    ] = False,
) -> None:
    """Print the JSON schema of recipes, for editors."""
    from vlarl.recipe import generated

    if check or write:
        files = generated.write() if write else generated.check()
        console.document(files=[str(path) for path in files])
        console.say(f"{'written' if write else 'up to date'}: {', '.join(map(str, files))}")
    else:
        console.document(json_schema=generated.recipe_json_schema())
        console.data(generated.schema_text())


def main(arguments: list[str] | None = None) -> None:
    """Entry point: wrong usage exits with 2, as JSON where `--json` was asked for."""
    words = sys.argv[1:] if arguments is None else arguments
    usage_problem: Any = typer.BadParameter.__base__
    try:
        sys.exit(app(args=words, prog_name="vlarl", standalone_mode=False) or 0)
    except usage_problem as problem:
        if type(problem).__name__ == "NoArgsIsHelpError":
            print(problem.format_message())
        elif "--json" in words:
            Console("usage", as_json=True, display=Display.none).document(
                ok=False, error={"code": "U200", "message": problem.format_message()}
            )
        else:
            problem.show()
        sys.exit(int(Exit.USAGE))
    except typer.Abort:
        sys.exit(int(Exit.INTERRUPTED))
