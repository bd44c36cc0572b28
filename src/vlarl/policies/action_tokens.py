"""OpenVLA's action tokens: 7 numbers in [-1, 1] as 256 tokens over 255 bin centres.

A token here is the row within the vocabulary's 256 action rows, so that a policy of any
vocabulary shares this code. Row v of OpenVLA's vocabulary is token id 31744 + v; its decoder
maps id to bin centre ``clip(32000 - id - 1, 0, 254)``, so rows 0 and 1 decode alike.
"""

from __future__ import annotations

import numpy as np

NUM_ACTION_TOKENS = 7
NUM_BINS = 256
ACTION_CONVENTION = "delta_xyz, delta_axis_angle, gripper(-1 open, +1 close)"

_EDGES = np.linspace(-1.0, 1.0, NUM_BINS)
_CENTRES = (_EDGES[:-1] + _EDGES[1:]) / 2.0


def encode_actions(actions: np.ndarray) -> np.ndarray:
    """Tokens (..., A) int64 in [0, 256) of actions (..., A); values beyond [-1, 1] are clipped."""
    return NUM_BINS - np.digitize(np.clip(actions, -1.0, 1.0), _EDGES).astype(np.int64)


def decode_tokens(tokens: np.ndarray) -> np.ndarray:
    """Actions (..., A) float32 in (-1, 1) of tokens (..., A)."""
    return _CENTRES[np.clip(NUM_BINS - 1 - tokens, 0, NUM_BINS - 2)].astype(np.float32)
