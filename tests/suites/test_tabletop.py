"""The embedded suite: episodes depend on spec and actions alone, conventions hold, experts solve every task."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from vlarl.errors import RecipeError, RunError
from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.suites.tabletop.placement import NUM_INITS, Placement, place
from vlarl.suites.tabletop.scenes import STEP_REACH
from vlarl.suites.tabletop.suite import TabletopSuite
from vlarl.suites.tabletop.tasks import SUITES
from vlarl.types import EpisodeSpec, Split

SuiteName = Literal["tabletop_basic", "tabletop_10"]
NAMES: tuple[SuiteName, ...] = ("tabletop_basic", "tabletop_10")
TASKS = [(suite, index) for suite in NAMES for index in range(len(SUITES[suite]))]
TASK_IDS = [f"{suite}-{SUITES[suite][index].name}" for suite, index in TASKS]
SPLITS: tuple[Split, ...] = ("train", "eval")


@pytest.fixture(scope="module")
def suites() -> dict[str, TabletopSuite]:
    return {name: TabletopSuite(TabletopSpec(name=name)) for name in NAMES}


def _actions(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, size=(count, 7)).astype(np.float32)


def _trace(simulation, spec: EpisodeSpec, actions: np.ndarray) -> list[bytes]:
    """State digests and pixels of an episode, from its start."""
    image = np.empty((64, 64, 3), np.uint8)
    simulation.begin(spec)
    trace = [simulation.state_digest()]
    for action in actions:
        simulation.advance(action)
        simulation.render_into(image)
        trace += [simulation.state_digest(), image.tobytes()]
    return trace


def _solve(suite: TabletopSuite, simulation, spec: EpisodeSpec, noise: float = 0.0) -> tuple[bool, int]:
    """Success and length of an expert's episode; noise is added to the translation on half of the steps."""
    rng = np.random.default_rng(spec.init)
    simulation.begin(spec)
    expert = suite.expert(simulation)
    for step in range(1, simulation.task.horizon + 1):
        action = expert.act()
        assert action.shape == (7,)
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1.0
        if noise and rng.random() < 0.5:
            action[:3] = np.clip(action[:3] + rng.normal(0.0, noise, 3), -1, 1)
        outcome = simulation.advance(action)
        if outcome.terminated or outcome.truncated:
            assert outcome.truncated == (step == simulation.task.horizon and not outcome.terminated)
            return outcome.terminated, step
    raise AssertionError("neither terminated nor truncated at the horizon")


# -- determinism


@pytest.mark.parametrize("suite_name", NAMES)
def test_an_episode_does_not_depend_on_what_ran_before(suites: dict[str, TabletopSuite], suite_name: str) -> None:
    suite = suites[suite_name]
    actions = _actions(25, 1)
    for task in (0, len(suite.tasks()) - 1):
        fresh, used = suite.simulation(task), suite.simulation(task)
        spec = EpisodeSpec(task, "train", 5, 6)
        expected = _trace(fresh, spec, actions)
        for other in range(3):
            _trace(used, EpisodeSpec(task, "eval", other, other), _actions(17, other))
        assert _trace(used, spec, actions) == expected
        assert _trace(fresh, spec, actions) == expected


def test_interleaved_simulations_of_one_model_do_not_touch_each_other(suites: dict[str, TabletopSuite]) -> None:
    suite = suites["tabletop_10"]
    actions = _actions(20, 3)
    first, second = suite.simulation(5), suite.simulation(9)
    expected = _trace(first, EpisodeSpec(5, "train", 1, 1), actions)
    first.begin(EpisodeSpec(5, "train", 1, 1))
    second.begin(EpisodeSpec(9, "train", 2, 2))
    image = np.empty((64, 64, 3), np.uint8)
    trace = [first.state_digest()]
    for action in actions:
        first.advance(action)
        second.advance(-action)
        second.render_into(image)
        first.render_into(image)
        trace += [first.state_digest(), image.tobytes()]
    assert trace == expected


def test_two_suites_of_one_spec_agree(suites: dict[str, TabletopSuite]) -> None:
    actions = _actions(10, 4)
    spec = EpisodeSpec(2, "eval", 7, 8)
    again = TabletopSuite(TabletopSpec(name="tabletop_basic"))
    assert _trace(again.simulation(2), spec, actions) == _trace(suites["tabletop_basic"].simulation(2), spec, actions)


