"""Copy what vouches for a published number out of a run folder: manifest, recipe, chain and evaluations.

    python tools/publish_run.py RUN docs/results/NAME

Weights, pixels and per-episode arrays stay behind; the evaluations keep one row per episode.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

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


def without_places(text: str, run: Path) -> str:
    """The text with this machine's folders taken out: they vouch for nothing and are nobody's business."""
    checkout = run.resolve().parents[1]
    for place, stand_in in ((checkout, "."), (checkout.parent, ".."), (Path.home(), "~")):
        text = text.replace(f"{place}/", f"{stand_in}/")
    return text


def publish(run: Path, out: Path) -> list[Path]:
    """The written files. ``chain.jsonl`` has a line per iteration: link, digests, counts, statistics, seconds."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in ("manifest.json", "recipe.resolved.yaml"):
        (out / name).write_text(without_places((run / name).read_text(), run))
        written.append(out / name)
    for evaluation in sorted((run / "eval").glob("*.json")):
        shutil.copyfile(evaluation, out / evaluation.name)
        written.append(out / evaluation.name)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    lines = [
        json.dumps({name: event[name] for name in CURVE_FIELDS}, separators=(",", ":"))
        for event in events
        if event["kind"] == "iteration"
    ]
    chain = out / "chain.jsonl"
    chain.write_text("".join(f"{line}\n" for line in lines))
    return [*written, chain]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    for path in publish(options.run, options.out):
        print(path)


if __name__ == "__main__":
    main()
