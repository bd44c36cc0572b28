"""CUDA numbers to EGL numbers, on machines with masked, reordered and foreign devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.errors import EnvironmentUnusable
from vlarl.suites import egl


@pytest.mark.parametrize(
    ("devices", "visible", "worker", "expected"),
    [
        ([0], "7", 0, 0),  # a container that hands in one card of eight and keeps the host's mask
        ([None, 1, 0], None, 0, 2),
        ([None, 1, 0], None, 1, 1),
        ([3, 2, 1, 0, None], "2,0", 0, 1),
        ([3, 2, 1, 0, None], "2,0", 1, 3),
        ([3, 2, 1, 0, None], "2,0", 2, 1),
        ([0, 1], "GPU-8c1d", 1, 1),
        ([0, 1], "", 1, 1),
        ([None], None, 3, None),  # software only: MuJoCo takes the first that works
        ([], "0", 0, None),
    ],
)
def test_a_device_in_view_is_chosen(devices: list[int | None], visible: str | None, worker: int, expected: int) -> None:
    assert egl.choose(devices, visible, worker) == expected


@given(
    st.lists(st.none() | st.integers(0, 15), max_size=9, unique_by=lambda n: object() if n is None else n),
    st.none() | st.lists(st.integers(0, 15), max_size=5).map(lambda mask: ",".join(map(str, mask))),
    st.integers(0, 40),
)
def test_the_choice_always_exists(devices: list[int | None], visible: str | None, worker: int) -> None:
    chosen = egl.choose(devices, visible, worker)
    if chosen is None:
        assert all(device is None for device in devices)
    else:
        assert devices[chosen] is not None


def test_a_number_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egl, "cuda_numbers", lambda: [0])
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "7")
    with pytest.raises(EnvironmentUnusable, match="1 EGL devices") as caught:
        egl.check_egl_device()
    assert caught.value.code == "E414"
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "0")
    egl.check_egl_device()


def test_processes_take_turns_and_keep_what_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egl, "cuda_numbers", lambda: [1, 0])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "1")
    egl.spread_over_devices(0)
    assert egl.os.environ["MUJOCO_EGL_DEVICE_ID"] == "1"
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID")
    egl.spread_over_devices(1)
    assert egl.os.environ["MUJOCO_EGL_DEVICE_ID"] == "0"
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID")
