"""Copy what vouches for a published number out of a run folder: manifest, recipe, chain and evaluations.

    python tools/publish_run.py RUN docs/results/NAME
    python tools/publish_run.py RUN tests/golden/NAME --reference

Weights, pixels and per-episode arrays stay behind; the evaluations keep one row per episode. ``--reference`` keeps only
what `vlarl reproduce` compares, without statistics and seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlarl import study_collect

CURVE_FIELDS = (
    "iteration",
    "env_steps",
    "chain",
    "digests",
    "success_rate",
    "episode_length",
    "reward",
    "stats",
    "ledger",
)
REFERENCE_FIELDS = ("iteration", "chain", "digests")


def without_places(text: str, run: Path, recipes: Sequence[Path] = ()) -> str:
    """The text with this machine's folders taken out, as studies take them out of theirs.

    ``recipes``: folders of the recipes. DIR is the folder of runs, or another above it that is not the present one.
    """
    runs = run.resolve().parent
    for place in (runs, runs.parent, runs.parent.parent, Path(__file__).resolve().parents[1]):
        text = study_collect.without_places(text, place, recipes)
    return text


def anonymous(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Without the machine's name and the program's place."""
    machine = {name: value for name, value in manifest["machine"].items() if name != "host"}
    return {**manifest, "machine": machine, "command": ["vlarl", *manifest["command"][1:]]}


def publish(run: Path, out: Path, *, reference: bool = False) -> list[Path]:
    """The written files. ``chain.jsonl`` has a line per iteration: link, digests, counts, statistics, seconds."""
    out.mkdir(parents=True, exist_ok=True)
    manifest = anonymous(json.loads((run / "manifest.json").read_text()))
    told = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    texts = {"manifest.json": told, "recipe.resolved.yaml": (run / "recipe.resolved.yaml").read_text()}
    recipes = sorted({Path(source).parent for source in manifest["recipe"]["sources"]})
    for name, text in texts.items():
        (out / name).write_text(without_places(text, run, recipes))
    evaluations = sorted((run / "eval").glob("*.json"))
    for evaluation in evaluations:
        shutil.copyfile(evaluation, out / evaluation.name)
    fields = REFERENCE_FIELDS if reference else CURVE_FIELDS
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    lines = [
        json.dumps({name: event[name] for name in fields}, separators=(",", ":"))
        for event in events
        if event["kind"] == "iteration"
    ]
    chain = out / "chain.jsonl"
    chain.write_text("".join(f"{line}\n" for line in lines))
    return [*(out / name for name in texts), *(out / one.name for one in evaluations), chain]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--reference", action="store_true", help="only what `vlarl reproduce` compares")
    options = parser.parse_args()
    for path in publish(options.run, options.out, reference=options.reference):
        print(path)


if __name__ == "__main__":
    main()
