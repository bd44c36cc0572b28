"""What the doctor tries in processes of their own: a broken driver or library may end the process that tries it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlarl.errors import VlarlError

if TYPE_CHECKING:
    import numpy as np
    import torch

PROBE_SECONDS = 240  # a first import of torch from a cold network disk takes its time
_STEPS = 12  # of the tabletop: down to the table, then across it
_SIDE = 192  # of the matrices of the determinism probe: large enough for kernels that share a sum out


@dataclass(frozen=True)
class Trouble:
    """Why a probe has no answer."""

    message: str
    code: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        told = "; ".join(line.strip() for line in self.message.splitlines())
        return f"{self.code}: {told}" if self.code else told


Answer = dict[str, Any] | Trouble


def probe(code: str) -> Answer:
    """Run ``code`` in a fresh interpreter: the JSON it prints last, or why there is none."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Trouble(f"no answer within {PROBE_SECONDS} seconds")
    lines = done.stdout.splitlines()
    if done.returncode < 0:
        return Trouble(f"the process was ended by signal {-done.returncode}")
    if done.returncode or not lines:
        return Trouble((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    found = dict(json.loads(lines[-1]))
    return Trouble(**found["error"]) if "error" in found else found


def call(function: Callable[..., None], *arguments: str | bool) -> str:
    """Code for ``probe`` that calls a function of this module."""
    return f"from {__name__} import {function.__name__} as look; look({', '.join(map(repr, arguments))})"


def _answer(look: Callable[[], dict[str, Any]]) -> None:
    try:
        found = look()
    except VlarlError as error:
        found = {"error": {"message": error.message, "code": error.code, "hint": error.hint}}
    print(json.dumps(found))


def torch_probe() -> None:
    """torch, the GPUs it sees, and whether one training step repeats."""
    _answer(_torch)


def _torch() -> dict[str, Any]:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import torch

        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    said = [str(each.message) for each in caught if any(word in str(each.message) for word in ("NVIDIA", "CUDA"))]
    if torch.version.cuda and not num_gpus:
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            said.insert(0, str(error))
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "num_gpus": num_gpus,
        "said": said[0].splitlines()[0] if said else None,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "determinism": _determinism("cuda" if num_gpus else "cpu"),
    }


def _determinism(device: str) -> dict[str, Any]:
    """One step twice, with torch set up as for a strict run."""
    import torch

    from vlarl.run.machine import torch_settings
    from vlarl.seeding import apply_determinism

    apply_determinism("strict", torch.get_num_threads())
    try:
        first, second = _step(device), _step(device)
    except RuntimeError as error:  # the driver's or the kernel's own word
        return {"device": device, "repeats": False, "failed": str(error).splitlines()[0]}
    settings = torch_settings({})
    return {"device": device, "repeats": first == second, "failed": None, "settings": settings}


def _step(device: str) -> list[bytes]:
    """Bytes of a loss and its gradients: matrices and a convolution, forward and backward."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    image, kernel, weight = drawn(4, 3, 24, 24), drawn(_SIDE, 3, 5, 5), drawn(_SIDE, _SIDE)
    seen = torch.nn.functional.conv2d(image, kernel).flatten(2).mean(2)
    loss = torch.logsumexp(seen @ weight, 1).sum()
    loss.backward()
    gradients = [each.grad for each in (image, kernel, weight)]
    return [each.detach().cpu().numpy().tobytes() for each in (loss, *gradients) if each is not None]


def tabletop_probe(renderer: str) -> None:
    """The known scene of the tabletop, drawn by ``renderer``, and where a few control steps lead from there."""
    _answer(lambda: _tabletop(renderer))


def _tabletop(renderer: str) -> dict[str, Any]:
    import hashlib

    import numpy as np

    from vlarl.recipe.specs.suites import TabletopSpec
    from vlarl.suites.tabletop.suite import TabletopSuite
    from vlarl.types import EpisodeSpec

    suite = TabletopSuite(TabletopSpec.model_validate({"name": "tabletop_10", "renderer": renderer}))
    simulation = suite.simulation(7)  # stack_red_green: cubes that are touched
    simulation.begin(EpisodeSpec(task=7, split="eval", init=0, seed=0))
    size = suite.conventions.image_size
    image = np.zeros((size, size, 3), np.uint8)
    simulation.render_into(image)
    states = hashlib.sha256()
    for step in range(_STEPS):
        across = step >= _STEPS // 2
        simulation.advance(np.array((0.5 * across, -0.5 * across, -1.0 + across, 0, 0, 0, 1 - 2 * across), np.float32))
        states.update(simulation.state_digest())
    return {
        "backend": suite.renderer,
        "size": size,
        "colours": _colours(image),
        "pixels": hashlib.sha256(image.tobytes()).hexdigest()[:16],
        "states": states.hexdigest()[:16],
        **_gl_strings(),
    }


def suite_probe(spec: str, renderer: str, draws: bool) -> None:
    """The first task of the suite ``spec`` (JSON) begun, where LIBERO compares its physics, and a frame of it drawn."""
    _answer(lambda: _suite(spec, renderer, draws))


def _suite(spec: str, renderer: str, draws: bool) -> dict[str, Any]:
    import numpy as np

    from vlarl.registry import build, kinds
    from vlarl.types import EpisodeSpec

    values = {**json.loads(spec), "renderer": renderer}
    suite = build(kinds("suite")[values["kind"]](**values))
    simulation = suite.simulation(0)
    simulation.begin(EpisodeSpec(task=0, split="eval", init=0, seed=0))
    found = {"suite": suite.name, "task": simulation.task.name, "size": suite.conventions.image_size}
    if not draws:
        return {**found, "colours": None}
    image = np.zeros((found["size"], found["size"], 3), np.uint8)
    simulation.render_into(image)
    return {**found, "colours": _colours(image)}


def video_probe() -> None:
    """ffmpeg, as imageio brings it."""
    import imageio_ffmpeg

    print(json.dumps({"version": imageio_ffmpeg.get_ffmpeg_version()}))


def _colours(image: np.ndarray) -> int:
    import numpy as np

    return len(np.unique(image.reshape(-1, 3), axis=0))


def _gl_strings() -> dict[str, str]:
    """Names that the current GL context gives itself."""
    from OpenGL import GL

    read: Callable[[Any], Any] = GL.glGetString
    named = {"vendor": GL.GL_VENDOR, "renderer": GL.GL_RENDERER, "version": GL.GL_VERSION}
    return {name: (read(key) or b"unknown").decode(errors="replace") for name, key in named.items()}
