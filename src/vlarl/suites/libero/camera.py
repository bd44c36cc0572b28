"""Rendering a compiled LIBERO task: the same pixels as robosuite's, without drawing what cannot be seen.

A frame costs what its triangles cost, whatever its size, and every reflective surface draws all of them again.
Things outside the view, directly and in every mirror that is itself in view, are therefore left out, and so are
mirrors outside the view. Both are decided from bounding spheres, so no pixel can differ.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import mujoco
import numpy as np

from vlarl.memory import give_back_freed_memory
from vlarl.suites.libero.meshes import coarse_meshes
from vlarl.suites.offscreen import Offscreen

RenderQuality = Literal["exact", "fast", "coarse"]
_MAX_GEOMS = 1000  # robosuite's
_CELL = 0.5  # metres, divided by the picture's pixels a side: half of what one shows a metre away
_HIDDEN_GROUP = 5  # neither MuJoCo's default options nor robosuite draw it
_MIRRORS = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX)  # what MuJoCo renders reflections in
_PLACED = ("geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")


@dataclass(frozen=True)
class Frame:
    """Everything a picture depends on, copied at the moment the camera looks."""

    places: dict[str, np.ndarray]  # MjData fields
    site_colours: np.ndarray  # (nsite, 4)


def take_frame(data: mujoco.MjData, site_colours: np.ndarray) -> Frame:
    return Frame({name: getattr(data, name).copy() for name in _PLACED}, site_colours)


@dataclass(frozen=True)
class Pyramid:
    """What a camera sees through a rectangle, in tangents: x / depth and y / depth in the camera's frame."""

    left: float
    right: float
    low: float
    high: float

    def meets(self, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """(n,) bool: whether spheres (n, 3), (n,) in the camera's frame (it looks along -z) may be seen in part."""
        x, y, depth = centres[:, 0], centres[:, 1], -centres[:, 2]
        seen = depth > -radii
        for value, bound, sign in ((x, self.left, 1), (x, self.right, -1), (y, self.low, 1), (y, self.high, -1)):
            seen &= sign * (value - bound * depth) > -radii * np.hypot(1.0, bound)
        return np.asarray(seen)


class Camera:
    """Renders frames of one model from one of its cameras, turned by 180 degrees as OpenVLA's data has it."""

    def __init__(self, model: mujoco.MjModel, name: str, size: int, quality: RenderQuality) -> None:
        self._model = model
        self._scratch = mujoco.MjData(model)
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        if quality != "exact":
            model.vis.quality.offsamples = 0
        self._index = model.camera(name).id
        font = mujoco.mjtFontScale.mjFONTSCALE_150
        with coarse_meshes(model, _CELL / size) if quality == "coarse" else nullcontext():
            self._screen = Offscreen(model, self._index, size, font=font, geoms=_MAX_GEOMS)
        self._screen.option.geomgroup[0] = 0  # collision shapes
        self._reflects = quality == "exact"
        self._screen.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = self._reflects
        self._groups = model.geom_group.copy()
        self._radii = np.where(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE, np.inf, model.geom_rbound)
        self._mirrors = self._find_mirrors()
        self._reflectance = model.mat_reflectance.copy()
        self._has_drawn = False

    def render_into(self, frame: Frame, image: np.ndarray) -> None:
        """Write the view into ``image`` (H, W, 3) uint8."""
        model, scratch = self._model, self._scratch
        for name, value in frame.places.items():
            getattr(scratch, name)[:] = value
        model.site_rgba[:] = frame.site_colours
        seen = self._seen(frame)
        model.geom_group[:] = np.where(seen, self._groups, _HIDDEN_GROUP)
        self._screen.draw(scratch)
        model.geom_group[:] = self._groups
        model.mat_reflectance[:] = self._reflectance
        if not self._has_drawn:
            give_back_freed_memory()  # what the first picture needed to upload everything
            self._has_drawn = True
        image[...] = self._screen.pixels[::-1, ::-1]  # GL's rows run bottom up; then turned

    def _find_mirrors(self) -> np.ndarray:
        model = self._model
        if not self._reflects:
            return np.empty(0, dtype=np.int64)
        material = model.geom_matid
        shiny = (material >= 0) & (model.mat_reflectance[np.maximum(material, 0)] > 0)
        return np.flatnonzero(shiny & np.isin(model.geom_type, _MIRRORS) & (model.geom_group != 0))

    def _seen(self, frame: Frame) -> np.ndarray:
        """(ngeom,) bool; mirrors that show nothing lose their reflectance until the picture is drawn."""
        eye, turn = frame.places["cam_xpos"][self._index], self._turn(frame)
        centres = frame.places["geom_xpos"]
        slope = float(np.tan(np.deg2rad(self._model.cam_fovy[self._index]) / 2))
        view = Pyramid(-slope, slope, -slope, slope)
        seen = view.meets((centres - eye) @ turn, self._radii)
        dull = []
        for mirror in self._mirrors:
            if not seen[mirror]:
                dull.append(mirror)
                continue
            normal = frame.places["geom_xmat"][mirror].reshape(3, 3)[:, 2]
            height = (centres - centres[mirror]) @ normal - self._thickness(mirror)
            images = centres - 2.0 * height[:, None] * normal
            # What lies wholly behind the surface is clipped away by MuJoCo.
            seen |= view.meets((images - eye) @ turn, self._radii) & (height > -self._radii)
        if dull:
            self._dull(dull)
        return seen

    def _turn(self, frame: Frame) -> np.ndarray:
        """(3, 3) world from camera."""
        return frame.places["cam_xmat"][self._index].reshape(3, 3)

    def _thickness(self, mirror: int) -> float:
        """From a mirror's centre to its surface."""
        is_box = self._model.geom_type[mirror] == mujoco.mjtGeom.mjGEOM_BOX
        return float(self._model.geom_size[mirror, 2]) if is_box else 0.0

    def _dull(self, mirrors: list[int]) -> None:
        """A material may belong to a mirror in view as well; then it keeps its reflectance."""
        model = self._model
        in_view = set(model.geom_matid[[m for m in self._mirrors if m not in mirrors]].tolist())
        for material in set(model.geom_matid[mirrors].tolist()) - in_view:
            model.mat_reflectance[material] = 0.0
