"""HDF5 files that would crash, hang or fill the process that reads them, or that hand it other files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_demonstrations import trajectory, written

from vlarl.suites import hdf5_probe
from vlarl.suites.hdf5_probe import vet


def test_a_whole_file_passes(tmp_path: Path) -> None:
    vet(written(tmp_path / "lift_red_demo.hdf5", trajectory(5, 0), trajectory(4, 1)))


def a_link_to_another_file(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("secret.hdf5"), "w") as secret:
        secret["values"] = np.ones(3)
    file["data/actions"] = h5py.ExternalLink("secret.hdf5", "/values")


def values_of_another_file(file: h5py.File) -> None:
    Path(file.filename).with_name("secret").write_bytes(bytes(192))
    secret = str(Path(file.filename).with_name("secret"))
    file.create_dataset("data/actions", (192,), "u1", external=[(secret, 0, 192)])


def a_virtual_dataset(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("secret.hdf5", "values", (3,))
    file.create_virtual_dataset("data/actions", layout)


def more_than_it_can_hold(file: h5py.File) -> None:
    file.create_dataset("data/states", (10**9, 10**6), "f8", chunks=(1, 1000))


def a_row_that_fills_memory(file: h5py.File) -> None:
    file["data/pad"] = np.random.default_rng(0).integers(0, 256, 3 << 20, np.uint8)
    file.create_dataset("data/states", (1, 300_000_000), "f8", chunks=(1, 1000))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_link_to_another_file, "in another file"),
        (values_of_another_file, "in another file"),
        (a_virtual_dataset, "in another file"),
        (more_than_it_can_hold, "more than the file can hold"),
        (a_row_that_fills_memory, "rows of"),
    ],
)
def test_a_file_that_means_harm_is_refused(tmp_path: Path, make: Callable[[h5py.File], None], reason: str) -> None:
    path = tmp_path / "bad.hdf5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises(ValueError, match=reason):
        vet(path)


def test_a_loop_of_groups_ends(tmp_path: Path) -> None:
    path = tmp_path / "loop.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["b"] = group
        group["self"] = h5py.SoftLink("/a")
    vet(path)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "crashes the HDF5 library .SIGSEGV."),
        ("import time; time.sleep(60)", "does not end within"),
    ],
)
def test_a_reader_that_dies_or_hangs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    """With another child, since files that crash one build of HDF5 need not crash the next."""
    path = tmp_path / "a.hdf5"
    path.write_bytes(b"")
    run = hdf5_probe.subprocess.run
    monkeypatch.setattr(hdf5_probe, "_SECONDS", 2.0)
    monkeypatch.setattr(
        hdf5_probe.subprocess, "run", lambda command, **options: run([command[0], "-c", code], **options)
    )
    with pytest.raises(ValueError, match=reason):
        vet(path)


def test_a_module_that_lies_beside_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "lift_red_demo.hdf5", trajectory(5, 0))
    for name in ("h5py", "json", "resource"):
        (tmp_path / f"{name}.py").write_text("open('RUN', 'w').write('x'); raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    vet(path)
    assert not (tmp_path / "RUN").exists()
