"""Rollout and update together: env steps/s, where an iteration's time goes, peak memory.

    python benchmarks/end_to_end.py [--iterations 12]

Trains recipes/quickstart.yaml without its warm start into a temporary folder and reads the run's own ledger.
The share of the loop outside simulation, rendering and torch is what no stage of the ledger accounts for.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path
from statistics import median

from vlarl.recipe.load import load_recipe
from vlarl.run.events import read_events
from vlarl.train import train

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
SKIPPED = 2  # first iterations: caches are cold, and the critic warm-up trains half of the parameters


def measure(iterations: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "imitation=null",
            f"train.iterations={iterations}",
            "train.critic_warmup=1",
            "evaluation.episodes=1",
            "evaluation.videos=false",
            "ppo.lr=1e-6",
        ]
        result = train(load_recipe(RECIPE, overrides), command=["benchmark"], run_folder=Path(folder))
        events = [e for e in read_events(result.run.events) if e["kind"] == "iteration"][SKIPPED:]
    steps = events[0]["env_steps"] // (SKIPPED + 1)
    ledgers = [event["ledger"] for event in events]
    stages = {name: median(ledger[name] for ledger in ledgers) for name in ledgers[0]}
    total = stages["total_seconds"]
    print(f"env steps/s, median of {len(events)} iterations of {steps} steps: {steps / total:.0f}")
    named = ("infer_seconds", "update_seconds", "record_seconds", "idle_seconds")
    for name in (*named, "simulate_seconds", "render_seconds"):
        beside = "  (in the workers, beside the rest)" if name in ("simulate_seconds", "render_seconds") else ""
        print(f"  {name.removesuffix('_seconds'):9} {stages[name]:6.2f} s  {100 * stages[name] / total:5.1f} %{beside}")
    outside = total - stages["infer_seconds"] - stages["update_seconds"] - stages["idle_seconds"]
    print(f"loop outside simulation, rendering and torch: {100 * outside / total:.1f} % (bound: 10 %)")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory: trainer {peak:.0f} MB, largest simulator process {workers:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=12)
    measure(parser.parse_args().iterations)


if __name__ == "__main__":
    main()
