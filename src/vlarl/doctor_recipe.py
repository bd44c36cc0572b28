"""What a recipe asks of the machine before it can begin: cores, memory, and files that are there without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from vlarl.errors import UsageError, VlarlError
from vlarl.plan import make_plan
from vlarl.plan_machine import GB, Machine
from vlarl.recipe.paths import expanded
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
    host: bool = False  # the machine's doing, whatever an image holds


def check_recipe(recipe: Recipe, cores: int, machine: Machine, torch_gpus: int | None = None) -> list[Check]:
    """Everything that can be told without torch and without a simulator; ``torch_gpus``: those that torch sees."""
    return [
        _workers(recipe, cores),
        _torch_threads(recipe, cores),
        *_device(recipe, machine, torch_gpus),
        *(files := list(_files(recipe))),
        # The sizes of a checkpoint that cannot be read are not known.
        *(() if any(check.status == "fail" for check in files) else _memory(recipe, machine)),
    ]


def _workers(recipe: Recipe, cores: int) -> Check:
    """Simulator processes against cores, and against the slots that are simulated together: more would have no work."""
    suite = recipe.suite
    most = min(cores, suite.slots_of_a_group())
    # A few idle cores are no fault: half of what could work is.
    fits = suite.num_workers <= cores and 2 * suite.num_workers > most
    return Check(
        name="workers",
        status="ok" if fits else "warn",
        found=f"{suite.num_envs} slots on {suite.num_workers} workers, {cores} cores",
        why="more simulator processes than cores only take turns; fewer leave cores idle while simulating",
        remedy=None if fits else f"--set suite.num_workers={most} (changes no result)",
        host=True,
    )


def _torch_threads(recipe: Recipe, cores: int) -> Check:
    threads = recipe.train.torch_threads
    return Check(
        name="torch threads",
        status="ok" if threads <= cores else "warn",
        found=f"{threads} threads, {cores} cores",
        why="the number of threads is part of the recipe, since it changes sums; too many slow the update down",
        remedy=None if threads <= cores else f"--set train.torch_threads={cores} (this is then another recipe)",
        host=True,
    )


def _device(recipe: Recipe, machine: Machine, torch_gpus: int | None) -> Iterator[Check]:
    """Whether a policy that needs a GPU, or is told to run on one, finds one."""
    large, device = isinstance(recipe.policy, OpenVlaSpec), getattr(recipe.policy, "device", "cpu")
    if device == "cpu" or not (large or device == "cuda"):
        return
    why = (
        "a policy of billions of parameters takes hours for one iteration on a CPU"
        if large
        else "the recipe says `policy.device: cuda`"
    )
    listed = f"{machine.num_gpus} x {machine.gpu_name or 'GPU'}"
    if machine.num_gpus and torch_gpus != 0:
        yield Check(name="GPU", status="ok", found=listed, why=why, host=True)
        return
    forced = device == "cuda"
    yield Check(
        name="GPU",
        status="fail" if forced else "warn",
        found=f"nvidia-smi lists {listed}, and torch sees none" if machine.num_gpus else "nvidia-smi lists none",
        why=why,
        remedy="`make environment VARIANT=cuda`, or `--set policy.device=cpu`"
        if machine.num_gpus
        else "run it where there is a GPU (in a container: hand it in), or `--set policy.device=cpu`",
        host=True,
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
            host=True,
        )


def _files(recipe: Recipe) -> Iterator[Check]:
    """Everything the recipe names that a run reads and does not make."""
    from vlarl.prm.folder import require_complete
    from vlarl.suites.demonstrations import demonstration_files

    if isinstance(recipe.policy, OpenVlaSpec):
        yield _checkpoint(recipe.policy.checkpoint)
    for reward in recipe.rewards:
        if isinstance(reward, ProcessRewardSpec):
            look = partial(lambda name: require_complete(expanded(name)), reward.model)
            yield _looked_at("reward model", "the process reward is its score", look)
    if recipe.imitation is not None and recipe.imitation.demonstrations is not None:
        source = recipe.imitation.demonstrations
        why = "the warm start is cloned from them"
        yield _looked_at(
            "demonstrations", why, lambda: f"{len(demonstration_files(expanded(source)))} files in {source}"
        )


def _checkpoint(reference: str) -> Check:
    from vlarl.policies.openvla.hub import SCHEME, in_cache
    from vlarl.policies.openvla.layout import read_layout

    why = "training begins from it, and a node of a cluster often has no network"

    def look() -> str:
        folder = in_cache(reference) if reference.startswith(SCHEME) else expanded(reference)
        return f"{folder}, {read_layout(folder).num_bytes / GB:.1f} GB"

    return _looked_at("policy checkpoint", why, look)


def _looked_at(name: str, why: str, look: Callable[[], object]) -> Check:
    """What ``look`` returns, or the reason and hint of the error that a run would end with."""
    try:
        return Check(name=name, status="ok", found=str(look()), why=why)
    except VlarlError as error:
        return Check(name=name, status="fail", found=error.message, why=why, remedy=error.hint)
