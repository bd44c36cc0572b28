"""What processes say to each other, and how a process finds out that it is not alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import TESTS, Pair

from builders import finished, make_rollout
from vlarl.distributed import ALONE, Message, Ranks, join, met_by_all, speaks
from vlarl.distributed_rollout import combined, share
from vlarl.errors import EnvironmentUnusable, RecipeError
from vlarl.types import Scored, StageDigests

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)


def place(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_message_arrives_as_it_was_sent() -> None:
    arrays = {
        "tokens": np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2],
        "ended": np.array([True, False]),
        "nothing": np.zeros((0, 7), np.float32),
    }
    data = {"rate": 0.1, "words": ["pick up ü", None], "count": 2**62}
    received = Message.unpacked(Message(data, arrays).packed())
    assert received.data == data
    assert set(received.arrays) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(received.arrays[name], array)
        assert received.arrays[name].dtype == array.dtype


def test_a_process_alone_hears_itself() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    ALONE.sum_gradients([parameter])
    assert parameter.grad.tolist() == [2.0, 2.0, 2.0]
    assert ALONE.totals({"loss": 0.1, "ratio_error": 3.0}, largest=("ratio_error",)) == {
        "loss": 0.1,
        "ratio_error": 3.0,
    }
    assert ALONE.first_says({"run": "a"}) == {"run": "a"}
    assert ALONE.any_of(None) is None
    assert ALONE.any_of("SIGTERM") == "SIGTERM"
    ALONE.agree("abc", "the weights")
    with pytest.raises(ZeroDivisionError), ALONE.one_voice():
        raise ZeroDivisionError


def test_shards_are_dealt_out_in_order() -> None:
    assert [list(Ranks(rank, 2).shards(4)) for rank in range(2)] == [[0, 1], [2, 3]]
    assert list(ALONE.shards(3)) == [0, 1, 2]


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert join(1) is ALONE
    place(monkeypatch, WORLD_SIZE="1", RANK="0")
    assert join(3) is ALONE
    assert speaks()


def test_half_a_launcher_is_an_error_that_names_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, WORLD_SIZE="2", RANK="0")
    with pytest.raises(EnvironmentUnusable) as caught:
        join(2)
    assert caught.value.code == "E450"
    assert "MASTER_ADDR, MASTER_PORT are not" in caught.value.message


def test_processes_that_do_not_divide_the_shards_are_refused_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, WORLD_SIZE="3", RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    with pytest.raises(RecipeError) as caught:
        join(4)
    assert caught.value.code == "R224"
    monkeypatch.setenv("RANK", "2")
    assert not speaks()
    with pytest.raises(SystemExit) as left:
        join(4)
    assert left.value.code == 3


def test_what_all_meet_the_first_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, WORLD_SIZE="2", RANK="1")
    with pytest.raises(SystemExit) as left, met_by_all():
        raise EnvironmentUnusable("no", code="E400")
    assert left.value.code == 4


def digests(word: str) -> StageDigests:
    return StageDigests(tasks=word, inits=word, actions=word, states=word, pixels=word)


def test_digests_of_one_shard_are_its_own_and_of_several_depend_on_their_order() -> None:
    one, other = digests("1"), digests("2")
    assert combined([one]) is one
    assert combined([one, other]) != combined([other, one])
    assert combined([one, other]).tasks != combined([one, one]).tasks


class Recorded(Ranks):
    """Two processes of which this one also knows what the other would send."""

    def gather(self, message: Message) -> list[Message]:
        episodes = [{**episode, "index": 7} for episode in message.data["episodes"]]
        other = {**message.data, "first_slot": 2, "episodes": episodes}
        doubled = {name: array * 2 for name, array in message.arrays.items() if array.dtype != bool}
        return [message, Message(other, {**message.arrays, **doubled})]


def test_a_shared_rollout_has_all_slots_and_the_frames_of_its_own() -> None:
    rollout = make_rollout(2, 3, values=np.ones((2, 3), np.float32), episodes=(finished(0, 1, success=True, slot=1),))
    scored = Scored(rollout=rollout, rewards=np.full((2, 3), 0.5, np.float32), breakdown={"success": np.ones((2, 3))})
    assert share(scored, ALONE) is scored
    whole = share(scored, Recorded(0, 2))
    assert whole.rollout.images.shape == (2, 3, 1, 1, 3)
    assert whole.rollout.tokens.shape == (4, 3, 7)
    assert whole.rollout.values.tolist() == [[1.0] * 3] * 2 + [[2.0] * 3] * 2
    assert whole.rewards.tolist() == [[0.5] * 3] * 2 + [[1.0] * 3] * 2
    assert whole.breakdown["success"].shape == (4, 3)
    assert [(e.slot, e.index, e.spec) for e in whole.rollout.episodes] == [
        (1, 0, rollout.episodes[0].spec),
        (3, 7, rollout.episodes[0].spec),
    ]
    assert whole.rollout.num_steps == 12


def test_two_processes_hear_each_other_and_tell_one_error(tmp_path: Path) -> None:
    first, second = Pair(tmp_path, str(TESTS / "distributed" / "pair_words.py")).ended()
    assert json.loads(first.out) == json.loads(second.out)
    assert json.loads(first.out) == {
        "gradients": [[3.0, 3.0], [5.0, 5.0], None],
        "rows": [0, 1],
        "first": {"rank": 0},
        "totals": {"loss": 2.0, "ratio_error": 0.0},
        "signal": "SIGTERM",
        "tensors": [0.0, 0.0],
        "disagreed": "X551",
    }
    assert (first.status, second.status) == (5, 5), "all leave with the status of the one that tells"
    assert second.err.splitlines()[-1] == "D600"
    assert "D600" not in first.err
    assert "X550" not in first.err
