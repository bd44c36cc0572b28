"""Which EGL device a process renders on.

EGL numbers its devices by itself: neither in CUDA's order nor masked by CUDA_VISIBLE_DEVICES, and a software device
may stand among them. A CUDA number used as an EGL number therefore fails on shared machines ("must be between 0
and 0, got 7"). NVIDIA's driver says which CUDA device each EGL device is, so the numbers are translated here.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from vlarl.errors import EnvironmentUnusable

_MAX_DEVICES = 64
_CUDA_DEVICE_NV = 0x323A  # EGL_NV_device_cuda
_ASKED = "MUJOCO_EGL_DEVICE_ID"


def spread_over_devices(worker: int) -> None:
    """Choose a device for simulator process number ``worker``, unless one has been chosen; MuJoCo finds it.

    Where a launcher started several processes on this machine, each renders on the device it computes on.
    """
    if _ASKED not in os.environ:
        place = int(os.environ.get("LOCAL_RANK", worker))
        chosen = choose(cuda_numbers(), os.environ.get("CUDA_VISIBLE_DEVICES"), place)
        if chosen is not None:
            os.environ[_ASKED] = str(chosen)


def check_egl_device() -> None:
    """EnvironmentUnusable when the device asked for does not exist."""
    asked = os.environ.get(_ASKED)
    if asked is not None:
        devices = cuda_numbers()
        if not asked.isdecimal() or (devices and int(asked) >= len(devices)):
            raise EnvironmentUnusable(
                f"{_ASKED} is `{asked}`, but there are {len(devices)} EGL devices",
                code="E414",
                place=_ASKED,
                hint=f"unset {_ASKED}: a device is then chosen among those that CUDA_VISIBLE_DEVICES shows",
            )


def choose(devices: Sequence[int | None], visible: str | None, worker: int) -> int | None:
    """EGL number for simulator process ``worker``; None leaves the choice to MuJoCo, which takes the first that works.

    ``devices``: CUDA number of each EGL device, None for one that is no CUDA device. ``visible``: the value of
    CUDA_VISIBLE_DEVICES; names (``GPU-…``, ``MIG-…``) cannot be translated and count as no mask. Processes take
    turns over the devices in view.
    """
    of_cuda = {cuda: egl for egl, cuda in enumerate(devices) if cuda is not None}
    in_view = sorted(of_cuda)
    if visible is not None and visible.strip():
        wanted = [word.strip() for word in visible.split(",")]
        if all(word.isdecimal() for word in wanted):
            in_view = [int(word) for word in wanted if int(word) in of_cuda]
            # Inside a container the driver numbers only the devices handed in, while the mask may keep the host's.
            in_view = in_view or sorted(of_cuda)
    return of_cuda[in_view[worker % len(in_view)]] if in_view else None


def cuda_numbers() -> list[int | None]:
    """CUDA number of each EGL device, None where a device has none; empty without EGL's device extension."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return []
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    list_devices = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    ask_device = egl.eglGetProcAddress(b"eglQueryDeviceAttribEXT")
    if not list_devices or not ask_device:
        return []
    handles = (ctypes.c_void_p * _MAX_DEVICES)()
    count = ctypes.c_int(0)
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int))
    if not query(list_devices)(_MAX_DEVICES, handles, ctypes.byref(count)):
        return []
    attribute = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))
    return [_cuda_number(attribute(ask_device), handle) for handle in handles[: count.value]]


def _cuda_number(ask: object, handle: int | None) -> int | None:
    value = ctypes.c_ssize_t(-1)
    assert callable(ask)
    known = ask(handle, _CUDA_DEVICE_NV, ctypes.byref(value))
    return int(value.value) if known and value.value >= 0 else None
