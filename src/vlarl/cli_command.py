"""What all commands share: the application, the options of every command, errors as exit statuses.

Imports inside the bodies keep `vlarl --help` fast and `vlarl validate` free of torch. The decorator
`command` declares the options that every command has and turns errors into exit statuses.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vlarl.console import Console, Display, clean
from vlarl.errors import Exit, VlarlError
from vlarl.run.instructions import VARIABLE, Instructions, use_instructions

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

            def prepared() -> Exit | None:
                use_instructions()
                return body(console, **options)

            raise typer.Exit(int(guarded(console, prepared)))

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
        console.document(ok=False, error={"code": None, "message": "interrupted"})
        console.say("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has seen enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except BaseException as error:
        # A panic of a library in Rust is no Exception, so that nobody takes it for one he expected; it ends here all
        # the same. What else is none (SystemExit, GeneratorExit) goes its way.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        console.failure(_unexpected(error, verbose=console.verbose))
        return Exit.RUN_FAILED


def _unexpected(error: BaseException, *, verbose: bool) -> VlarlError:
    import tempfile
    import traceback

    text = "".join(traceback.format_exception(error))
    if verbose:
        sys.stderr.write(clean(text))
    with tempfile.NamedTemporaryFile(
        "w", prefix="vlarl-error-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as stream:
        stream.write(f"vlarl {' '.join(sys.argv[1:])}\n{text}")
    first = (str(error).splitlines() or [""])[0]
    message = f"unexpected {type(error).__name__}: {first}" if first else f"unexpected {type(error).__name__}"
    return VlarlError(
        message, code="X500", place=stream.name, hint="the file above holds the traceback; `-v` prints it"
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        from vlarl import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    instructions: Annotated[
        Instructions,
        typer.Option(
            envvar=VARIABLE,
            case_sensitive=False,
            help="Vector instructions: the processor's own, or the same on all that have AVX2.",
        ),
    ] = Instructions.native,
) -> None:
    os.environ[VARIABLE] = instructions.value  # for programs that this one starts
