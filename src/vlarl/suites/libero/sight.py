"""What a scripted expert may read of a LIBERO simulation: privileged state, straight from MuJoCo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import mujoco
import numpy as np

_GRIP_SITE = "gripper0_grip_site"
_FINGER_JOINTS = ("gripper0_finger_joint1", "gripper0_finger_joint2")
_ROBOT_PREFIXES = ("robot0_", "gripper0_", "mount0_")


@dataclass(frozen=True)
class Boxes:
    """Oriented boxes in the world: centres (n, 3), rotations (n, 3, 3), half extents (n, 3), metres."""

    centres: np.ndarray
    rotations: np.ndarray
    halves: np.ndarray

    def corners(self) -> np.ndarray:
        """(n, 8, 3) corner points."""
        signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
        local = signs[None] * self.halves[:, None]
        corners: np.ndarray = self.centres[:, None] + np.einsum("nij,nkj->nki", self.rotations, local)
        return corners

    def distance(self, points: np.ndarray) -> float:
        """Smallest distance from ``points`` (m, 3) to any box; 0 inside one, infinite without boxes."""
        if not len(self.centres):
            return float("inf")
        local = np.einsum("nji,nmj->nmi", self.rotations, points[None] - self.centres[:, None])
        outside = np.maximum(np.abs(local) - self.halves[:, None], 0.0)
        return float(np.linalg.norm(outside, axis=-1).min())


class Sight:
    """Reads one simulation; every property is of the state ``data`` holds at the moment of asking."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model = model
        self._data = data

    @property
    def hand(self) -> np.ndarray:
        """(3,) point between the finger tips."""
        return np.array(self._data.site(_GRIP_SITE).xpos)

    @property
    def hand_rotation(self) -> np.ndarray:
        """(3, 3) world from hand: the fingers open along its x, its z points away from the palm."""
        return np.array(self._data.site(_GRIP_SITE).xmat).reshape(3, 3)

    @property
    def opening(self) -> float:
        """Distance between the fingers: 0 closed to 0.08 open."""
        return float(sum(abs(self.joint(name)) for name in _FINGER_JOINTS))

    @property
    def base(self) -> np.ndarray:
        """(3,) foot of the robot."""
        return self.position("robot0_base")

    def position(self, body: str) -> np.ndarray:
        """(3,) origin of a body."""
        return np.array(self._data.body(body).xpos)

    def rotation(self, body: str) -> np.ndarray:
        """(3, 3) world from body."""
        return np.array(self._data.body(body).xmat).reshape(3, 3)

    def site(self, name: str) -> np.ndarray:
        """(3,) position of a site, for instance of a region inside a fixture."""
        return np.array(self._data.site(name).xpos)

    def joint(self, name: str) -> float:
        """Value of a hinge (radians) or slide (metres) joint."""
        return float(self._data.joint(name).qpos[0])

    def axis(self, name: str) -> np.ndarray:
        """(3,) unit vector, in the world, along or about which a joint moves."""
        return np.array(self._data.joint(name).xaxis)

    def boxes(self, body: str) -> Boxes:
        """Collision geoms of one body, as boxes."""
        return self._boxes(self._geoms_of(self._model.body(body).id))

    def boxes_around(self, body: str) -> Boxes:
        """Collision geoms of everything but the robot and ``body``, as boxes."""
        own = self._model.body(body).id
        return self._boxes(self._scenery[self._model.geom_bodyid[self._scenery] != own])

    def _geoms_of(self, body: int) -> np.ndarray:
        own: np.ndarray = self._solid[self._model.geom_bodyid[self._solid] == body]
        return own

    @cached_property
    def _solid(self) -> np.ndarray:
        model = self._model
        solid = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
        return np.flatnonzero(solid & (model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE))

    @cached_property
    def _scenery(self) -> np.ndarray:
        names = [self._model.body(int(self._model.geom_bodyid[geom])).name for geom in self._solid]
        return np.array([g for g, name in zip(self._solid, names) if not name.startswith(_ROBOT_PREFIXES)], dtype=int)

    def _boxes(self, geoms: np.ndarray) -> Boxes:
        rotations = np.array(self._data.geom_xmat[geoms]).reshape(-1, 3, 3)
        middle, halves = np.split(np.array(self._model.geom_aabb[geoms]), 2, axis=1)
        centres = self._data.geom_xpos[geoms] + np.einsum("nij,nj->ni", rotations, middle)
        return Boxes(centres, rotations, halves)
