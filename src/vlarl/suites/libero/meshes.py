"""Meshes with fewer triangles, for small pictures: a software renderer's frame costs what its triangles cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mujoco
import numpy as np

_FEW = 200  # triangles: a mesh of so few stays as it is
_OF_TRIANGLES = ("mesh_face", "mesh_facenormal", "mesh_facetexcoord")


@contextmanager
def coarse_meshes(model: mujoco.MjModel, cell: float) -> Iterator[None]:
    """Inside the block ``model``'s triangles join one vertex of each cube of ``cell`` metres, for a GL context to read.

    Vertices in one cube become the one nearest to their middle, and triangles that lose an edge or lie on another go
    (vertex clustering; Rossignac and Borrel 1993). Vertices, normals and texture coordinates stay, and collision reads
    none of what changes.
    """
    kept = {name: getattr(model, name).copy() for name in (*_OF_TRIANGLES, "mesh_facenum")}
    try:
        for mesh in range(model.nmesh):
            _simplify(model, mesh, cell)
        yield
    finally:
        for name, value in kept.items():
            getattr(model, name)[:] = value


def _simplify(model: mujoco.MjModel, mesh: int, cell: float) -> None:
    first, count = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
    if count <= _FEW:
        return
    start = int(model.mesh_vertadr[mesh])
    vertices = model.mesh_vert[start : start + int(model.mesh_vertnum[mesh])]
    triangles = representatives(vertices, cell)[model.mesh_face[first : first + count]]
    rows = distinct_triangles(triangles)
    if len(rows) == 0:  # smaller than a cell
        return
    model.mesh_face[first : first + len(rows)] = triangles[rows]
    for name in _OF_TRIANGLES[1:]:
        values = getattr(model, name)
        values[first : first + len(rows)] = values[first : first + count][rows]
    model.mesh_facenum[mesh] = len(rows)


def representatives(vertices: np.ndarray, cell: float) -> np.ndarray:
    """(n,) for vertices (n, 3): which one stands for each, the nearest to the middle of those in its cube."""
    _, cube = np.unique(np.floor(vertices / cell).astype(np.int64), axis=0, return_inverse=True)
    cube = cube.reshape(-1)
    middle = np.stack([np.bincount(cube, weights=axis) for axis in vertices.T], axis=1) / np.bincount(cube)[:, None]
    distance = np.square(vertices - middle[cube]).sum(axis=1)
    order = np.lexsort((np.arange(len(cube)), distance, cube))
    chosen = order[np.searchsorted(cube[order], np.arange(len(middle)))]
    return np.asarray(chosen[cube])


def distinct_triangles(triangles: np.ndarray) -> np.ndarray:
    """Rows of ``triangles`` (m, 3) with three different corners, one row of each set of corners, in their order."""
    corners = np.sort(triangles, axis=1)
    whole = np.flatnonzero((corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2]))
    _, first = np.unique(corners[whole], axis=0, return_index=True)
    return np.sort(whole[first])
