"""One update on one stored batch, by one process and by two."""

from __future__ import annotations

import numpy as np
import pytest
from launching import TESTS, Pair
from pair_update import NUM_SHARDS, updated
from safetensors.numpy import load_file

# Four shards on two processes are added up in another order than on one. Measured on a CPU in fp32: weights 9.0e-7
# apart at most, where the eight steps moved them by up to 1.2e-2.
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("update")
    job = Pair(folder, str(TESTS / "distributed" / "pair_update.py"), str(folder))
    for ended in job.ended():
        assert ended.status == 0, ended.err
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def test_two_processes_hold_the_same_weights(pair: list[dict[str, np.ndarray]]) -> None:
    for name in pair[0]:
        np.testing.assert_array_equal(pair[0][name], pair[1][name])


@pytest.mark.parametrize("prefix", ["", "rescored_"])
def test_the_update_is_that_of_one_process(pair: list[dict[str, np.ndarray]], prefix: str) -> None:
    alone = updated(old_log_probs="rescored" if prefix else "rollout")
    moved = np.abs(alone["after"] - alone["before"]).max()
    apart = np.abs(pair[0][f"{prefix}after"] - alone["after"]).max()
    assert moved > 1000 * TOLERANCE
    assert apart <= TOLERANCE
    np.testing.assert_allclose(pair[0][f"{prefix}stats"], alone["stats"], rtol=1e-4, atol=1e-6)


def test_shards_are_more_than_an_order(pair: list[dict[str, np.ndarray]]) -> None:
    other = updated(num_shards=1)
    assert NUM_SHARDS > 1
    assert np.abs(pair[0]["after"] - other["after"]).max() > 100 * TOLERANCE
