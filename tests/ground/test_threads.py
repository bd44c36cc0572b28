"""The number of torch's threads inside and after a block."""

from __future__ import annotations

import pytest
import torch

from vlarl.seeding import torch_threads


def test_threads_are_set_inside_the_block_and_restored_whatever_ends_it() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="inside"), torch_threads(before + 1):
        raise ValueError("inside")
    assert torch.get_num_threads() == before
