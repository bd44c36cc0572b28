"""What a recipe asks of the machine before it can begin: cores, memory, and files that are there without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from vlarl.errors import UsageError, VlarlError
from vlarl.plan import make_plan
from vlarl.plan_machine import GB, Machine
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.policies import OpenVlaSpec
from vlarl.recipe.specs.rewards import ProcessRewardSpec

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str
    status: Status
    found: str
    why: str  # it matters
    remedy: str | None = None  # where it is not ok


def check_recipe(recipe: Recipe, cores: int, machine: Machine) -> list[Check]:
    """Everything that can be told without torch and without a simulator."""
    return [
        _workers(recipe, cores),
        _torch_threads(recipe, cores),
        *_device(recipe, machine),
        *(files := list(_files(recipe))),
        # The sizes of a checkpoint that cannot be read are not known.
        *(() if any(check.status == "fail" for check in files) else _memory(recipe, machine)),
    ]


def _workers(recipe: Recipe, cores: int) -> Check:
    suite = recipe.suite
    return Check(
        name="workers",
        status="ok" if suite.num_workers <= cores else "warn",
        found=f"{suite.num_envs} slots on {suite.num_workers} workers, {cores} cores",
        why="more simulator processes than cores only take turns; fewer leave cores idle while simulating",
        remedy=None if suite.num_workers <= cores else f"--set suite.num_workers={cores}",
    )


def _torch_threads(recipe: Recipe, cores: int) -> Check:
    threads = recipe.train.torch_threads
    return Check(
        name="torch threads",
        status="ok" if threads <= cores else "warn",
        found=f"{threads} threads, {cores} cores",
        why="the number of threads is part of the recipe, since it changes sums; too many slow the update down",
        remedy=None if threads <= cores else f"--set train.torch_threads={cores} (this is then another recipe)",
    )


def _device(recipe: Recipe, machine: Machine) -> Iterator[Check]:
    """Whether a policy that needs a GPU, or is told to run on one, finds one."""
    large, device = isinstance(recipe.policy, OpenVlaSpec), getattr(recipe.policy, "device", "cpu")
    if device == "cpu" or not (large or device == "cuda"):
        return
    why = (
        "a policy of billions of parameters takes hours for one iteration on a CPU"
        if large
        else "the recipe says `policy.device: cuda`"
    )
    if machine.num_gpus:
        found = f"{machine.num_gpus} x {machine.gpu_name or 'GPU'}"
        yield Check(name="GPU", status="ok", found=found, why=why)
        return
    forced = device == "cuda"
    yield Check(
        name="GPU",
        status="fail" if forced else "warn",
        found="nvidia-smi lists none",
        why=why,
        remedy="run it where there is a GPU (in a container: hand it in), or `--set policy.device=cpu`",
    )


def _memory(recipe: Recipe, machine: Machine) -> Iterator[Check]:
    """The verdict of `vlarl plan` on this machine."""
    why = "a process that asks for more memory than there is is ended in the middle of a run"
    try:
        plan = make_plan(recipe, machine)
    except UsageError:  # a kind of policy that plan has no sizes of
        return
    for memory in plan.memory:
        if memory.headroom is None:
            continue
        needed = f"{memory.where}: {memory.peak / GB:.1f} GB at the peak of {(memory.available or 0) / GB:.1f} GB"
        remedy = f"`vlarl plan` shows what takes it; it fits with: {plan.change.words}" if plan.change else None
        yield Check(
            name="memory",
            status="ok" if memory.fits else "warn",
            found=needed,
            why=why,
            remedy=None if memory.fits else remedy or "a larger machine; `vlarl plan` shows what takes it",
        )


def _files(recipe: Recipe) -> Iterator[Check]:
    """Everything the recipe names that a run reads and does not make."""
    from vlarl.prm.folder import require_complete
    from vlarl.suites.demonstrations import demonstration_files

    if isinstance(recipe.policy, OpenVlaSpec):
        yield _checkpoint(recipe.policy.checkpoint)
    for reward in recipe.rewards:
        if isinstance(reward, ProcessRewardSpec):
            look = partial(require_complete, Path(reward.model).expanduser())
            yield _looked_at("reward model", "the process reward is its score", look)
    if recipe.imitation is not None and recipe.imitation.demonstrations is not None:
        source = Path(recipe.imitation.demonstrations).expanduser()
        why = "the warm start is cloned from them"
        yield _looked_at("demonstrations", why, lambda: f"{len(demonstration_files(source))} files in {source}")


def _checkpoint(reference: str) -> Check:
    from vlarl.policies.openvla.hub import SCHEME, in_cache
    from vlarl.policies.openvla.layout import read_layout

    why = "training begins from it, and a node of a cluster often has no network"

    def look() -> str:
        folder = in_cache(reference) if reference.startswith(SCHEME) else Path(reference).expanduser()
        return f"{folder}, {read_layout(folder).num_bytes / GB:.1f} GB"

    return _looked_at("policy checkpoint", why, look)


def _looked_at(name: str, why: str, look: Callable[[], object]) -> Check:
    """What ``look`` returns, or the reason and hint of the error that a run would end with."""
    try:
        return Check(name=name, status="ok", found=str(look()), why=why)
    except VlarlError as error:
        return Check(name=name, status="fail", found=error.message, why=why, remedy=error.hint)
