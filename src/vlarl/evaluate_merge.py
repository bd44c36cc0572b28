"""`vlarl merge`: shards of an evaluation to the evaluation, written where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlarl.evaluate import SHARDS, EvaluationOutcome
from vlarl.results import write
from vlarl.results_shards import merge
from vlarl.results_store import free_label


def merge_shards(shards: Sequence[Path], *, out: Path | None = None) -> EvaluationOutcome:
    """Write the evaluation that ``shards`` make to ``out``.

    None: to the folder of the first shard, or above it where that is a run's folder of shards. Raises AssetError,
    R360 or R365, and writes nothing, where they do not make one.
    """
    merged = merge(shards)
    beside = shards[0].resolve().parent
    folder = out or (beside.parent if beside.name == SHARDS else beside)
    path = write(merged.document, merged.trials, folder, free_label(folder, merged.document))
    return EvaluationOutcome(document=merged.document, path=path, run=merged.document["run"], chosen=None)
