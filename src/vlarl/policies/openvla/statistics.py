"""What a checkpoint's numbers in [-1, 1] mean in its data, and what the data's numbers mean in a suite.

A model speaks of actions normalised by the 1st and 99th percentile of its training data, with the gripper as it is:
0 closes and 1 opens, as OpenVLA's copy of LIBERO has it. The suites here take robosuite's: -1 opens, +1 closes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.errors import AssetError
from vlarl.policies.action_tokens import NUM_ACTION_TOKENS, decode_tokens, encode_actions
from vlarl.policies.openvla.folder import read_object

STATISTICS = "dataset_statistics.json"
_MISSING, _DAMAGED = "R380", "R381"
_TINY = 1e-8  # the original adds it to every range
_GRIPPER = -1


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """How one data set's actions were normalised."""

    key: str
    low: np.ndarray  # (7,) float64, 1st percentile
    high: np.ndarray  # (7,) float64, 99th percentile
    mask: np.ndarray  # (7,) bool, normalised at all
    constant: np.ndarray  # (7,) bool, masked and one value in all of the data

    @property
    def identity(self) -> dict[str, Any]:
        """JSON of all that decides what a token means."""
        return {
            "key": self.key,
            "q01": self.low.tolist(),
            "q99": self.high.tolist(),
            "mask": self.mask.tolist(),
            "constant": self.constant.tolist(),
        }

    def unnormalise(self, normalised: np.ndarray) -> np.ndarray:
        """The data's numbers (N, 7) float64 of numbers (N, 7) in [-1, 1]."""
        actions = 0.5 * (normalised.astype(np.float64) + 1) * (self.high - self.low) + self.low
        return np.where(self.mask, actions, normalised)

    def normalise(self, actions: np.ndarray) -> np.ndarray:
        """Numbers (N, 7) float64 that ``unnormalise`` takes to ``actions`` (N, 7), as training made them.

        Masked dimensions are clipped to [-1, 1]. Of a range of zero that leaves -1 at its value and below it and +1
        above, all of which mean the one value; a masked dimension that is constant in all of the data is 0. (The
        original makes unmasked constant ones 0 too, which ``unnormalise`` would then read as another value.)
        """
        scaled = 2 * (actions - self.low) / (self.high - self.low + _TINY) - 1
        normalised = np.where(self.mask, np.clip(scaled, -1, 1), actions)
        return np.where(self.constant, 0.0, normalised)


class ActionCodec:
    """Rows of the vocabulary's 256 action rows to actions of a suite, and back."""

    def __init__(self, statistics: Statistics) -> None:
        self.statistics = statistics

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Actions (N, 7) float32 in [-1, 1] for tokens (N, 7); the gripper is -1 (open) or +1 (closed).

        Computed in float64; beyond [-1, 1], where no LIBERO statistics reach, it is clipped, as robosuite would.
        """
        actions = self.statistics.unnormalise(decode_tokens(tokens))
        actions[:, _GRIPPER] = -np.sign(2 * actions[:, _GRIPPER] - 1)
        return np.clip(actions, -1, 1).astype(np.float32)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Tokens (N, 7) int64 of a suite's actions (N, 7): gripper +1 (closed) is the data's 0, -1 (open) its 1."""
        actions = np.array(actions, dtype=np.float64)
        actions[:, _GRIPPER] = np.clip((1 - actions[:, _GRIPPER]) / 2, 0, 1)
        return encode_actions(self.statistics.normalise(actions))


def load_statistics(folder: Path, config: Mapping[str, Any], *, suite: str, key: str | None = None) -> Statistics:
    """The statistics under ``key``, else under the suite's name, else under that with ``_no_noops``.

    ``dataset_statistics.json``, which fine-tuning writes, takes the place of ``norm_stats`` in ``config``, the content
    of ``config.json``. AssetError: R380 when there are none for the suite, R381 when they cannot be used.
    """
    path = folder / STATISTICS
    found = read_object(path, code=_DAMAGED) if path.exists() else config.get("norm_stats")
    if not isinstance(found, Mapping) or not found:
        raise AssetError(
            f"the checkpoint has no statistics of its actions, neither `norm_stats` in config.json nor {STATISTICS}",
            code=_MISSING,
            place=str(folder),
            hint=f"copy {STATISTICS} from the run that trained it; without it nobody knows what an action means",
        )
    names = [key] if key is not None else [suite, f"{suite}_no_noops"]
    for name in names:
        if name in found:
            return parse_statistics(found[name], name, place=str(folder))
    raise AssetError(
        f"the checkpoint has no action statistics for {' or '.join(f'`{name}`' for name in names)}; it has "
        + ", ".join(sorted(map(str, found))),
        code=_MISSING,
        place=str(folder),
        hint=f"--set policy.statistics=KEY takes one of those, e.g. {min(map(str, found))}, if its actions mean the "
        "suite's",
    )


def parse_statistics(entry: Any, key: str, *, place: str | None = None) -> Statistics:
    """``norm_stats[key]`` checked; a missing ``mask`` is all true. AssetError (R381)."""
    try:
        action = entry["action"]
        low, high = _numbers(action, "q01"), _numbers(action, "q99")
        mask = _mask(action.get("mask"))
        # Without extremes, a range of zero between the percentiles is taken for a constant.
        ends = ("min", "max") if "min" in action and "max" in action else ("q01", "q99")
        constant = mask & (_numbers(action, ends[0]) == _numbers(action, ends[1]))
    except (LookupError, TypeError, AttributeError) as error:
        raise _damaged(key, f"lack a part: {error!r}", place) from None
    except ValueError as error:
        raise _damaged(key, str(error), place) from None
    if (low > high).any():
        raise _damaged(key, f"have q01 above q99 in dimension {int(np.argmax(low > high))}", place)
    return Statistics(key=key, low=low, high=high, mask=mask, constant=constant)


def _numbers(action: Mapping[str, Any], name: str) -> np.ndarray:
    values = action[name]
    if not isinstance(values, list) or len(values) != NUM_ACTION_TOKENS:
        raise ValueError(f"have no {NUM_ACTION_TOKENS} numbers in {name}")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise ValueError(f"have something else than numbers in {name}")
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"have a number in {name} that is not finite")
    return array


def _mask(values: Any) -> np.ndarray:
    if values is None:
        return np.ones(NUM_ACTION_TOKENS, dtype=bool)
    if not isinstance(values, list) or len(values) != NUM_ACTION_TOKENS:
        raise ValueError(f"have no {NUM_ACTION_TOKENS} entries in mask")
    if not all(isinstance(value, bool) for value in values):
        raise ValueError("have something else than true and false in mask")
    return np.array(values, dtype=bool)


def _damaged(key: str, what: str, place: str | None) -> AssetError:
    hint = f"copy {STATISTICS} again from where the checkpoint was trained"
    return AssetError(f"the action statistics `{key}` {what}", code=_DAMAGED, place=place, hint=hint)
