"""What tokens mean: which statistics, un-normalised how, the gripper turned which way, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlarl.errors import AssetError
from vlarl.policies.action_tokens import decode_tokens, encode_actions
from vlarl.policies.openvla.statistics import STATISTICS, ActionCodec, Statistics, load_statistics, parse_statistics

LOW = [-0.745, -0.66, -0.9375, -0.107, -0.206, -0.184, 0.0]  # of the size that LIBERO's have
HIGH = [0.9375, 0.876, 0.932, 0.104, 0.177, 0.146, 1.0]
MASK = [True] * 6 + [False]


def entry(low: list[Any] = LOW, high: list[Any] = HIGH, **more: Any) -> dict[str, Any]:
    return {"action": {"q01": low, "q99": high, "mask": MASK, **more}}


def statistics(**changes: Any) -> Statistics:
    return parse_statistics(entry(**changes), "key")


def test_unnormalising_by_hand() -> None:
    middle = statistics().unnormalise(np.array([[0, 1, -1, 0.5, 0, 0, 0.25]]))[0]
    assert np.allclose(middle[:4], [(-0.745 + 0.9375) / 2, 0.876, -0.9375, 0.25 * -0.107 + 0.75 * 0.104])
    assert middle[6] == 0.25, "not masked"
    whole = statistics(mask=[True] * 7).unnormalise(np.array([[0.0] * 6 + [0.25]]))[0]
    assert whole[6] == 0.625


def test_a_missing_mask_is_all_true() -> None:
    content = entry()
    del content["action"]["mask"]
    assert parse_statistics(content, "key").mask.all()
    assert parse_statistics(entry(mask=None), "key").mask.all()


def test_normalising_undoes_it_and_clips() -> None:
    given_numbers = np.array([[0.3, -0.2, 0.9, 0.05, -0.1, 0.1, 0.7]])
    normalised = statistics().normalise(given_numbers)
    assert np.allclose(statistics().unnormalise(normalised), given_numbers, atol=1e-7)
    beyond = statistics().normalise(np.array([[9.0, -9.0, 0, 0, 0, 0, 0.7]]))[0]
    assert (beyond[0], beyond[1], beyond[6]) == (1.0, -1.0, 0.7)


def test_ranges_of_zero() -> None:
    """Between percentiles: -1 up to the value, +1 beyond. In all of the data: 0. Both mean the one value."""
    low, high = [0.2, *LOW[1:]], [0.2, *HIGH[1:]]
    narrow = statistics(low=low, high=high, min=[-1.0] * 7, max=[1.0] * 7)
    assert [narrow.normalise(np.array([[x, 0, 0, 0, 0, 0, 1]]))[0, 0] for x in (0.1, 0.2, 0.3)] == [-1, -1, 1]
    for constant in (
        statistics(low=low, high=high, min=[0.2, *[-1.0] * 6], max=[0.2, *[1.0] * 6]),
        statistics(low=low, high=high),  # no extremes to tell the two apart
    ):
        assert [constant.normalise(np.array([[x, 0, 0, 0, 0, 0, 1]]))[0, 0] for x in (0.1, 0.2, 0.3)] == [0, 0, 0]
    for each in (narrow, constant):
        assert (each.unnormalise(np.linspace(-1, 1, 9)[:, None].repeat(7, axis=1))[:, 0] == 0.2).all()
    gripper = statistics(low=[*LOW[:6], 1.0], min=[-1.0] * 6 + [1.0], max=[1.0] * 7)
    assert gripper.normalise(np.array([[0, 0, 0, 0, 0, 0, 1.0]]))[0, 6] == 1.0, "what is not masked stays"


def test_the_gripper_of_the_data_opens_at_one_and_the_suites_closes() -> None:
    codec = ActionCodec(statistics())
    opened = int(encode_actions(np.array([1.0]))[0])
    closed = int(encode_actions(np.array([0.0]))[0])
    assert decode_tokens(np.array([opened, closed])).tolist() == pytest.approx([0.996, 0.0], abs=1e-3)
    tokens = np.full((4, 7), 128)
    tokens[:, 6] = [opened, closed, 255, 63]  # 255: the lowest; 63: just above one half
    assert codec.decode(tokens)[:, 6].tolist() == [-1.0, 1.0, 1.0, -1.0]
    actions = np.zeros((2, 7))
    actions[:, 6] = [-1.0, 1.0]
    assert codec.encode(actions)[:, 6].tolist() == [opened, closed]
    assert actions[0, 6] == -1.0, "the caller's array is left alone"


def test_decoding_by_hand() -> None:
    codec = ActionCodec(statistics())
    action = codec.decode(np.array([[0, 1, 255, 128, 64, 192, 0]]))
    assert action.dtype == np.float32
    centres = np.array([254, 254, 0, 127, 191, 63]) * 2 / 255 - 254 / 255
    expected = 0.5 * (centres + 1) * (np.array(HIGH[:6]) - LOW[:6]) + LOW[:6]
    assert np.allclose(action[0], [*expected, -1.0], atol=2e-7)
    assert np.array_equal(codec.decode(np.zeros((1, 7), dtype=int)), codec.decode(np.ones((1, 7), dtype=int)))


def test_actions_stay_within_what_a_suite_takes() -> None:
    wide = ActionCodec(statistics(low=[-3.0] * 6 + [0.0], high=[2.0] * 6 + [1.0]))
    actions = wide.decode(np.arange(256)[:, None].repeat(7, axis=1))
    assert actions.min() == -1.0
    assert actions.max() == 1.0


@st.composite
def made_up(draw: st.DrawFn) -> Statistics:
    """Ranges within [-1, 1], some of zero; none below a thousandth, where float32 actions no longer tell bins apart."""
    low, high = [], []
    for _ in range(6):
        start = draw(st.floats(-1, 0.99))
        low.append(start)
        high.append(draw(st.one_of(st.just(start), st.floats(min(start + 1e-3, 1.0), 1.0))))
    mask = [draw(st.booleans()) for _ in range(6)]
    return parse_statistics(entry(low=[*low, 0.0], high=[*high, 1.0], mask=[*mask, False]), "key")


@given(made_up(), st.lists(st.lists(st.integers(0, 255), min_size=7, max_size=7), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_tokens_survive_the_way_through_a_suites_action(one: Statistics, rows: list[list[int]]) -> None:
    codec = ActionCodec(one)
    tokens = np.array(rows)
    actions = codec.decode(tokens)
    again = codec.encode(actions)
    assert np.array_equal(codec.decode(again), actions)
    told_apart = (one.high > one.low) | ~one.mask
    told_apart[6] = False  # 256 tokens, two actions
    assert np.array_equal(again[:, told_apart], np.maximum(tokens, 1)[:, told_apart])


@given(made_up(), st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.sampled_from([-1.0, 1.0]))
@settings(max_examples=200, deadline=None)
def test_actions_come_back_within_half_a_bin(one: Statistics, numbers: list[float], gripper: float) -> None:
    codec = ActionCodec(one)
    back = codec.decode(codec.encode(np.array([[*numbers, gripper]])))[0]
    reachable = np.where(one.mask[:6], np.clip(numbers, one.low[:6], one.high[:6]), numbers)
    scale = np.where(one.mask[:6], (one.high - one.low)[:6] / 2, 1.0)
    assert (np.abs(back[:6] - reachable) <= scale / 255 + 1e-6).all()
    assert back[6] == gripper


def test_the_key_is_the_suites_name_alone_or_with_no_noops(tmp_path: Path) -> None:
    def key(names: list[str], **wanted: Any) -> str:
        content = {"norm_stats": {name: entry() for name in names}}
        return load_statistics(tmp_path, content, suite="libero_goal", **wanted).key

    assert key(["libero_goal", "libero_goal_no_noops", "bridge_orig"]) == "libero_goal"
    assert key(["libero_goal_no_noops", "bridge_orig"]) == "libero_goal_no_noops"
    assert key(["libero_goal", "bridge_orig"], key="bridge_orig") == "bridge_orig"


def test_a_checkpoint_without_statistics_for_the_suite_names_those_it_has(tmp_path: Path) -> None:
    content = {"norm_stats": {name: entry() for name in ("kuka", "bridge_orig", "libero_goal")}}
    with pytest.raises(AssetError) as caught:
        load_statistics(tmp_path, content, suite="libero_object")
    assert caught.value.code == "R380"
    assert caught.value.message == (
        "the checkpoint has no action statistics for `libero_object` or `libero_object_no_noops`; it has bridge_orig, "
        "kuka, libero_goal"
    )
    assert "--set policy.statistics=KEY" in str(caught.value.hint)
    with pytest.raises(AssetError, match="for `libero_spatial`; it has bridge_orig"):  # an explicit key stands alone
        load_statistics(tmp_path, content, suite="libero_goal", key="libero_spatial")
    for nothing in ({}, {"norm_stats": None}, {"norm_stats": {}}):
        with pytest.raises(AssetError, match="has no statistics of its actions") as caught:
            load_statistics(tmp_path, nothing, suite="libero_goal")
        assert caught.value.code == "R380"


def test_the_file_of_a_fine_tune_takes_the_place_of_the_configs(tmp_path: Path) -> None:
    content = {"norm_stats": {"libero_goal": entry(), "bridge_orig": entry()}}
    (tmp_path / STATISTICS).write_text(json.dumps({"libero_goal": entry(low=[-0.5] * 6 + [0.0])}))
    assert load_statistics(tmp_path, content, suite="libero_goal").low[0] == -0.5
    with pytest.raises(AssetError, match=r"it has libero_goal$"):
        load_statistics(tmp_path, content, suite="bridge_orig")
    (tmp_path / STATISTICS).write_text("[]")
    with pytest.raises(AssetError, match="not a JSON object") as caught:
        load_statistics(tmp_path, content, suite="libero_goal")
    assert caught.value.code == "R381"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "lack a part"),
        ({}, "lack a part: KeyError"),
        ({"action": {"q01": LOW}}, r"lack a part: KeyError\('q99'\)"),
        (entry(low=LOW[:6]), "no 7 numbers in q01"),
        (entry(high=[*HIGH[:6], "1"]), "something else than numbers in q99"),
        (entry(high=[*HIGH[:6], True]), "something else than numbers in q99"),
        (entry(high=[*HIGH[:6], float("nan")]), "number in q99 that is not finite"),
        (entry(low=[*LOW[:2], 0.95, *LOW[3:]]), "q01 above q99 in dimension 2"),
        (entry(mask=[True] * 6), "no 7 entries in mask"),
        (entry(mask=[1] * 7), "something else than true and false in mask"),
        (entry(min=LOW, max=HIGH[:3]), "no 7 numbers in max"),
    ],
)
def test_statistics_that_cannot_be_used_are_refused(content: Any, says: str) -> None:
    with pytest.raises(AssetError, match=says) as caught:
        parse_statistics(content, "libero_goal", place="folder")
    assert caught.value.code == "R381"
    assert "`libero_goal`" in caught.value.message


def test_the_identity_is_json_and_differs_with_the_meaning() -> None:
    one = statistics()
    assert json.loads(json.dumps(one.identity)) == one.identity
    assert one.identity != statistics(high=[1.0] * 7).identity
    assert one.identity != statistics(mask=[True] * 7).identity