def test_rendering_changes_no_state(suites: dict[str, TabletopSuite]) -> None:
    simulation = suites["tabletop_basic"].simulation(0)
    actions = _actions(12, 5)
    spec = EpisodeSpec(0, "train", 0, 0)
    rendered = _trace(simulation, spec, actions)[1::2]
    simulation.begin(spec)
    for action, expected in zip(actions, rendered, strict=True):
        simulation.advance(action)
        assert simulation.state_digest() == expected


def test_the_view_shows_the_present_state(suites: dict[str, TabletopSuite]) -> None:
    simulation = suites["tabletop_basic"].simulation(0)
    simulation.begin(EpisodeSpec(0, "train", 0, 0))
    simulation.advance(np.array((1, 0, -1, 0, 0, 0, 1), np.float32))
    np.testing.assert_allclose(simulation._data.body("hand").xpos, simulation.tool(), atol=1e-12)


def test_every_part_of_the_spec_and_each_action_matters(suites: dict[str, TabletopSuite]) -> None:
    simulation = suites["tabletop_basic"].simulation(0)
    digests = set()
    for spec in (
        EpisodeSpec(0, "train", 0, 0),
        EpisodeSpec(0, "train", 0, 1),
        EpisodeSpec(0, "train", 1, 0),
        EpisodeSpec(0, "eval", 0, 0),
    ):
        simulation.begin(spec)
        digests.add(simulation.state_digest())
        simulation.advance(np.zeros(7, np.float32))
        digests.add(simulation.state_digest())
    assert len(digests) == 8


# -- init states


@pytest.mark.parametrize("suite_name", NAMES)
def test_splits_are_disjoint_and_inits_differ(suite_name: str) -> None:
    for row in SUITES[suite_name]:
        seen = [str(place(suite_name, row, split, init)) for split in SPLITS for init in range(150)]
        assert len(set(seen)) == len(seen)


def _gap(placement: Placement, cubes_only: bool) -> float:
    points = list(placement.cubes.values())
    if not cubes_only:
        points += [placement.fixtures[name] for name in ("plate", "button") if name in placement.fixtures]
    return min(float(np.hypot(a[0] - b[0], a[1] - b[1])) for i, a in enumerate(points) for b in points[:i])


@pytest.mark.parametrize(("suite_name", "task"), TASKS, ids=TASK_IDS)
def test_things_start_apart_and_nothing_is_solved(suites: dict[str, TabletopSuite], suite_name: str, task: int) -> None:
    row = SUITES[suite_name][task]
    simulation = suites[suite_name].simulation(task)
    for split in SPLITS:
        for init in range(40):
            assert _gap(place(suite_name, row, split, init), cubes_only=False) > 0.1
            simulation.begin(EpisodeSpec(task, split, init, init))  # asserts that the goals do not hold
            assert simulation.reached() == 0
        assert suites[suite_name].num_inits(task, split) == NUM_INITS[split]


def test_both_sides_of_the_table_are_used() -> None:
    row = next(row for row in SUITES["tabletop_10"] if row.name == "push_green")
    sides = {np.sign(place("tabletop_10", row, "train", init).fixtures["zone"][1]) for init in range(20)}
    assert sides == {-1.0, 1.0}


# -- conventions


@pytest.mark.parametrize(("axis", "sign"), [(axis, sign) for axis in range(3) for sign in (-1, 1)])
def test_translation_moves_the_tool_along_its_axis(suites: dict[str, TabletopSuite], axis: int, sign: int) -> None:
    suite = suites["tabletop_basic"]
    simulation = suite.simulation(0)
    simulation.begin(EpisodeSpec(0, "train", 0, 0))
    before = suite.demonstration_arrays(simulation)["ee_pos"]
    action = np.zeros(7, np.float32)
    action[axis] = sign
    outcome = simulation.advance(action)
    moved = suite.demonstration_arrays(simulation)["ee_pos"] - before
    assert sign * moved[axis] > 0.8 * STEP_REACH
    assert np.abs(np.delete(moved, axis)).max() < 0.002
    assert outcome.eef_speed == pytest.approx(np.linalg.norm(moved) * 20.0)


