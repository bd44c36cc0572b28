"""Entry point of the command `vlarl`."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from vlarl import cli_prm, cli_recipes, cli_reproduce, cli_results, cli_runs, cli_study
from vlarl.cli_command import app
from vlarl.console import Console, Display
from vlarl.errors import Exit

__all__ = ["app", "cli_prm", "cli_recipes", "cli_reproduce", "cli_results", "cli_runs", "cli_study", "main"]

_MISPLACED = "No such option: --instructions"


def main(arguments: list[str] | None = None) -> None:
    """Entry point: wrong usage exits with 2, as JSON where `--json` was asked for."""
    try:
        _command(arguments)
    except SystemExit as ending:
        if os.environ.get("WORLD_SIZE", "1") != "1" and isinstance(ending.code, int):
            # Threads that torch keeps for its rendezvous can abort the interpreter while it is torn down, after all
            # is written and said.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ending.code)
        raise


def _command(arguments: list[str] | None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    usage_problem: Any = typer.BadParameter.__base__
    try:
        sys.exit(app(args=words, prog_name="vlarl", standalone_mode=False) or 0)
    except usage_problem as problem:
        if type(problem).__name__ == "NoArgsIsHelpError":
            print(problem.format_message())
        elif "--json" in words:
            Console("usage", as_json=True, display=Display.none).document(
                ok=False, error={"code": "U200", "message": problem.format_message(), "hint": _help_hint(problem)}
            )
        else:
            problem.show()
            if _MISPLACED in problem.format_message():
                print(_help_hint(problem), file=sys.stderr)
        sys.exit(int(Exit.USAGE))
    except typer.Abort:
        sys.exit(int(Exit.INTERRUPTED))


def _help_hint(problem: Any) -> str:
    if _MISPLACED in problem.format_message():
        return "`--instructions` goes before the command: `vlarl --instructions avx2 train RECIPE`"
    command = problem.ctx.command_path if problem.ctx is not None else "vlarl"
    return f"`{command} --help` lists what it takes"
