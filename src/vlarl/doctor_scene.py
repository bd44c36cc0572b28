"""What the doctor says of pixels and physics, by a scene whose digests are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlarl.doctor_probes import Answer, Trouble
from vlarl.doctor_recipe import Check
from vlarl.run.machine import cpu_model

# Of `doctor_probes.tabletop_probe`; measured with Debian 12's Mesa, where vectors of 128 and of 256 bits agree.
_PIXELS: Mapping[tuple[str, str, str], str] = {
    (backend, rasteriser, "22.3.6"): "cd8fdddf59bc5b5f"
    for backend in ("osmesa", "egl")
    for rasteriser in ("llvmpipe", "softpipe")
}
_STATES = "35ba4900a269cf97"  # MuJoCo 3.1.6
_MEASURED_ON = "25/1/1"  # family, model and stepping of the processor


def check_scene(probed: Answer, processor: str | None = None) -> list[Check]:
    """The renderer, its driver, its pixels, and the tabletop's physics; ``processor`` is this one when absent."""
    if isinstance(probed, Trouble):
        why = "policies see rendered images; without a renderer nothing runs"
        remedy = probed.hint or "try the other backend: `--set suite.renderer=osmesa` (or egl)"
        return [Check(name="renderer", status="fail", found=str(probed), why=why, remedy=remedy)]
    here = processor or (cpu_model() or {}).get("family_model_stepping")
    driver = Check(
        name="GL driver",
        status="ok",
        found=f"{probed['vendor']}, {probed['renderer']}, {probed['version']}",
        why="pixels depend on it: a run repeats to the bit only where it is the same",
    )
    return [_frame(probed), driver, _pixels(probed, here), _physics(probed, here)]


def _frame(probed: Mapping[str, Any]) -> Check:
    blank = probed["colours"] < 2
    shown = " that is blank" if blank else f" with {probed['colours']} colours"
    return Check(
        name="renderer",
        status="fail" if blank else "ok",
        found=f"{probed['backend']}, a {probed['size']} px frame{shown}",
        why="policies see rendered images; without a renderer nothing runs",
        remedy="choose the other backend with `--set suite.renderer=osmesa` (or egl)" if blank else None,
    )


def _pixels(probed: Mapping[str, Any], processor: str | None) -> Check:
    why = "a run's pixels are compared with those of another machine by their digest"
    rasteriser = str(probed["renderer"]).partition(" ")[0]
    mesa = re.search(r"Mesa (\d+\.\d+\.\d+)", str(probed["version"]))
    named = f"{probed['backend']}, {rasteriser}" + (f", Mesa {mesa[1]}" if mesa else "")
    expected = _PIXELS.get((probed["backend"], rasteriser, mesa[1] if mesa else ""))
    if expected is None:
        found = f"{probed['pixels']}, unknown here: no digest is stored for {named}"
        return Check(name="pixels", status="ok", found=found, why=why)
    if probed["pixels"] == expected:
        found = f"{expected}, as stored for {named}"
        return Check(name="pixels", status="ok", found=found, why=why)
    return Check(
        name="pixels",
        status="warn",
        found=f"{probed['pixels']}, not {expected} as stored for {named}",
        why=why,
        remedy="runs of this machine repeat on this machine; for the pixels of others use the image (docs/hpc.md)",
        host=processor != _MEASURED_ON,
    )


def _physics(probed: Mapping[str, Any], processor: str | None) -> Check:
    why = "a run repeats to the bit only where the simulator computes the same states"
    if probed["states"] == _STATES:
        found = f"{_STATES}, the tabletop moves as stored"
        return Check(name="physics", status="ok", found=found, why=why)
    elsewhere = processor != _MEASURED_ON
    found = f"{probed['states']}, not {_STATES} as stored"
    return Check(
        name="physics",
        status="warn" if elsewhere else "fail",
        found=f"{found} on another processor" if elsewhere else f"{found} on this kind of processor",
        why=why,
        remedy="where `packages` is ok it is the processor: runs of this machine repeat on this machine"
        if elsewhere
        else "install MuJoCo and numpy as the lock names them: `make environment`, or use the image (docs/hpc.md)",
        host=elsewhere,
    )


def check_suite(kind: str, probed: Answer, *, wanted: bool) -> Check:
    """A suite that has to begin an episode; for LIBERO that includes its own guard of the physics."""
    libero = kind == "libero"
    name = "LIBERO physics" if libero else f"suite {kind}"
    why = "published LIBERO numbers rest on one physics; a run stops where it is another" if libero else "it is run"
    if isinstance(probed, Trouble):
        remedy = probed.hint or "try again alone; where `renderer` is ok it may lack memory or a package of the suite's"
        return Check(name=name, status="fail" if wanted else "warn", found=str(probed), why=why, remedy=remedy)
    moves = "moves as stored" if libero else "begins"
    drawn = "" if probed["colours"] is None else f", a {probed['size']} px frame with {probed['colours']} colours"
    found = f"{probed['task']} of {probed['suite']} {moves}{drawn}"
    if probed["colours"] is not None and probed["colours"] < 2:
        remedy = "choose the other backend with `--set suite.renderer=osmesa` (or egl)"
        return Check(name=name, status="fail", found=f"{found}: it is blank", why=why, remedy=remedy)
    return Check(name=name, status="ok", found=found, why=why)
