"""Fewer triangles for small pictures: what clustering keeps, and that nothing but the picture changes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.libero.meshes import coarse_meshes, distinct_triangles, representatives
from vlarl.suites.libero.suite import LiberoSuite
from vlarl.types import EpisodeSpec

CELL = 0.1
POINTS = st.lists(st.tuples(*[st.floats(-1, 1, allow_subnormal=False)] * 3), min_size=1, max_size=40)


@given(POINTS)
def test_one_vertex_stands_for_all_of_its_cube(points: list[tuple[float, float, float]]) -> None:
    vertices = np.array(points)
    cubes = np.floor(vertices / CELL)
    chosen = representatives(vertices, CELL)
    assert np.array_equal(cubes[chosen], cubes)
    assert len(np.unique(chosen)) == len(np.unique(cubes, axis=0))
    assert np.array_equal(chosen[chosen], chosen)


def test_it_is_the_one_nearest_to_their_middle() -> None:
    vertices = np.array([[0.01, 0.0, 0.0], [0.05, 0.0, 0.0], [0.09, 0.0, 0.0], [0.55, 0.0, 0.0]])
    assert representatives(vertices, CELL).tolist() == [1, 1, 1, 3]


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), max_size=60))
def test_triangles_have_three_corners_and_none_lies_on_another(triangles: list[tuple[int, int, int]]) -> None:
    all_of_them = np.array(triangles, dtype=np.int32).reshape(-1, 3)
    rows = distinct_triangles(all_of_them)
    kept = [frozenset(row) for row in all_of_them[rows].tolist()]
    assert len(set(kept)) == len(kept)
    assert set(kept) == {frozenset(row) for row in triangles if len(set(row)) == 3}
    assert (np.diff(rows) > 0).all()


def _suite(quality: str, size: int = 96) -> LiberoSuite:
    tasks = ["put_the_bowl_on_the_plate"]
    return LiberoSuite(LiberoSpec(name="libero_goal", tasks=tasks, image_size=size, render_quality=quality))  # type: ignore[arg-type]


def test_pictures_change_little_and_physics_not_at_all() -> None:
    pictures, digests = [], []
    for quality in ("fast", "coarse"):
        simulation = _suite(quality).simulation(0)
        simulation.begin(EpisodeSpec(0, "eval", 3, 0))
        image = np.empty((96, 96, 3), np.uint8)
        simulation.render_into(image)
        pictures.append(image.astype(np.int64))
        for step in range(30):
            simulation.advance(np.array([0.3, 0.1, -1.0, 0, 0, 0, (-1.0) ** (step // 10)]))
        digests.append(simulation.state_digest())
    difference = np.abs(pictures[0] - pictures[1])
    assert 0.0 < difference.mean() < 2.0
    assert (difference.max(axis=-1) > 32).mean() < 0.02
    assert digests[0] == digests[1]


def test_a_models_meshes_lose_triangles_inside_the_block_only() -> None:
    stage = _suite("fast")._stages.get(_suite("fast")._rows[0])
    model = stage.model
    faces, counts = model.mesh_face.copy(), model.mesh_facenum.copy()
    with coarse_meshes(model, 0.5 / 96):
        fewer = int(model.mesh_facenum.sum())
        assert 0 < fewer < 0.6 * counts.sum()
        for mesh in np.flatnonzero(model.mesh_facenum < counts):
            first, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
            assert count > 0
            assert model.mesh_face[first : first + count].max() < model.mesh_vertnum[mesh]
    assert np.array_equal(model.mesh_face, faces)
    assert np.array_equal(model.mesh_facenum, counts)
