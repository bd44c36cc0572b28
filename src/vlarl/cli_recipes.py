"""Commands about recipes. Each body is a few lines that call layer 2 and show what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlarl.cli_command import LEARN, RECIPES, Overrides, RecipeArgument, command
from vlarl.console import Console, table_text
from vlarl.errors import Exit


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


@command("plan", RECIPES)
def plan(
    console: Console,
    recipe: RecipeArgument,
    overrides: Overrides = [],  # noqa: B006
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="SIZE", help="Plan for GPUs of this memory, such as 80GB.")
    ] = None,
    num_gpus: Annotated[
        int | None, typer.Option("--num-gpus", metavar="N", help="How many of them; 1, or what this machine has.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write the plan there, as JSON.")
    ] = None,
) -> None:
    """Say what a run will take: parameters, memory, work, time, disk, and whether it fits."""
    from vlarl.plan import make_plan
    from vlarl.plan_machine import named_machine, this_machine
    from vlarl.plan_text import plan_text
    from vlarl.recipe.load import load_recipe
    from vlarl.recipe.shipped import find_recipe
    from vlarl.run.files import disk_errors, write_json

    loaded = load_recipe(find_recipe(recipe), overrides)
    machine = named_machine(gpu, 1 if num_gpus is None else num_gpus) if gpu is not None else this_machine(num_gpus)
    made = make_plan(loaded.recipe, machine)
    if out is not None:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, made.as_data())
    console.document(plan=made.as_data(), diagnostics=loaded.warnings)
    console.data(plan_text(made))


@command("list", LEARN)
def list_(
    console: Console,
    what: Annotated[
        str,
        typer.Argument(
            metavar="[WHAT]", help="recipes, suites, policies, critics, rewards, curricula or reward-models."
        ),
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
