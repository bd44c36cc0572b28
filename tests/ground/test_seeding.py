"""Seeds: a function of what they are for, and of nothing else."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
import torch
from scipy import stats

from vlarl.seeding import SCHEME, generator, seed, seed_torch, uniforms


def test_the_scheme_is_pinned() -> None:
    """These values are in every stored chain: a change needs another name in SCHEME."""
    assert SCHEME == "blake2b-1"
    key = b"7/action/int:3/str:x"
    assert seed(7, "action", 3, "x") == int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> 1
    assert seed(7, "action", 3, "x") == 1529095730823988567
    raw = blake2b(b"7/action/int:3", digest_size=16).digest()
    words = [int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big")]
    assert uniforms(2, 7, "action", 3).tolist() == [(word >> 11) / 2**53 for word in words]
    assert uniforms(2, 7, "action", 3).tolist() == [0.24615166267351218, 0.7442596131929159]


def test_every_part_of_the_key_matters() -> None:
    keys: list[tuple[int, str, tuple[int | str, ...]]] = [
        (1, "a", ()),
        (2, "a", ()),
        (1, "b", ()),
        (1, "a", (0,)),
        (1, "a", (1,)),
        (1, "a", ("1",)),
        (1, "a", (1, 2)),
        (1, "a", (2, 1)),
        (1, "a", (12,)),
        (-1, "a", ()),
    ]
    assert len({seed(root, purpose, *index) for root, purpose, index in keys}) == len(keys)


def test_seeds_fit_where_they_are_used() -> None:
    seeds = [seed(0, "range", i) for i in range(2000)]
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    assert max(seeds) > 2**62  # all 63 bits are used


def test_generators_repeat_and_are_apart() -> None:
    assert generator(1, "x", 5).random() == generator(1, "x", 5).random()
    assert generator(1, "x", 5).random() != generator(1, "x", 6).random()


def test_numpy_integers_index_like_python_integers_only_when_converted() -> None:
    """The key names the type, so callers convert; a silent mixture would split streams by accident."""
    assert seed(1, "x", int(np.int64(3))) == seed(1, "x", 3)
    assert seed(1, "x", np.int64(3)) != seed(1, "x", 3)  # type: ignore[arg-type]


def test_no_uniforms_are_a_mistake() -> None:
    with pytest.raises(AssertionError):
        uniforms(0, 0, "x")


def test_beyond_one_hash_the_uniforms_go_on() -> None:
    """What a chunk of actions needs; the first eight are those of one hash."""
    many = uniforms(56, 3, "x", 1)
    assert many.shape == (56,)
    assert len(set(many)) == 56
    for fewer in (8, 9, 21, 48):
        np.testing.assert_array_equal(uniforms(fewer, 3, "x", 1), many[:fewer])
    assert not set(many) & set(uniforms(56, 3, "x", 2))


@pytest.mark.parametrize("count", [7, 21])
def test_uniforms_are_uniform_and_uncorrelated(count: int) -> None:
    draws = np.stack([uniforms(count, 3, "action", slot, step) for slot in range(20) for step in range(200)])
    assert draws.dtype == np.float64
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 0.001
    correlation = np.corrcoef(draws.T) - np.eye(count)
    assert np.abs(correlation).max() < 4 / np.sqrt(len(draws))  # 4 standard errors


def test_uniforms_depend_on_the_count_only_by_their_number() -> None:
    assert len({uniforms(count, 3, "x")[0] for count in range(1, 9)}) == 8, "another digest size is another stream"


def test_seed_torch_sets_the_global_generator() -> None:
    seed_torch(1, "policy-init")
    first = torch.rand(3)
    torch.rand(100)
    seed_torch(1, "policy-init")
    assert torch.equal(torch.rand(3), first)
    seed_torch(2, "policy-init")
    assert not torch.equal(torch.rand(3), first)
