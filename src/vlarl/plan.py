"""From a recipe and a machine to sizes, memory, work, time and a verdict; nothing is run and no torch is loaded.

Every number is arithmetic on sizes. What cannot be derived (efficiencies, measured rates, lengths of prompts) stands
in ``Plan.assumptions``, in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from vlarl.digest import json_digest
from vlarl.plan_checkpoint import Found, read_checkpoint
from vlarl.plan_machine import GB, Machine, Rates, cpu_rates, gpu_rates
from vlarl.plan_memory import CONTEXT, RESERVE, TEXT_TOKENS, Memory, Model, memory_of, model_of
from vlarl.plan_model import Part
from vlarl.plan_search import Change, nearest_change
from vlarl.plan_work import Disk, Time, Work, disk, times, work
from vlarl.recipe.paths import expanded
from vlarl.recipe.schema import Recipe, recipe_digest
from vlarl.recipe.specs.policies import AdapterCriticSpec, FrozenCriticSpec, OpenVlaSpec, TinySpec


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take. Bytes, seconds, FLOPs."""

    recipe: str
    recipe_digest: str
    machine: Machine
    rates: Rates
    parts: tuple[Part, ...]
    adapters: bool  # trained beside frozen weights
    critic: int  # trainable parameters
    prompt_tokens: int
    memory: tuple[Memory, ...]
    work: Work
    time: tuple[Time, ...]
    disk: Disk
    change: Change | None
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return all(memory.fits for memory in self.memory)

    @property
    def digest(self) -> str:
        """sha256 of all numbers: equal on any machine for one recipe, one `--gpu` and checkpoints of one size."""
        values = asdict(self)
        del values["assumptions"], values["warnings"], values["machine"]["origin"], values["disk"]["asset"]
        return json_digest(values)

    def as_data(self) -> dict[str, Any]:
        """The plan as plain JSON, with what follows from its fields."""
        counts = {
            "parameters": sum(part.parameters for part in self.parts),
            "unused_parameters": sum(part.unused for part in self.parts),
            "trainable_parameters": sum(part.trainable for part in self.parts),
        }
        judged = [{**asdict(memory), "headroom": memory.headroom, "fits": memory.fits} for memory in self.memory]
        return {**asdict(self), **counts, "memory": judged, "fits": self.fits, "digest": self.digest}


def make_plan(recipe: Recipe, machine: Machine, *, suggest: bool = True) -> Plan:
    """The plan of ``recipe`` on ``machine``; ``suggest`` looks for the nearest change where it does not fit.

    Raises AssetError for a damaged checkpoint folder and UsageError for a policy of unknown sizes.
    """
    asked = machine
    if _stays_on_the_cpu(recipe):
        machine = replace(machine, device="cpu", num_gpus=0, gpu_bytes=None, gpu_name=None)
    found = _found(recipe)
    model = model_of(recipe, found)
    rates = (
        gpu_rates(machine.gpu_bytes)
        if machine.device == "gpu" and machine.gpu_bytes is not None
        else cpu_rates(recipe.train.torch_threads, recipe.train.rollout_threads)
    )
    memory = memory_of(recipe, model, machine)
    plan = Plan(
        recipe=recipe.name,
        recipe_digest=recipe_digest(recipe),
        machine=machine,
        rates=rates,
        parts=model.costs.parts,
        adapters=not model.full,
        critic=model.head + (model.critic.trainable if model.critic is not None else 0),
        prompt_tokens=model.costs.prompt_tokens,
        memory=memory,
        work=work(recipe, model.costs, extra_prompt=_reads_another_prompt(recipe)),
        time=times(recipe, model.costs, rates, machine.devices, extra_prompt=_reads_another_prompt(recipe)),
        disk=disk(recipe, model.costs, model.head, found.bytes if found is not None else None),
        change=None,
        assumptions=(*_about_sizes(recipe, model, found), *_about_machine(recipe, machine, rates)),
        warnings=(*_about_device(recipe, asked), *_about_checkpoint(recipe, found), *_warnings(recipe)),
    )
    if plan.fits or not suggest:
        return plan
    return replace(plan, change=nearest_change(recipe, machine, found))


