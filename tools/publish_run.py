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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def without_places(text: str, run: Path) -> str:
    """The text with this machine's folders taken out: they vouch for nothing and are nobody's business."""
    checkout = run.resolve().parents[1]
    places = {Path(__file__).resolve().parents[1]: ".", checkout: ".", checkout.parent: "..", Path.home(): "~"}
    for place in sorted(places, key=lambda place: -len(str(place))):
        text = text.replace(f"{place}/", f"{places[place]}/")
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
    for name, text in texts.items():
        (out / name).write_text(without_places(text, run))
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
