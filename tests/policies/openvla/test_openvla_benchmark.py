"""The benchmark of OpenVLA, at toy sizes: that it runs, and that it counts what `vlarl plan` counts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import openvla
from openvla_random import SMALL, Planned, plan_sizes
from vlarl import plan_model
from vlarl.policies.openvla.sizes import PUBLISHED


def test_every_figure_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    openvla.main(["--small", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["check"]["rows_with_equal_tokens"] == found["check"]["rows"]
    assert found["check"]["replayed_to_direct"] < 1e-4
    assert [row["environments"] for row in found["rollout"]] == list(openvla.TOY.environments)
    assert [(row["micro_batch"], row["checkpointing"]) for row in found["update"]] == [
        (micro, checkpointing) for checkpointing in (False, True) for micro in openvla.TOY.micro_batches
    ]
    measured = {"env_steps_per_second", "times_naive", "step_ms", "step_to_floor", "prompt_tflops"}
    assert all(math.isfinite(row[name]) and row[name] > 0 for row in found["rollout"] for name in measured)
    assert all(row["samples_per_second"] > 0 and row["first_ratio_error"] < 0.05 for row in found["update"])
    text = capsys.readouterr().out
    assert all(name in text for name in (*measured, "samples_per_second", "peak_to_plan"))


def test_it_counts_the_published_model_as_plan_does() -> None:
    assert plan_sizes(PUBLISHED) == plan_model.PUBLISHED
    assert plan_sizes(PUBLISHED).total == PUBLISHED.num_parameters


def test_a_step_reads_weights_adapters_and_the_cache() -> None:
    planned = Planned(PUBLISHED)
    assert planned.step_bytes(0) == pytest.approx(12.95e9 + 2 * 79.95e6, rel=1e-3)
    assert planned.step_bytes(64) - planned.step_bytes(0) == pytest.approx(64 * 0.153e9, rel=0.02)


def test_plan_is_asked_for_the_phase_that_is_measured() -> None:
    planned = Planned(PUBLISHED)
    update = planned.peak("update", micro_batch=16, checkpointing=False)
    assert update > planned.peak("update", micro_batch=4, checkpointing=False) > 15e9
    assert planned.peak("rollout", environments=64, checkpointing=True) > 24e9
    assert planned.peak("rollout", environments=1, micro_batch=16) == 0, "the update is larger"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="--small"):
        openvla.main([])


def test_the_small_model_has_both_towers() -> None:
    assert set(plan_sizes(SMALL).towers) == {"DINOv2", "SigLIP"}
