"""Videos: which episodes are filmed, what is in the frames, and what is on disk afterwards."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlarl.errors import DriftError, Exit
from vlarl.suites.protocol import Conventions, Outcome
from vlarl.types import EpisodeSpec, Task, Trial
from vlarl.videos import Footage, check_outcome, episode_frames, film, pick, read_index, write_video, write_videos

TASK = Task(suite="toy", index=0, name="slide", instruction="slide the block to the far end of the table", horizon=6)


class ToySimulation:
    """The block moves by action[0]; beyond 1 it has arrived."""

    task = TASK

    def begin(self, spec: EpisodeSpec) -> None:
        self._place, self._steps = 0.1 * spec.init, 0

    def advance(self, action: np.ndarray) -> Outcome:
        self._place += float(action[0])
        self._steps += 1
        done = self._place > 1.0
        return Outcome(
            terminated=done, truncated=not done and self._steps >= TASK.horizon, gripper_opening=0.0, eef_speed=0.0
        )

    def render_into(self, image: np.ndarray) -> None:
        image[:] = 40
        image[2:6, min(7, int(self._place * 8))] = (255, 0, 0)

    def close(self) -> None:
        pass


class ToySuite:
    name = "toy"
    conventions = Conventions(action="any", action_dim=7, control_hz=20.0, image="top", image_size=8)

    def tasks(self) -> tuple[Task, ...]:
        return (TASK,)

    def simulation(self, task: int) -> ToySimulation:
        return ToySimulation()


def make_trial(init: int, *, step: float, length: int, success: bool, errored: bool = False, task: int = 0) -> Trial:
    actions = np.full((length, 7), step, dtype=np.float32)
    spec = EpisodeSpec(task, "eval", init, 0)
    return Trial(spec=spec, success=success, errored=errored, length=length, actions=actions)


SLOW = make_trial(0, step=0.1, length=6, success=False)
FAST = make_trial(3, step=0.5, length=2, success=True)
MIDDLE = make_trial(1, step=0.31, length=3, success=True)


def roles(trials: list[Trial]) -> dict[int, dict[int, tuple[str, ...]]]:
    return {task: {p.trial.spec.init: p.roles for p in picks} for task, picks in pick(trials).items()}


def test_first_best_and_worst_are_picked() -> None:
    short_failure = make_trial(2, step=0.0, length=4, success=False)
    assert roles([FAST, SLOW, MIDDLE, short_failure]) == {0: {0: ("first", "worst"), 3: ("best",)}}
    assert roles([MIDDLE, SLOW]) == {0: {0: ("first", "worst"), 1: ("best",)}}


def test_without_failure_the_longest_success_is_the_worst() -> None:
    assert roles([FAST, MIDDLE]) == {0: {1: ("first", "worst"), 3: ("best",)}}
    assert roles([FAST]) == {0: {3: ("first", "best", "worst")}}


def test_without_success_there_is_no_best_and_errored_episodes_are_left_out() -> None:
    errored = make_trial(0, step=0.0, length=1, success=False, errored=True)
    late = make_trial(4, step=0.0, length=6, success=False)
    assert roles([errored, late]) == {0: {4: ("first", "worst")}}
    assert roles([errored]) == {}


def test_frames_show_the_replay_enlarged_with_a_caption() -> None:
    frames = episode_frames(ToySuite(), FAST.spec, FAST.actions, size=256)  # type: ignore[arg-type]
    assert frames.shape == (3, 304, 256, 3)
    assert frames.dtype == np.uint8
    column = int(0.3 * 8) * 32
    red = frames[0, 64:192, column : column + 32]
    assert (red == (255, 0, 0)).all(), "pixels are enlarged without smoothing, where the block is"
    assert not (frames[1] == frames[0]).all()
    caption = frames[:, 256:]
    assert len(np.unique(caption[0].reshape(-1, 3), axis=0)) > 2, "something is written"
    assert (caption[-1, 0, 0] == (63, 185, 80)).all(), "the bar is green on success"


def test_a_size_that_is_no_multiple_is_exceeded_and_sides_stay_even() -> None:
    frames = episode_frames(ToySuite(), FAST.spec, FAST.actions, size=50)  # type: ignore[arg-type]
    assert frames.shape[1:] == (56 + 48, 56, 3)


def test_filming_stops_where_the_episode_ends() -> None:
    longer = np.concatenate([FAST.actions, FAST.actions])
    footage = film(ToySuite(), FAST.spec, longer)  # type: ignore[arg-type]
    assert (footage.length, footage.success) == (2, True)
    assert film(ToySuite(), SLOW.spec, SLOW.actions).success is False  # type: ignore[arg-type]


@pytest.mark.parametrize(("success", "length"), [(True, 6), (False, 5)])
def test_a_replay_that_ends_otherwise_is_drift(success: bool, length: int) -> None:
    footage = Footage(frames=np.zeros((1, 2, 2, 3), np.uint8), success=success, length=length)
    with pytest.raises(DriftError, match="recorded was failure after 6 steps") as caught:
        check_outcome(TASK, SLOW, footage)
    assert caught.value.exit_status is Exit.DRIFT


def test_an_mp4_can_be_read_back(tmp_path: Path) -> None:
    imageio = importlib.import_module("imageio.v3")
    frames = episode_frames(ToySuite(), SLOW.spec, SLOW.actions)  # type: ignore[arg-type]
    path, reason = write_video(tmp_path / "deep" / "a.mp4", frames, 20.0)
    assert (path.name, reason) == ("a.mp4", None)
    read = imageio.imread(path, plugin="FFMPEG")
    assert read.shape == (len(frames) + 16, 304, 256, 3), "every frame, and the last one held"
    assert np.abs(read[0].astype(int) - frames[0]).mean() < 4
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"], "no leftovers"


def test_without_ffmpeg_it_is_a_gif_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    frames = episode_frames(ToySuite(), SLOW.spec, SLOW.actions)  # type: ignore[arg-type]
    path, reason = write_video(tmp_path / "a.mp4", frames, 20.0)
    assert path.name == "a.gif"
    assert reason == "the package imageio-ffmpeg is not installed"
    with Image.open(path) as image:
        assert image.size == (256, 304)
        assert getattr(image, "n_frames", 1) > 2


def test_an_encoder_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(b"before")
    with pytest.raises(TypeError):
        write_video(path, np.zeros((2, 4, 4, 3)), 20.0)  # floats are no pixels
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_all_picks_are_filmed_and_listed(tmp_path: Path) -> None:
    trials = [SLOW, MIDDLE, FAST]
    videos = write_videos(ToySuite(), trials, tmp_path, iteration=7, size=64)  # type: ignore[arg-type]
    assert [video.file for video in videos] == ["000007-slide-first-worst.mp4", "000007-slide-best.mp4"]
    assert {p.name for p in tmp_path.iterdir()} == {video.file for video in videos} | {"videos.json"}
    rows = json.loads((tmp_path / "videos.json").read_text())
    assert [(row["init"], row["success"], row["roles"]) for row in rows] == [
        (0, False, ["first", "worst"]),
        (3, True, ["best"]),
    ]
    write_videos(ToySuite(), trials, tmp_path, iteration=7, size=64)  # type: ignore[arg-type]
    write_videos(ToySuite(), trials, tmp_path, iteration=8, size=64)  # type: ignore[arg-type]
    assert [row["iteration"] for row in read_index(tmp_path)] == [7, 7, 8, 8]


def test_frames_are_handed_on_with_their_row(tmp_path: Path) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []
    videos = write_videos(
        ToySuite(),  # type: ignore[arg-type]
        [SLOW, MIDDLE, FAST],
        tmp_path,
        size=64,
        seen=lambda video, frames: seen.append((video.file, frames.shape)),
    )
    assert seen == [(video.file, (video.length + 1, 112, 64, 3)) for video in videos]


def test_a_trial_that_does_not_replay_is_not_filmed_as_if_it_did(tmp_path: Path) -> None:
    lying = make_trial(0, step=0.1, length=6, success=True)
    with pytest.raises(DriftError):
        write_videos(ToySuite(), [lying], tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
