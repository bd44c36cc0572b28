"""OpenVLA-7B on one GPU: rollouts, updates and memory, beside the card's own ceilings, `vlarl plan` and the naive way.

    python benchmarks/openvla.py [--json openvla.json] [--small]

The model has the published size and random weights, made on the device: no checkpoint, no tokenizer, no simulator.
Prompts are random tokens of mixed lengths, pictures random numbers. Besides the project's source on PYTHONPATH it needs
torch, transformers, peft, numpy, safetensors, tokenizers, pillow and pydantic (with pydantic_core, annotated-types and
typing-inspection), and nothing of MuJoCo. `--small` runs the same code on the CPU at toy sizes, in seconds.

The naive way is transformers' `generate` on the same prompts' embeddings: the whole vocabulary, a growing cache,
padding on the left, each step launched kernel by kernel.

Times are medians. `step_floor_ms` is what a step must read (weights, adapters, keys and values) over the bandwidth of
the copy. FLOPs are those of `vlarl plan`: without adapters, attention causal. Peaks include the CUDA context as
assumed there; `peak_to_plan` is their ratio to its figure.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from openvla_random import SMALL, Planned, RandomPolicy, random_inputs, rows_of, stir, uniforms
from vlarl.critics.shared import SharedCritic
from vlarl.plan_memory import CONTEXT, TEXT_TOKENS
from vlarl.plan_model import FED_TOKENS
from vlarl.policies.action_tokens import NUM_ACTION_TOKENS
from vlarl.policies.openvla.policy import OpenVlaInputs, OpenVlaPolicy
from vlarl.policies.openvla.sizes import PUBLISHED, OpenVlaSizes
from vlarl.policies.static_decoding import StaticDecoder
from vlarl.ppo import Ppo
from vlarl.recipe.specs.learning import PpoSpec
from vlarl.recipe.specs.policies import OpenVlaSpec, SharedCriticSpec
from vlarl.types import Batch


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is measured, and how often."""

    sizes: OpenVlaSizes
    device: str
    environments: tuple[int, ...]
    micro_batches: tuple[int, ...]
    minibatch: int
    repeats: int
    matrix: int  # side of the product that finds the arithmetic's ceiling
    copied: int  # bytes of the copy that finds the memory's


FULL = Setup(
    sizes=PUBLISHED,
    device="cuda",
    environments=(1, 8, 16, 32, 64),
    micro_batches=(4, 8, 16),
    minibatch=32,
    repeats=5,
    matrix=8192,
    copied=4 * 2**30,
)
TOY = Setup(
    sizes=SMALL,
    device="cpu",
    environments=(1, 3),
    micro_batches=(2, 4),
    minibatch=4,
    repeats=2,
    matrix=128,
    copied=2**20,
)
Row = dict[str, Any]