def test_gripper_closes_on_plus_opens_on_minus_and_holds_on_zero(suites: dict[str, TabletopSuite]) -> None:
    simulation = suites["tabletop_basic"].simulation(0)
    simulation.begin(EpisodeSpec(0, "train", 0, 0))

    def command(grip: float) -> float:
        outcome = simulation.advance(np.array((0, 0, 0, 0, 0, 0, grip), np.float32))
        for _ in range(4):
            outcome = simulation.advance(np.array((0, 0, 0, 0, 0, 0, grip), np.float32))
        return outcome.gripper_opening

    assert command(0.0) == pytest.approx(1.0, abs=0.01)
    assert command(0.3) == pytest.approx(0.0, abs=0.01)
    assert command(0.0) == pytest.approx(0.0, abs=0.01)
    assert command(-0.3) == pytest.approx(1.0, abs=0.01)


def test_rotation_entries_are_ignored(suites: dict[str, TabletopSuite]) -> None:
    simulation = suites["tabletop_basic"].simulation(0)
    digests = []
    for turn in (0.0, 1.0):
        simulation.begin(EpisodeSpec(0, "train", 0, 0))
        simulation.advance(np.array((0.5, 0, 0, turn, -turn, turn, 1), np.float32))
        digests.append(simulation.state_digest())
    assert digests[0] == digests[1]


def test_plus_y_is_right_and_plus_x_is_down_in_the_image(suites: dict[str, TabletopSuite]) -> None:
    simulation = suites["tabletop_basic"].simulation(0)
    image = np.empty((64, 64, 3), np.uint8)
    places, pixels = [], []
    for init in range(12):
        simulation.begin(EpisodeSpec(0, "train", init, 0))
        simulation.render_into(image)
        red = (image[..., 0] > 100) & (image[..., 1] < 60) & (image[..., 2] < 60)
        assert 12 <= red.sum() <= 80, "a cube is a few pixels wide"
        rows, columns = np.nonzero(red)
        places.append(simulation.cube("red")[:2])
        pixels.append((rows.mean(), columns.mean()))
    x, y = np.array(places).T
    row, column = np.array(pixels).T
    assert np.corrcoef(x, row)[0, 1] > 0.95
    assert np.corrcoef(y, column)[0, 1] > 0.95


def test_image_size_follows_the_spec() -> None:
    suite = TabletopSuite(TabletopSpec(image_size=96, tasks=["lift_red"]))
    simulation = suite.simulation(0)
    simulation.begin(EpisodeSpec(0, "train", 0, 0))
    image = np.zeros((96, 96, 3), np.uint8)
    simulation.render_into(image)
    assert suite.conventions.image_size == 96
    assert (image[..., 0] > 150).any()


def test_no_action_leaves_the_world_at_rest(suites: dict[str, TabletopSuite]) -> None:
    simulation = suites["tabletop_10"].simulation(9)
    simulation.begin(EpisodeSpec(9, "train", 0, 0))
    before = simulation.flat_state()
    for _ in range(20):
        outcome = simulation.advance(np.zeros(7, np.float32))
    assert outcome.eef_speed < 0.005
    assert np.abs(simulation.flat_state()[1:] - before[1:]).max() < 0.003


