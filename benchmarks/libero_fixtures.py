"""What `fixtures: official_sequence` changes: the expert on the same official states, with both placements.

python benchmarks/libero_fixtures.py --suite libero_goal --episodes 10 [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from vlarl.evaluation import held_out
from vlarl.intervals import paired, wilson
from vlarl.registry import build, suite_spec_for
from vlarl.suites.baselines import run_baseline
from vlarl.types import EpisodeSpec, Trial

MODES = ("fixed", "official_sequence")


def expert_trials(suite_name: str, fixtures: str, episodes: int, num_workers: int) -> dict[EpisodeSpec, Trial]:
    spec = suite_spec_for(suite_name, fixtures=fixtures)
    suite = build(spec)
    tasks = suite.tasks()
    specs = [each for each in held_out(len(tasks), episodes) if suite.has_expert(each.task)]
    return {trial.spec: trial for trial in run_baseline("expert", spec, specs, num_workers=num_workers)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="libero_goal")
    parser.add_argument("--episodes", type=int, default=10, help="official states a task")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    fixed, moved = (expert_trials(options.suite, mode, options.episodes, options.workers) for mode in MODES)
    names = [task.name for task in build(suite_spec_for(options.suite)).tasks()]
    rows = []
    for task in sorted({spec.task for spec in fixed}):
        specs = [spec for spec in fixed if spec.task == task]
        differing = sum(not np.array_equal(fixed[spec].actions, moved[spec].actions) for spec in specs)
        counts = [sum(found[spec].success for spec in specs) for found in (fixed, moved)]
        rows.append({"task": names[task], "episodes": len(specs), **dict(zip(MODES, counts)), "differing": differing})
        print(f"{names[task]:70} {counts[0]}/{len(specs)}  {counts[1]}/{len(specs)}  other actions in {differing}")
    outcomes = [[found[spec].success for spec in fixed] for found in (fixed, moved)]
    compared = paired(*outcomes)
    for mode, found in zip(MODES, outcomes):
        interval = wilson(sum(found), len(found))
        print(f"{mode}: {sum(found)}/{len(found)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]")
    low, high = 100 * compared.low, 100 * compared.high
    print(f"{100 * compared.difference:+.1f} points [{low:+.1f}, {high:+.1f}], p {compared.p_value:.3f}")
    if options.json:
        options.json.write_text(
            json.dumps({"suite": options.suite, "rows": rows, "paired": asdict(compared)}, indent=1)
        )


if __name__ == "__main__":
    main()
