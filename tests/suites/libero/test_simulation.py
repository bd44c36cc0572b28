"""The simulation against recordings of LIBERO's own environment, and against itself in other orders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vlarl.errors import RunError
from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.libero.suite import LiberoSuite
from vlarl.types import EpisodeSpec

GOLDEN = Path(__file__).parent / "golden" / "mujoco316_osmesa.npz"
NAMES = ("libero_10.0.0", "libero_goal.8.0", "libero_object.0.3", "libero_spatial.0.1")


@pytest.fixture(scope="module")
def golden() -> Iterator[np.lib.npyio.NpzFile]:
    with np.load(GOLDEN) as file:
        yield file


def _suite(name: str, **knobs: object) -> LiberoSuite:
    suite, task, _ = name.split(".")
    return LiberoSuite(LiberoSpec(name=suite, tasks=[int(task)], renderer="osmesa", **knobs))


def _official(name: str) -> EpisodeSpec:
    return EpisodeSpec(task=0, split="eval", init=int(name.rsplit(".", 1)[1]), seed=0)


def _image(simulation) -> np.ndarray:
    image = np.empty((256, 256, 3), np.uint8)
    simulation.render_into(image)
    return image


def _follow(simulation, golden, name: str) -> None:
    """Begin the recorded episode, act as recorded, and compare everything recorded."""
    assert np.ptp(golden[f"{name}.eef"], axis=0).max() > 0.05, "the recording moved"
    assert (golden[f"{name}.image"] != golden[f"{name}.image0"]).mean() > 0.01
    simulation.begin(_official(name))
    assert simulation.task.instruction == str(golden[f"{name}.language"])
    assert np.array_equal(_image(simulation), golden[f"{name}.image0"])
    assert np.abs(simulation.episode.data.qpos - golden[f"{name}.qpos0"]).max() < 1e-9
    for action, hand in zip(golden[f"{name}.actions"], golden[f"{name}.eef"], strict=True):
        simulation.advance(action)
        assert np.abs(simulation.episode.sensed.hand - hand).max() < 1e-9
    assert np.abs(simulation.episode.data.qpos - golden[f"{name}.qpos"]).max() < 1e-9
    assert np.array_equal(_image(simulation), golden[f"{name}.image"])


@pytest.mark.parametrize("name", NAMES)
def test_recordings_of_libero_are_met_to_the_pixel_whatever_ran_before(name: str, golden) -> None:
    suite = _suite(name)
    simulation = suite.simulation(0)
    _follow(simulation, golden, name)  # newly compiled: a hard reset
    other = suite.simulation(0)
    other.begin(EpisodeSpec(task=0, split="train", init=3, seed=0))
    for _ in range(5):
        other.advance(np.array([0.5, -0.5, -1.0, 0.2, 0.0, 0.3, 1.0]))
    _image(other)
    _follow(simulation, golden, name)  # over a used model: a soft reset
    before = other.state_digest()
    _image(other)
    assert other.state_digest() == before


def test_an_episode_depends_on_its_spec_and_actions_alone() -> None:
    suite = _suite("libero_goal.8.0")
    first, second = suite.simulation(0), suite.simulation(0)
    spec = EpisodeSpec(task=0, split="train", init=11, seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 7))
    first.begin(spec)
    for action in actions:
        first.advance(action)
    expected, picture = first.state_digest(), _image(first)
    # The same episode again, in turns with another one over the same compiled model.
    first.begin(EpisodeSpec(task=0, split="train", init=12, seed=0))
    second.begin(spec)
    for action in actions:
        first.advance(-action)
        second.advance(action)
    assert second.state_digest() == expected
    assert np.array_equal(_image(second), picture)
    assert first.state_digest() != expected


def test_training_placements_are_sampled_and_never_official_states() -> None:
    suite = _suite("libero_goal.8.0")
    simulation = suite.simulation(0)
    assert suite.num_inits(0, "train") > suite.num_inits(0, "eval") == 50
    stage = suite._stages.get(suite._rows[0])
    official = np.stack([stage.start_official(init).state for init in range(50)])
    sampled = [stage.start_sampled(seed) for seed in range(8)]
    states = np.stack([start.state for start in sampled])
    fixtures = np.stack([start.body_positions for start in sampled])
    distance = np.abs(states[:, None] - official[None]).max(axis=-1)
    assert distance.min() > 1e-3
    assert len({state.tobytes() for state in states}) == len(states)
    assert np.ptp(fixtures, axis=0).max() > 0.005, "the cabinet moves with the seed"
    simulation.begin(EpisodeSpec(task=0, split="train", init=0, seed=0))
    assert not simulation.advance(np.zeros(7)).terminated


def test_the_second_held_out_set_is_sampled_apart_from_training() -> None:
    suite = _suite("libero_goal.8.0")
    simulation = suite.simulation(0)
    starts = []
    for split in ("train", "eval", "sampled"):
        for init in range(3):
            simulation.begin(EpisodeSpec(task=0, split=split, init=init, seed=0))
            starts.append(simulation.episode._start)
    assert len({start.state.tobytes() for start in starts}) == 9
    assert len({start.body_positions.tobytes() for start in starts}) == 7, "official states share fixtures"
    assert suite.num_inits(0, "sampled") == 1000


def test_fixtures_of_official_scripts_vary_from_episode_to_episode() -> None:
    fixed, varying = _suite("libero_goal.8.0"), _suite("libero_goal.8.0", fixtures="official_sequence")
    places = {}
    for name, suite in (("fixed", fixed), ("varying", varying)):
        simulation = suite.simulation(0)
        places[name] = []
        for init in (0, 1, 2):
            simulation.begin(EpisodeSpec(task=0, split="eval", init=init, seed=0))
            places[name].append(simulation.episode._start.body_positions)
    assert np.array_equal(places["fixed"][0], places["fixed"][2])
    assert np.array_equal(places["fixed"][0], places["varying"][0]), "both begin with the first reset from seed 0"
    assert not np.array_equal(places["varying"][1], places["varying"][2])


def test_fast_pictures_differ_only_in_edges_and_reflections() -> None:
    exact, fast = _suite("libero_goal.8.0"), _suite("libero_goal.8.0", render_quality="fast")
    pictures = []
    for suite in (exact, fast):
        simulation = suite.simulation(0)
        simulation.begin(_official("libero_goal.8.0"))
        pictures.append(_image(simulation).astype(np.int64))
    difference = np.abs(pictures[0] - pictures[1])
    assert 0 < difference.mean() < 6
    assert (difference.max(axis=-1) > 32).mean() < 0.08


def test_a_state_that_is_no_number_is_an_error_not_a_silent_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs the warning to a file in the working folder
    simulation = _suite("libero_goal.8.0").simulation(0)
    simulation.begin(EpisodeSpec(task=0, split="train", init=0, seed=0))
    simulation.advance(np.zeros(7))
    simulation.episode.data.qvel[0] = np.nan
    with pytest.raises(RunError, match="diverged at step 2"):
        simulation.advance(np.zeros(7))