def _stays_on_the_cpu(recipe: Recipe) -> bool:
    return getattr(recipe.policy, "device", "auto") == "cpu"


def _reads_another_prompt(recipe: Recipe) -> bool:
    """Whether the critic reads features of other weights than the policy's, so that each decision has two prefills."""
    return isinstance(recipe.critic, FrozenCriticSpec | AdapterCriticSpec)


def _found(recipe: Recipe) -> Found | None:
    """The checkpoint's own sizes, where it is a folder that exists."""
    if not isinstance(recipe.policy, OpenVlaSpec) or "://" in recipe.policy.checkpoint:
        return None
    folder = expanded(recipe.policy.checkpoint)
    return read_checkpoint(folder) if folder.is_dir() else None


def _about_sizes(recipe: Recipe, model: Model, found: Found | None) -> Iterator[str]:
    policy = recipe.policy
    if isinstance(policy, OpenVlaSpec) and found is not None:
        yield f"sizes read from {policy.checkpoint}: {found.parameters:,} parameters"
    elif isinstance(policy, OpenVlaSpec):
        yield f"{policy.checkpoint} is not a folder here: the sizes of the published openvla-7b"
    usual = TEXT_TOKENS["tiny" if isinstance(policy, TinySpec) else "openvla"]
    yield f"prompts of {usual} text tokens beside BOS and image, padded to {model.text_tokens}"
    if model.costs.chunk > 1:
        yield f"every decision is carried out for its {model.costs.chunk} control steps: an episode's last may be cut"


def _about_checkpoint(recipe: Recipe, found: Found | None) -> Iterator[str]:
    policy = recipe.policy
    if not isinstance(policy, OpenVlaSpec):
        return
    if found is None and "://" not in policy.checkpoint:
        yield f"the checkpoint {policy.checkpoint} is missing: the run would stop before its first step"
    if policy.checkpoint.startswith("hf://") and "@" not in policy.checkpoint:
        yield f"{policy.checkpoint} names no commit: what it means can change"
    if found is not None and recipe.imitation is None and policy.statistics is None:
        wanted = {recipe.suite.name, f"{recipe.suite.name}_no_noops"}
        if found.statistics and not wanted & set(found.statistics):
            yield f"the checkpoint has no statistics for {recipe.suite.name}; it has {', '.join(found.statistics)}"


def _about_device(recipe: Recipe, asked: Machine) -> Iterator[str]:
    if asked.origin == "--gpu" and _stays_on_the_cpu(recipe):
        which = "policy.device is cpu" if isinstance(recipe.policy, OpenVlaSpec) else f"a policy `{recipe.policy.kind}`"
        yield f"{which}: it runs on the CPU, and `--gpu` is not used"


def _warnings(recipe: Recipe) -> Iterator[str]:
    if getattr(recipe.suite, "init_states", None) == "official":
        yield "training starts from the official states: every result will be marked leaky"
    path = recipe.imitation.demonstrations if recipe.imitation is not None else None
    if path is not None and not expanded(path).exists():
        yield f"the demonstrations {path} are missing: the run would stop before its first step"


def _about_machine(recipe: Recipe, machine: Machine, rates: Rates) -> Iterator[str]:
    if machine.device == "gpu":
        yield f"{rates.of}: {rates.flops / 1e12:,.0f} TFLOP/s in bfloat16, {rates.bandwidth / 1e12:.2f} TB/s"
        yield (
            f"{rates.update_share:.0%} of the FLOP/s are reached in updates, {rates.prefill_share:.0%} in prefills, "
            f"{rates.read_share:.0%} of the bandwidth in decoding"
        )
        yield f"1 GB is 10^9 bytes; {RESERVE:.0%} of each GPU is left alone, {CONTEXT / GB:.1f} GB are the CUDA context"
        if machine.num_gpus > 1:
            how = "each GPU holds the whole model, with all that trains it, and its share of slots and minibatch"
            yield f"{machine.num_gpus} GPUs: {how}; communication takes no time"
    else:
        yield (
            f"{rates.flops * rates.prefill_share / 1e9:,.0f} GFLOP/s deciding, {rates.flops / 1e9:,.0f} GFLOP/s "
            "updating: what the quickstart's policy reaches on as many threads"
        )
