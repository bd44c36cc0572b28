"""OpenVLA's action tokens: round trip, and the same ids as the original's formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.policies.action_tokens import NUM_ACTION_TOKENS, NUM_BINS, decode_tokens, encode_actions

VOCABULARY = 32000  # OpenVLA's tokenizer without its padding
FIRST_ID = 31744  # of its 256 action tokens

actions = st.lists(st.floats(-1.0, 1.0), min_size=NUM_ACTION_TOKENS, max_size=NUM_ACTION_TOKENS).map(np.array)


def original_ids(action: np.ndarray) -> np.ndarray:
    """OpenVLA's tokenizer: the last words of the vocabulary, one per bin edge that the value has passed."""
    edges = np.linspace(-1, 1, 256)
    return VOCABULARY - np.digitize(np.clip(action, -1.0, 1.0), edges)


def original_action(ids: np.ndarray) -> np.ndarray:
    edges = np.linspace(-1, 1, 256)
    centres = (edges[:-1] + edges[1:]) / 2.0
    return centres[np.clip(VOCABULARY - ids - 1, 0, centres.shape[0] - 1)]


@given(actions)
def test_a_round_trip_is_off_by_at_most_half_a_bin(action: np.ndarray) -> None:
    assert np.abs(decode_tokens(encode_actions(action)).astype(np.float64) - action).max() <= 1 / 255 + 1e-7


@given(actions)
def test_ids_are_those_of_the_original(action: np.ndarray) -> None:
    tokens = encode_actions(action)
    assert np.array_equal(tokens + FIRST_ID, original_ids(action))
    assert np.array_equal(decode_tokens(tokens), original_action(original_ids(action)).astype(np.float32))


def test_every_row_decodes_as_its_id() -> None:
    rows = np.arange(NUM_BINS)
    assert np.array_equal(decode_tokens(rows), original_action(rows + FIRST_ID).astype(np.float32))


def test_the_255_centres_and_the_two_rows_that_share_one() -> None:
    values = decode_tokens(np.arange(NUM_BINS))
    assert values[0] == values[1] == np.float32(254 / 255)
    assert values[255] == np.float32(-254 / 255)
    assert (np.diff(values[1:]) < 0).all(), "a higher row is a lower action"
    assert len(set(values.tolist())) == 255


def test_rows_but_the_shared_one_survive_decoding_and_encoding() -> None:
    rows = np.arange(1, NUM_BINS)
    assert np.array_equal(encode_actions(decode_tokens(rows)), rows)
    assert encode_actions(decode_tokens(np.array([0]))).tolist() == [1]


@pytest.mark.parametrize(("value", "row"), [(-1.0, 255), (-1.5, 255), (1.0, 0), (7.0, 0), (0.0, 128)])
def test_ends_are_clipped(value: float, row: int) -> None:
    assert encode_actions(np.full(7, value)).tolist() == [row] * 7


def test_shapes_and_types_stay() -> None:
    tokens = encode_actions(np.zeros((3, 2, 7), np.float32))
    assert (tokens.shape, tokens.dtype) == ((3, 2, 7), np.dtype(np.int64))
    decoded = decode_tokens(tokens)
    assert (decoded.shape, decoded.dtype) == ((3, 2, 7), np.dtype(np.float32))
