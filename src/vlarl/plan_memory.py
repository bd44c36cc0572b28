"""Memory a recipe needs: what the model holds all the time, what each phase adds, and what the host holds."""

from __future__ import annotations

from dataclasses import dataclass

from vlarl.errors import UsageError
from vlarl.plan_checkpoint import Found
from vlarl.plan_machine import Machine
from vlarl.plan_model import BF16, FP32, PUBLISHED, Adapters, Costs, openvla_costs, tiny_costs, value_head
from vlarl.plan_work import Item, host_items
from vlarl.recipe.front_ends import FRONT_ENDS
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.policies import (
    AdapterCriticSpec,
    FrozenCriticSpec,
    LoraSpec,
    OpenVlaOftSpec,
    OpenVlaSpec,
    TinySpec,
)

RESERVE = 0.05  # of a device's memory: fragments, and what other processes hold
CONTEXT = 600 * 10**6  # bytes: CUDA context, cuBLAS workspaces
TEXT_TOKENS = {"tiny": 12, "openvla": 30}  # prompt around and including a usual instruction, BOS left out
_TINY_VOCABULARY, _TINY_BUCKET = 768, 4


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of one device or of the host: what is always there, and the phase that needs most beside it."""

    where: str  # "each GPU" or "host"
    items: tuple[Item, ...]
    phase: str  # the one that sets the peak
    peak: int  # bytes
    available: int | None  # bytes; None: not known
    reserve: int  # bytes of them that are left alone

    @property
    def headroom(self) -> int | None:
        """Bytes left at the peak; negative where it does not fit, None where nobody knows."""
        return None if self.available is None else self.available - self.reserve - self.peak

    @property
    def fits(self) -> bool:
        return self.headroom is None or self.headroom >= 0


@dataclass(frozen=True, kw_only=True)
class Model:
    """The policy's costs under a recipe, and those of its critic."""

    costs: Costs
    critic: Costs | None  # where the critic has adapters of its own
    head: int  # parameters of the value head
    full: bool  # every weight is trained
    text_tokens: int  # of a prompt, padding included


def memory_of(recipe: Recipe, model: Model, machine: Machine) -> tuple[Memory, ...]:
    """Memory of each GPU and of the host; of the host alone where the model runs on it."""
    own, phases = _model_items(recipe, model, machine)
    host = host_items(recipe, model.costs, machine.devices, caches=isinstance(recipe.critic, FrozenCriticSpec))
    if machine.device == "cpu":
        return (_memory("host", [*own, *host], phases, machine.host_bytes),)
    gpu = _memory("each GPU", own, phases, machine.gpu_bytes)
    return gpu, _memory("host", list(host), {}, machine.host_bytes)


def _memory(where: str, always: list[Item], phases: dict[str, list[Item]], available: int | None) -> Memory:
    sums = {name: sum(item.bytes for item in items) for name, items in phases.items()}
    phase = max(sums, key=lambda name: sums[name]) if sums else "rollout"
    items = (*always, *(item for each in phases.values() for item in each))
    return Memory(
        where=where,
        items=tuple(item for item in items if item.bytes),
        phase=phase,
        peak=sum(item.bytes for item in always) + sums.get(phase, 0),
        available=available,
        reserve=round((available or 0) * RESERVE),
    )


