"""Process reward models: labelling rate without pictures, memory over size of the data, scoring in batches.

    python benchmarks/prm.py [--demos 8]
    python benchmarks/prm.py --qwen CHECKPOINT [--image-size 224]

Demonstrations are made up: 150 steps of 128 x 128 pixels each, as many of LIBERO's are. Memory is the peak of a process
of its own that labels, pictures included. Scoring is the tiny model's at 64 pixels on one thread; with ``--qwen`` that
of a Qwen-VL checkpoint, on a GPU when there is one. `tools/small_qwen.py OUT --sizes 2b` writes one of random weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from vlarl.recipe.load import parse_recipe
from vlarl.suites.demonstrations import DemonstrationWriter
from vlarl.types import Task, Trajectory

LENGTH, SIDE, SIZES = 150, 128, (1, 8)


def write_demonstrations(path: Path, count: int) -> None:
    random = np.random.default_rng(0)
    task = Task(suite="tabletop_basic", index=0, name=path.stem, instruction="pick up the red cube", horizon=300)
    writer = DemonstrationWriter(
        path, task, suite={"kind": "tabletop", "name": "tabletop_basic"}, control_hz=20.0, image_size=SIDE
    )
    for _ in range(count):
        speed = np.where(np.arange(LENGTH) % 50 < 40, 1.0, 0.0)
        place = np.cumsum(speed)[:, None] * np.array([0.01, 0.0, 0.0])
        finger = np.where(np.arange(LENGTH) % 100 < 45, 0.04, 0.02)
        background = random.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        writer.add(
            Trajectory(
                instruction=task.instruction,
                images=np.broadcast_to(background, (LENGTH, SIDE, SIDE, 3)),
                actions=np.zeros((LENGTH, 7), np.float32),
                executed=np.zeros((LENGTH, 7), np.float32),
                signals={"ee_pos": place, "gripper_states": np.stack([finger, -finger], axis=1)},
                spec=None,
                success=True,
            )
        )
    writer.commit()


def label_all(path: Path, out: Path) -> float:
    """Peak resident memory in MiB of labelling ``path``."""
    from vlarl.prm.label import label_segments

    label_segments(parse_recipe("").recipe, out, demonstrations=[path])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def labelling_rate(path: Path) -> float:
    """Steps a second, read, cut and labelled, no picture decoded."""
    from vlarl.prm.label import survey
    from vlarl.prm.labelling import draw_examples

    labels = parse_recipe("").recipe.labels
    started = perf_counter()
    found = survey([path], labels)
    draw_examples([each.cut for each in found.trajectories], len(found.instructions), labels, 0)
    return sum(each.cut.num_steps for each in found.trajectories) / (perf_counter() - started)


def scoring_rates(count: int, batch_size: int) -> tuple[float, float]:
    """Frames a second one by one and in batches."""
    import torch

    from vlarl.prm.folder import probabilities
    from vlarl.prm.protocol import Views
    from vlarl.prm.tiny_model import TinyRewardModel
    from vlarl.recipe.specs.prm import TinyPrmSpec

    torch.set_num_threads(1)
    model = TinyRewardModel(TinyPrmSpec(), image_size=64, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    views = Views(images=images, previous=None, instructions=["pick up the red cube"] * count)
    rates = []
    for size in (1, batch_size):
        probabilities(model, views, size)
        started = perf_counter()
        probabilities(model, views, size)
        rates.append(count / (perf_counter() - started))
    return rates[0], rates[1]


def qwen_rates(checkpoint: Path, image_size: int, count: int, batch_size: int) -> None:
    """Frames a second in forwards of one and of many, pictures included."""
    from vlarl.prm.folder import probabilities
    from vlarl.prm.protocol import Views
    from vlarl.prm.qwen_vl import QwenVlRewardModel
    from vlarl.recipe.specs.prm import QwenVlPrmSpec

    model = QwenVlRewardModel(QwenVlPrmSpec(checkpoint=str(checkpoint)), image_size=image_size, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (count, image_size, image_size, 3), dtype=np.uint8)
    views = Views(images=images, previous=None, instructions=["pick up the red cube"] * count)
    for size in (1, batch_size):
        probabilities(model, views, size)
        started = perf_counter()
        probabilities(model, views, size)
        seconds = perf_counter() - started
        print(f"{checkpoint.name}, {image_size} pixels, forwards of {size}: {count / seconds:.1f} frames/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demos", type=int, default=8, help="demonstrations of the smaller data set")
    parser.add_argument("--label", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--qwen", type=Path, metavar="CHECKPOINT", help="time scoring by a Qwen-VL checkpoint alone")
    parser.add_argument("--image-size", type=int, default=224, help="pixels of the pictures that it scores")
    options = parser.parse_args()
    if options.qwen:
        qwen_rates(options.qwen, options.image_size, 64, 32)
        return
    if options.label:
        print(json.dumps(label_all(*options.label)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in SIZES:
            path = folder / f"{size}.hdf5"
            write_demonstrations(path, size * options.demos)
            words = [sys.executable, __file__, "--label", str(path), str(folder / f"labels-{size}")]
            peak = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
            print(f"{size}x data ({size * options.demos * LENGTH} steps): peak memory {peak:.0f} MiB")
        print(f"labelling without pictures: {labelling_rate(folder / f'{SIZES[-1]}.hdf5'):,.0f} steps/s")
    alone, together = scoring_rates(256, 64)
    print(f"scoring: {alone:.0f} frames/s one by one, {together:.0f} in batches of 64 ({together / alone:.1f} times)")


if __name__ == "__main__":
    main()