class Clock:
    """Time between marks on the device, read when all is done."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        if not self._on_gpu:
            self._marks.append(time.perf_counter())
            return
        self._marks.append(torch.cuda.Event(enable_timing=True))
        self._marks[-1].record()

    def seconds(self) -> list[float]:
        if not self._on_gpu:
            return [b - a for a, b in pairwise(self._marks)]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(self._marks)]


def seconds_of(run: Callable[[], object], device: torch.device, repeats: int, warm_ups: int = 1) -> float:
    """Median wall time of ``run``, waiting for the device."""
    for _ in range(warm_ups):
        run()
    taken = []
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        taken.append(time.perf_counter() - began)
    return median(taken)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def ceilings(setup: Setup) -> Row:
    """What this machine reaches in a large product, and in a large copy, bytes read and written."""
    device = torch.device(setup.device)
    dtype = torch.bfloat16
    a, b = (torch.randn(setup.matrix, setup.matrix, device=device, dtype=dtype) for _ in "ab")
    product = seconds_of(lambda: a @ b, device, 10, 3)
    source = torch.randint(0, 255, (setup.copied,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = seconds_of(lambda: target.copy_(source), device, 10, 3)
    return {"tflops": 2e-12 * setup.matrix**3 / product, "gbs": 2e-9 * setup.copied / copy}


def check(policy: RandomPolicy) -> Row:
    """Replayed steps against steps launched one by one, after the adapters have moved under the graph."""
    count = min(8, len(policy.inputs.text))
    inputs, draws = rows_of(policy.inputs, slice(count)), uniforms(count)
    policy.sample(inputs, temperature=1.0, uniforms=draws)
    stir(policy)
    replayed = policy.sample(inputs, temperature=1.0, uniforms=draws)
    sizes = policy.model.sizes
    direct = StaticDecoder(
        policy.model.language_model,
        num_action_tokens=NUM_ACTION_TOKENS,
        num_bins=sizes.num_bins,
        first_row=sizes.first_action_row,
    )
    with torch.no_grad(), policy._arithmetic():
        other = direct.sample(policy._prompt(inputs), temperature=1.0, uniforms=draws)
        scores = policy.score(inputs, replayed.tokens, temperature=1.0)
    same = (other.tokens.cpu() == replayed.tokens).all(dim=1)
    gap = (other.log_prob.cpu() - replayed.log_prob).abs()[same]
    return {
        "rows": count,
        "rows_with_equal_tokens": int(same.sum()),
        "replayed_to_direct": float(gap.max()) if len(gap) else None,
        "scored_to_sampled": float((scores.log_prob - replayed.log_prob).abs().max()),
    }


def naive(policy: OpenVlaPolicy, inputs: OpenVlaInputs) -> Tensor:
    """Tokens (N, A) and, as reinforcement learning needs them, their log-probabilities, the plain way."""
    with torch.no_grad(), policy._arithmetic():
        prompt = policy._prompt(inputs)
        made = policy.model.language_model.generate(
            inputs_embeds=prompt.embeddings.flip(1),
            attention_mask=prompt.valid.flip(1).long(),
            max_new_tokens=NUM_ACTION_TOKENS,
            min_new_tokens=NUM_ACTION_TOKENS,
            do_sample=True,
            top_k=0,
            use_cache=True,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        log_probs = torch.stack(made.logits, dim=1).float().log_softmax(dim=-1)
        chosen = log_probs.gather(2, made.sequences[:, -NUM_ACTION_TOKENS:, None])[..., 0].sum(dim=1)
    return torch.cat([made.sequences[:, -NUM_ACTION_TOKENS:], chosen[:, None]], dim=1).cpu()


def stages(policy: OpenVlaPolicy, inputs: OpenVlaInputs) -> list[float]:
    """Seconds of vision and embedding, of the prefill, and of one step."""
    clock = Clock(policy.device)
    with torch.no_grad(), policy._arithmetic():
        wait(policy.device)
        clock.mark()
        prompt = policy._prompt(inputs)
        clock.mark()
        _, feed = policy._decoder._start(prompt)
        clock.mark()
        token = torch.zeros(len(inputs.text), dtype=torch.int64, device=policy.device)
        for _ in range(FED_TOKENS):
            feed(token)
        clock.mark()
    seen, prefill, steps = clock.seconds()
    return [seen, prefill, steps / FED_TOKENS]


def rollout(policy: RandomPolicy, planned: Planned, setup: Setup, count: int, best: Row) -> Row:
    """One group of ``count`` environments that decides together."""
    inputs, draws = rows_of(policy.inputs, slice(count)), uniforms(count)
    forget_peak(policy.device)
    whole = seconds_of(lambda: policy.sample(inputs, temperature=1.0, uniforms=draws), policy.device, setup.repeats, 2)
    memory = peaks(policy.device, planned.peak("rollout", environments=count, checkpointing=True))
    parts = [stages(policy, inputs) for _ in range(setup.repeats)]
    seen, prefill, step = (median(each) for each in zip(*parts, strict=True))
    policy._decoder.release()
    plain = seconds_of(lambda: naive(policy, inputs), policy.device, max(2, setup.repeats // 2))
    costs, moved = planned.costs, planned.step_bytes(count)
    floor = moved / (1e9 * best["gbs"])
    return {
        "environments": count,
        "env_steps_per_second": count / whole,
        "vision_ms": 1e3 * seen,
        "prefill_ms": 1e3 * prefill,
        "prompt_tflops": 1e-12 * count * costs.prompt_flops / (seen + prefill),
        "step_ms": 1e3 * step,
        "step_floor_ms": 1e3 * floor,
        "step_to_floor": step / floor,
        "step_gbs": 1e-9 * moved / step,
        "naive_env_steps_per_second": count / plain,
        "times_naive": plain / whole,
        **memory,
    }


def update(policy: RandomPolicy, planned: Planned, setup: Setup, micro: int, checkpointing: bool, best: Row) -> Row:
    """PPO on one minibatch, in micro-batches."""
    policy.held = None
    policy.model.set_gradient_checkpointing(checkpointing, policy.adapters.for_recomputation)
    critic = SharedCritic(SharedCriticSpec(), policy=policy, seed=0)
    spec = PpoSpec(minibatch_size=setup.minibatch, micro_batch_size=micro, lr=1e-7, ratio_tolerance=1e9)
    ppo = Ppo(spec, policy, critic, critic_warmup=0, iterations=100, seed=0)
    batch = sampled_batch(policy, setup.minibatch)
    first = ppo.update(batch, 0)
    policy.held = ppo
    forget_peak(policy.device)
    seconds = seconds_of(lambda: ppo.update(batch, 1), policy.device, max(2, setup.repeats // 2))
    rate = setup.minibatch / seconds
    return {
        "micro_batch": micro,
        "checkpointing": checkpointing,
        "samples_per_second": rate,
        "tflops": 1e-12 * rate * planned.update_flops(checkpointing),
        "of_ceiling": 1e-12 * rate * planned.update_flops(checkpointing) / best["tflops"],
        "first_ratio_error": first.first_ratio_error,
        **peaks(policy.device, planned.peak("update", micro_batch=micro, checkpointing=checkpointing)),
    }


def sampled_batch(policy: RandomPolicy, size: int) -> Batch:
    inputs = rows_of(policy.inputs, slice(size))
    sampled = policy.sample(inputs, temperature=1.0, uniforms=uniforms(size))
    random = np.random.default_rng(0)
    advantages = random.normal(size=size).astype(np.float32)
    return Batch(
        images=np.zeros((size, 1, 1, 3), np.uint8),
        tasks=np.arange(size, dtype=np.int32),
        instructions=tuple(map(str, range(size))),
        tokens=sampled.tokens.numpy(),
        old_log_probs=sampled.log_prob.numpy(),
        old_values=np.zeros(size, np.float32),
        advantages=advantages,
        returns=advantages,
        features=None,
        temperature=1.0,
    )


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peaks(device: torch.device, planned: int) -> Row:
    """GB at the peak, the CUDA context as assumed in the plan; nothing on a CPU, which does not keep count."""
    if device.type != "cuda" or not planned:
        return {"peak_gb": None, "reserved_gb": None, "planned_gb": planned / 1e9 or None, "peak_to_plan": None}
    peak, reserved = (f() + CONTEXT for f in (torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved))
    return {
        "peak_gb": peak / 1e9,
        "reserved_gb": reserved / 1e9,
        "planned_gb": planned / 1e9,
        "peak_to_plan": peak / planned,
    }


def measure(setup: Setup, say: Callable[[str], None] = print) -> Row:
    """Everything, as one JSON object; ``say`` gets the lines of each table as soon as it is known."""

    def write(title: str, rows: Sequence[Row]) -> None:
        for line in table(title, rows):
            say(line)

    began = time.perf_counter()
    planned = Planned(setup.sizes)
    best = ceilings(setup)
    bucket = OpenVlaSpec(checkpoint="openvla-7b").prompt_bucket
    text = -(-TEXT_TOKENS["openvla"] // bucket) * bucket
    inputs = random_inputs(setup.sizes, max(*setup.environments, setup.minibatch), text)
    spec = OpenVlaSpec.model_validate({"checkpoint": "openvla-7b", "device": setup.device, "dtype": "bfloat16"})
    policy = RandomPolicy(spec, setup.sizes, inputs)
    found: Row = {"machine": machine(policy.device), "ceilings": best, "check": check(policy)}
    for name in ("machine", "ceilings", "check"):
        write(name, [found[name]])
    found["update"] = [
        update(policy, planned, setup, micro, checkpointing, best)
        for checkpointing in (False, True)
        for micro in setup.micro_batches
    ]
    write("update", found["update"])
    found["rollout"] = [rollout(policy, planned, setup, count, best) for count in setup.environments]
    write("rollout", found["rollout"])
    found["seconds"] = time.perf_counter() - began
    say(f"took {found['seconds']:.0f} s")
    return found


def machine(device: torch.device) -> Row:
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(title: str, rows: Sequence[Row]) -> Iterator[str]:
    """A line for every measure, a column for every row."""
    yield f"\n{title}"
    for name in rows[0]:
        yield f"{name:>28}" + "".join(f"{shown(row[name]):>10}" for row in rows)


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:.0f}"
    return "-" if value is None else str(value)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--environments", type=int, nargs="+", help="sizes of the group that decides together")
    chosen = parser.parse_args(arguments)
    setup = TOY if chosen.small else FULL
    if chosen.environments:
        setup = replace(setup, environments=tuple(chosen.environments))
    if setup.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU here: `--small` runs the same code on the CPU at toy sizes")
    found = measure(setup, lambda line: print(line, flush=True))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
