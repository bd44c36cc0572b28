"""An off-screen picture of a MuJoCo model from one of its cameras.

Import this only after ``choose_renderer``: MuJoCo reads its GL backend while it is imported.
"""

from __future__ import annotations

import weakref

import mujoco
import numpy as np


class Offscreen:
    """A GL context, a square buffer and a scene; ``draw`` fills ``pixels`` (H, W, 3) uint8, rows bottom up."""

    def __init__(self, model: mujoco.MjModel, camera: int, size: int, *, font: mujoco.mjtFontScale, geoms: int) -> None:
        self._model = model
        self._gl = mujoco.GLContext(size, size)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, font)
        # Freed while Python still stands: at interpreter exit EGL's own clean-up fails noisily.
        weakref.finalize(self, _release, self._gl, self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._view = mujoco.MjrRect(0, 0, size, size)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = camera
        self.option = mujoco.MjvOption()
        self.scene = mujoco.MjvScene(model, maxgeom=geoms)
        self.pixels = np.empty((size, size, 3), dtype=np.uint8)

    def draw(self, data: mujoco.MjData) -> None:
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self.option, None, self._camera, everything, self.scene)
        mujoco.mjr_render(self._view, self.scene, self._context)
        mujoco.mjr_readPixels(self.pixels, None, self._view, self._context)


def _release(gl: mujoco.GLContext, context: mujoco.MjrContext) -> None:
    gl.make_current()  # else the objects of whichever context is current would be deleted
    context.free()
    gl.free()