def _model_items(recipe: Recipe, model: Model, machine: Machine) -> tuple[list[Item], dict[str, list[Item]]]:
    """What the model holds all the time, and what each phase adds."""
    costs, critic, gpus = model.costs, model.critic, machine.devices
    extra = (critic.masters, critic.gradients, critic.optimizer) if critic is not None else (0, 0, 0)
    dtype = str(getattr(recipe.policy, "dtype", "float32")) + ("" if model.full else ", frozen")
    always = [
        Item("weights", costs.weights, dtype),
        Item("adapters" if not model.full else "fp32 masters", costs.masters + extra[0], "fp32"),
        Item("gradients", costs.gradients + extra[1], "kept until the next update"),
        Item("optimizer", costs.optimizer + extra[2], "AdamW, two moments in fp32"),
        Item("value head", 4 * FP32 * model.head, "weights, gradients, moments"),
    ]
    if machine.device == "gpu":
        always.append(Item("CUDA context", CONTEXT, "assumed"))
    group = -(-recipe.suite.num_envs // (recipe.suite.num_groups * gpus))
    # Both passes of an update are alive until the one loss is differentiated.
    saved = costs.saved + (critic.saved if critic is not None else 0)
    phases = {"update": _pass(costs, saved, _micro_batch(recipe, gpus), "update")}
    if recipe.imitation is not None:
        batch = -(-recipe.imitation.batch_size // gpus)
        phases["cloning"] = _pass(costs, costs.saved, batch, "cloning")
    phases["rollout"] = [
        Item("KV cache", group * costs.key_values, f"rollout, {group} slots decide together"),
        Item("prefill", group * (costs.working + costs.logits), "rollout, one layer in flight"),
    ]
    return always, phases


def _pass(costs: Costs, saved: int, samples: int, phase: str) -> list[Item]:
    """What forward and backward passes over ``samples`` need beside the model, ``saved`` bytes of each kept."""
    return [
        Item("activations", samples * saved, f"{phase}, {samples} samples x {saved / 1e6:,.1f} MB"),
        Item("block in flight", samples * costs.recomputed, f"{phase}, recomputed or being differentiated"),
        Item("logits", samples * costs.logits, f"{phase}, {costs.num_tokens} positions x 256 rows of the head"),
    ]


def _micro_batch(recipe: Recipe, gpus: int) -> int:
    """Samples of one forward on one GPU."""
    share = -(-recipe.ppo.minibatch_size // gpus)
    return min(recipe.ppo.micro_batch_size or share, share)


def model_of(recipe: Recipe, found: Found | None) -> Model:
    """Costs of the recipe's policy and critic; UsageError for a kind whose sizes are not known here."""
    policy = recipe.policy
    if isinstance(policy, TinySpec):
        return _tiny_model(recipe, policy)
    if not isinstance(policy, OpenVlaSpec):
        raise UsageError(
            f"the sizes of policy `{policy.kind}` are not known to `vlarl plan`",
            code="U241",
            hint="it knows `tiny`, `openvla` and `openvla_oft`",
        )
    item = BF16 if policy.dtype == "bfloat16" else FP32
    text = -(-TEXT_TOKENS["openvla"] // policy.prompt_bucket) * policy.prompt_bucket
    sizes = found.sizes if found is not None else PUBLISHED

    def costs(lora: LoraSpec | None) -> Costs:
        return openvla_costs(
            sizes,
            adapters=_adapters(lora),
            checkpointing=policy.gradient_checkpointing,
            text_tokens=text,
            item=item,
            chunk=policy.chunk if isinstance(policy, OpenVlaOftSpec) else None,
        )

    own = costs(policy.lora)
    return Model(
        costs=own,
        critic=costs(recipe.critic.lora) if isinstance(recipe.critic, AdapterCriticSpec) else None,
        head=_value_head(recipe, own),
        full=policy.lora is None,
        text_tokens=text,
    )


def _tiny_model(recipe: Recipe, policy: TinySpec) -> Model:
    text = -(-TEXT_TOKENS["tiny"] // _TINY_BUCKET) * _TINY_BUCKET
    costs = tiny_costs(
        width=policy.hidden_size,
        depth=policy.num_layers,
        front_end=FRONT_ENDS[policy.vision],
        num_keypoints=policy.num_keypoints,
        num_visual_tokens=policy.num_visual_tokens,
        image_size=int(getattr(recipe.suite, "image_size", 64)),
        vocabulary=_TINY_VOCABULARY,
        text_tokens=text,
    )
    return Model(costs=costs, critic=None, head=_value_head(recipe, costs), full=True, text_tokens=text)


def _value_head(recipe: Recipe, costs: Costs) -> int:
    return value_head(costs.feature_size, list(getattr(recipe.critic, "hidden_sizes", ())))


def _adapters(lora: LoraSpec | None) -> Adapters | None:
    if lora is None:
        return None
    targets = None if lora.targets == "all-linear" else tuple(lora.targets)
    return Adapters(rank=lora.rank, targets=targets, vision=lora.vision)
