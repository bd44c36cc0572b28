"""A plan as text: what a person reads before spending a GPU's days."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlarl.plan import Plan
from vlarl.plan_memory import Memory
from vlarl.plan_work import Item

_SHOWN = 5 * 10**6  # bytes; smaller items share a line
_MAX_NAME = 24


def plan_text(plan: Plan) -> str:
    """The plan in sections; the verdict comes last."""
    sections = [
        [f"{plan.recipe}  {plan.recipe_digest[:12]}  on {machine_text(plan)}"],
        list(_parameters(plan)),
        *([*_memory(memory)] for memory in plan.memory),
        list(_work(plan)),
        list(_time(plan)),
        list(_disk(plan)),
        ["assumed", *(f"  {text}" for text in plan.assumptions)],
        [f"warning: {text}" for text in plan.warnings],
        list(_verdict(plan)),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def machine_text(plan: Plan) -> str:
    """`2 GPUs of 80 GB`, `this CPU with 25.3 GB`."""
    machine = plan.machine
    if machine.device == "gpu":
        assert machine.gpu_bytes is not None
        count = "1 GPU" if machine.num_gpus == 1 else f"{machine.num_gpus} GPUs"
        return f"{count} of {machine.gpu_bytes / 1e9:.4g} GB ({machine.gpu_name or plan.rates.of})"
    known = f" with {machine.host_bytes / 1e9:.1f} GB" if machine.host_bytes is not None else ""
    return f"a CPU{known}"


def _parameters(plan: Plan) -> Iterator[str]:
    trained = "adapters" if plan.adapters else "trained"
    yield _row("parameters", "used M", "unused M", f"{trained} M")
    for part in plan.parts:
        yield _row(f"  {part.name}", *(_millions(n) for n in (part.parameters, part.unused, part.trainable)))
    used, unused = sum(p.parameters for p in plan.parts), sum(p.unused for p in plan.parts)
    learnt = sum(p.trainable for p in plan.parts)
    share = f"  {100.0 * learnt / used:.3g} %"
    yield _row("  policy", _millions(used), _millions(unused), _millions(learnt)) + share
    yield _row("  critic", "", "", _millions(plan.critic))


def _memory(memory: Memory) -> Iterator[str]:
    yield _row(f"memory, {memory.where}", "GB")
    small = [item for item in memory.items if item.bytes < _SHOWN]
    for item in memory.items:
        if item.bytes >= _SHOWN:
            yield _item(item)
    if small:
        yield _item(Item("the rest", sum(item.bytes for item in small), ", ".join(_names(small))))
    phase = f"in the {memory.phase}" if memory.phase != "cloning" else "while cloning"
    yield _item(Item("peak", memory.peak, phase if len(memory.items) > 1 else ""))
    if memory.available is not None:
        yield _item(Item("there is", memory.available, f"of which {memory.reserve / 1e9:.1f} GB stay free"))


def _item(item: Item) -> str:
    return f"{_row(f'  {item.name}', f'{item.bytes / 1e9:.2f}')}  {item.how}".rstrip()


def _names(items: Sequence[Item]) -> list[str]:
    return list(dict.fromkeys(item.name for item in items))


def _work(plan: Plan) -> Iterator[str]:
    work = plan.work
    yield "work"
    yield (
        f"  {work.iterations:,} iterations x {work.rollout_steps:,} env steps = {work.env_steps:,}; "
        f"{work.updates_per_iteration:,} updates an iteration, {work.updates:,} of the policy in all"
    )
    tasks = "1 task" if work.num_tasks == 1 else f"{work.num_tasks} tasks"
    yield f"  {tasks}, at least {work.episodes_per_task:,} episodes each"
    yield f"  {work.evaluations} evaluations, {work.evaluation_episodes:,} episodes in all"
    decision = "an env step" if work.chunk == 1 else f"a decision for {work.chunk} env steps"
    yield (
        f"  {_flops(work.decision_flops)} {decision}, {_flops(work.sample_flops)} a sample of the update, "
        f"{_flops(work.total_flops)} in all"
    )


def _time(plan: Plan) -> Iterator[str]:
    yield "time"
    for row in plan.time:
        each = f"{duration(row.seconds)} x {row.times:,}" if row.times > 1 else duration(row.seconds)
        yield f"  {row.what:<12}{duration(row.total):>9}  {each}; {row.how}"
    yield f"  {'in all':<12}{duration(sum(row.total for row in plan.time)):>9}"


def _disk(plan: Plan) -> Iterator[str]:
    disk = plan.disk
    yield _row("disk", "GB")
    yield _item(Item("checkpoints", disk.checkpoint * disk.kept, f"at most {disk.kept} x {_bytes(disk.checkpoint)}"))
    if disk.batches:
        yield _item(Item("stored batches", disk.batches, ""))
    if disk.asset is not None:
        yield _item(Item("policy's checkpoint", disk.asset, "is there"))


def _verdict(plan: Plan) -> Iterator[str]:
    judged = [memory for memory in plan.memory if memory.headroom is not None]
    if not judged:
        yield "this machine's memory is not known: no verdict"
    for memory in judged:
        assert memory.headroom is not None
        if memory.fits:
            yield f"fits: {memory.headroom / 1e9:.1f} GB to spare on {memory.where}"
        else:
            yield f"does not fit: {-memory.headroom / 1e9:.1f} GB short on {memory.where}"
    unknown = [memory for memory in plan.memory if memory.headroom is None]
    if judged and unknown:
        yield f"the host needs {sum(memory.peak for memory in unknown) / 1e9:.1f} GB; what it has is not known"
    if plan.change is not None:
        yield f"nearest change that fits, with {plan.change.headroom / 1e9:.1f} GB to spare: {plan.change.words}"
    elif not plan.fits:
        yield "no change that is known here makes it fit"


def _row(name: str, *cells: str) -> str:
    return (f"{name:<{_MAX_NAME}}" + "".join(f"{cell:>12}" for cell in cells)).rstrip()


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f}" if count >= 10**5 or not count else f"{count / 1e6:.3f}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"


def _flops(count: float) -> str:
    for size, unit in ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count / 1e6:,.3g} MFLOP"


def duration(seconds: float) -> str:
    """`1.7 s`, `12 min`, `7.2 h`, `3.1 days`."""
    for size, unit in ((2 * 86400.0, "days"), (2 * 3600.0, "h"), (120.0, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86400.0, 'h': 3600.0, 'min': 60.0}[unit]:.1f} {unit}"
    return f"{seconds:.3g} s"