def test_diverged_physics_is_an_error_not_a_silent_restart(
    suites: dict[str, TabletopSuite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs the warning to a file in the working folder
    simulation = suites["tabletop_basic"].simulation(0)
    simulation.begin(EpisodeSpec(0, "train", 0, 0))
    simulation.advance(np.zeros(7, np.float32))
    simulation._data.qvel[0] = np.nan
    with pytest.raises(RunError, match="diverged at step 2"):
        simulation.advance(np.zeros(7, np.float32))


# -- demonstrations and experts


@pytest.mark.parametrize("suite_name", NAMES)
def test_demonstration_arrays_bear_liberos_names_and_shapes(suites: dict[str, TabletopSuite], suite_name: str) -> None:
    suite = suites[suite_name]
    simulation = suite.simulation(0)
    simulation.begin(EpisodeSpec(0, "train", 0, 0))
    arrays = suite.demonstration_arrays(simulation)
    shapes = {name: array.shape for name, array in arrays.items() if name != "states"}
    assert shapes == {
        "ee_pos": (3,),
        "ee_ori": (3,),
        "ee_states": (6,),
        "gripper_states": (2,),
        "joint_states": (3,),
    }
    assert arrays["states"].ndim == 1
    kept = {name: array.copy() for name, array in arrays.items()}
    simulation.advance(np.ones(7, np.float32))
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, kept[name], err_msg=f"{name} is a view of the simulator's memory")


@pytest.mark.parametrize(("suite_name", "task"), TASKS, ids=TASK_IDS)
def test_expert_solves_the_task(suites: dict[str, TabletopSuite], suite_name: str, task: int) -> None:
    suite = suites[suite_name]
    simulation = suite.simulation(task)
    runs = [_solve(suite, simulation, EpisodeSpec(task, split, k, k)) for split in SPLITS for k in range(6)]
    assert all(success for success, _ in runs)
    assert max(length for _, length in runs) <= simulation.task.horizon // 2 + 5


@pytest.mark.parametrize(("suite_name", "task"), TASKS, ids=TASK_IDS)
def test_expert_recovers_from_noise(suites: dict[str, TabletopSuite], suite_name: str, task: int) -> None:
    suite = suites[suite_name]
    simulation = suite.simulation(task)
    runs = [_solve(suite, simulation, EpisodeSpec(task, "train", k, k), noise=0.3)[0] for k in range(8)]
    assert sum(runs) >= 7


def test_expert_of_one_instruction_does_not_solve_the_other(suites: dict[str, TabletopSuite]) -> None:
    """In one scene only the instruction says which cube is meant."""
    suite = suites["tabletop_basic"]
    names = [task.name for task in suite.tasks()]
    told, judged = names.index("lift_red"), names.index("lift_green")
    simulation = suite.simulation(told)
    for init in range(10):
        _solve(suite, simulation, EpisodeSpec(told, "train", init, 0))
        goals = SUITES["tabletop_basic"][judged].goals
        assert not any(goal.holds(simulation) for goal in goals)


def test_doing_nothing_or_anything_rarely_succeeds(suites: dict[str, TabletopSuite]) -> None:
    suite = suites["tabletop_10"]
    for task in suite.tasks():
        simulation = suite.simulation(task.index)
        simulation.begin(EpisodeSpec(task.index, "train", 0, 0))
        outcomes = [simulation.advance(np.zeros(7, np.float32)) for _ in range(task.horizon)]
        assert not any(outcome.terminated for outcome in outcomes)
        assert outcomes[-1].truncated
        assert not outcomes[-2].truncated


# -- the suite's surface


@pytest.mark.parametrize("suite_name", NAMES)
def test_tasks_are_the_ones_the_recipe_language_knows(suites: dict[str, TabletopSuite], suite_name: str) -> None:
    tasks = suites[suite_name].tasks()
    assert tuple(task.name for task in tasks) == TabletopSpec(name=suite_name).known_tasks()
    assert [task.index for task in tasks] == list(range(len(tasks)))
    assert len({task.instruction for task in tasks}) == len(tasks)


def test_tasks_can_be_selected_and_renumbered() -> None:
    suite = TabletopSuite(TabletopSpec(name="tabletop_10", tasks=["stack_red_green", "press_button"]))
    assert [(task.index, task.name) for task in suite.tasks()] == [(0, "stack_red_green"), (1, "press_button")]
    assert suite.simulation(1).task == suite.tasks()[1]


def test_selection_does_not_change_a_tasks_inits(suites: dict[str, TabletopSuite]) -> None:
    alone = TabletopSuite(TabletopSpec(name="tabletop_basic", tasks=["lift_red"])).simulation(0)
    among = suites["tabletop_basic"].simulation(2)
    alone.begin(EpisodeSpec(0, "eval", 3, 4))
    among.begin(EpisodeSpec(2, "eval", 3, 4))
    assert alone.state_digest() == among.state_digest()


def test_unknown_task_is_named_with_a_hint() -> None:
    with pytest.raises(RecipeError, match="lift_rad") as caught:
        TabletopSuite(TabletopSpec(tasks=["lift_rad"]))
    assert caught.value.hint == "did you mean `lift_red`?"


@pytest.mark.parametrize(("name", "index"), TASKS, ids=TASK_IDS)
def test_the_distance_to_the_goal_falls_as_an_expert_goes_on(
    suites: dict[str, TabletopSuite], name: SuiteName, index: int
) -> None:
    simulation = suites[name].simulation(index)
    simulation.begin(EpisodeSpec(index, "train", 3, 3))
    expert = suites[name].expert(simulation)
    distances = [simulation.goal_distance()]
    while not simulation.advance(expert.act()).terminated:
        distances.append(simulation.goal_distance())
        assert len(distances) < simulation.task.horizon
    assert 0.05 < distances[0] < 1.0
    assert simulation.goal_distance() == 0.0
    assert min(distances[-3:]) < 0.6 * distances[0]
    falls = np.mean(np.diff(distances) < 0.0)
    assert falls > 0.7, f"{falls:.0%} of {len(distances)} steps"
