"""PPO as one plain file has it, on vlarl's policy and critic: the oracle of `Ppo.update` and its measure of speed.

The loop follows CleanRL: index, forward, clipped losses, backward, clip, step, one optimizer with two learning
rates. No micro-batches, no guards, no critic warm-up.

    python benchmarks/ppo_reference.py --steps 1024 --minibatch 256 --epochs 2 --repeats 5 [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from vlarl.critics.shared import SharedCritic
from vlarl.policies.tiny.policy import TinyPolicy
from vlarl.ppo import Ppo
from vlarl.recipe.specs.learning import PpoSpec
from vlarl.recipe.specs.policies import SharedCriticSpec, TinySpec
from vlarl.seeding import generator
from vlarl.types import Batch, Observation, SuiteFacts

SEED = 7


def make_optimizer(policy: TinyPolicy, critic: SharedCritic, spec: PpoSpec) -> torch.optim.Adam:
    groups = [
        {"params": list(policy.parameters()), "lr": spec.lr},
        {"params": list(critic.parameters()), "lr": spec.value_lr},
    ]
    return torch.optim.Adam(groups, eps=spec.adam_eps)


def reference_update(
    policy: TinyPolicy,
    critic: SharedCritic,
    optimizer: torch.optim.Adam,
    batch: Batch,
    spec: PpoSpec,
    orders: Sequence[np.ndarray],
) -> dict[str, float]:
    """One epoch per order of ``orders`` (B,), in place; the last minibatch's numbers."""
    tokens = torch.from_numpy(batch.tokens)
    old_log_probs = torch.from_numpy(batch.old_log_probs)
    old_values = torch.from_numpy(batch.old_values)
    advantages = torch.from_numpy(batch.advantages)
    returns = torch.from_numpy(batch.returns)
    measured: dict[str, float] = {}
    for order in orders:
        for start in range(0, len(order), spec.minibatch_size):
            rows = order[start : start + spec.minibatch_size]
            words = tuple(batch.instructions[task] for task in batch.tasks[rows])
            inputs = policy.prepare(Observation(images=batch.images[rows], instructions=words))
            scores = policy.score(inputs, tokens[rows], temperature=batch.temperature)
            values = critic.value(scores.feature)

            log_ratio = scores.log_prob - old_log_probs[rows]
            ratio = log_ratio.exp()
            gain = advantages[rows]
            loss_one = -gain * ratio
            loss_two = -gain * torch.clamp(ratio, 1 - spec.clip, 1 + spec.clip)
            policy_loss = torch.max(loss_one, loss_two).mean()

            value_loss = (values - returns[rows]) ** 2
            if spec.value_clip is not None:
                change = torch.clamp(values - old_values[rows], -spec.value_clip, spec.value_clip)
                clipped = (old_values[rows] + change - returns[rows]) ** 2
                value_loss = torch.max(value_loss, clipped)
            value_loss = 0.5 * value_loss.mean()
            entropy = scores.entropy.mean()
            loss = policy_loss - spec.entropy_bonus * entropy + spec.value_coef * value_loss

            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], spec.max_grad_norm)
            optimizer.step()

            with torch.no_grad():
                measured = {
                    "policy_loss": policy_loss.item(),
                    "value_loss": value_loss.item(),
                    "entropy": entropy.item(),
                    "approx_kl": ((ratio - 1) - log_ratio).mean().item(),
                    "clip_fraction": ((ratio - 1.0).abs() > spec.clip).float().mean().item(),
                }
    return measured


def minibatch_orders(seed: int, iteration: int, size: int, epochs: int) -> list[np.ndarray]:
    """The order in which `Ppo.update` takes the rows of a batch of ``size``."""
    return [generator(seed, "minibatch", iteration, epoch).permutation(size) for epoch in range(epochs)]


def example_batch(policy: TinyPolicy, critic: SharedCritic, size: int, image_size: int) -> Batch:
    """``size`` sampled decisions on random images."""
    random = np.random.default_rng(SEED)
    instructions = ("reach the red cube", "pick up the green cube", "push the red cube into the zone")
    tasks = random.integers(0, len(instructions), size).astype(np.int32)
    images = random.integers(0, 256, (size, image_size, image_size, 3), dtype=np.uint8)
    tokens, log_probs, values = [], [], []
    for start in range(0, size, 32):
        words = tuple(instructions[task] for task in tasks[start : start + 32])
        inputs = policy.prepare(Observation(images=images[start : start + 32], instructions=words))
        sampled = policy.sample(inputs, temperature=1.0, uniforms=random.random((len(words), 7)))
        tokens.append(sampled.tokens.numpy())
        log_probs.append(sampled.log_prob.numpy())
        values.append(critic.value(sampled.feature).detach().numpy())
    advantages = random.normal(size=size).astype(np.float32)
    return Batch(
        images=images,
        tasks=tasks,
        instructions=instructions,
        tokens=np.concatenate(tokens),
        old_log_probs=np.concatenate(log_probs),
        old_values=np.concatenate(values),
        advantages=advantages,
        returns=np.concatenate(values) + advantages,
        features=None,
        temperature=1.0,
    )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and on the processor; on a busy machine only the latter compares (with one thread)."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def largest_difference(one: Sequence[torch.nn.Module], other: Sequence[torch.nn.Module]) -> float:
    pairs = zip((p for m in one for p in m.parameters()), (p for m in other for p in m.parameters()), strict=True)
    return max((a - b).detach().abs().max().item() for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1024)
    parser.add_argument("--minibatch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)

    policy = TinyPolicy(TinySpec(), suite=SuiteFacts("tabletop_basic", chosen.image_size), seed=SEED)
    critic = SharedCritic(SharedCriticSpec(), policy=policy, seed=SEED)
    batch = example_batch(policy, critic, chosen.steps, chosen.image_size)
    # Equality of the numbers is what is asked here, not whether the first ratio is close enough to 1.
    spec = PpoSpec(lr=1e-4, value_lr=3e-4, epochs=chosen.epochs, minibatch_size=chosen.minibatch, ratio_tolerance=1e-3)

    seconds: dict[str, list[tuple[float, float]]] = {"vlarl": [], "reference": []}
    difference = 0.0
    for repeat in range(chosen.repeats + 1):
        ours, theirs = copy.deepcopy((policy, critic)), copy.deepcopy((policy, critic))
        ppo = Ppo(spec, *ours, critic_warmup=0, iterations=1, seed=SEED)
        optimizer = make_optimizer(*theirs, spec)
        orders = minibatch_orders(SEED, 0, len(batch), spec.epochs)
        turns: dict[str, Callable[[], object]] = {
            "vlarl": lambda ppo=ppo: ppo.update(batch, 0),
            "reference": lambda pair=theirs, by=optimizer, orders=orders: reference_update(
                *pair, by, batch, spec, orders
            ),
        }
        for name in sorted(turns, reverse=bool(repeat % 2)):
            spent = timed(turns[name])
            if repeat:  # the first turn of each warms up
                seconds[name].append(spent)
                print(f"{name:>10} {spent[0]:7.3f} s, {spent[1]:7.3f} s of processor", file=sys.stderr)
        difference = max(difference, largest_difference(ours, theirs))
    wall, processor = (
        {name: statistics.median(spent[clock] for spent in turns) for name, turns in seconds.items()}
        for clock in (0, 1)
    )
    found = {
        "seconds": wall,
        "processor_seconds": processor,
        "ratio": wall["vlarl"] / wall["reference"],
        "processor_ratio": processor["vlarl"] / processor["reference"],
        "largest_difference": difference,
        "equal": difference <= 1e-6,
    }
    if chosen.json:
        print(json.dumps(found))
        return
    print(
        f"Ppo.update {wall['vlarl']:.3f} s, reference {wall['reference']:.3f} s: {found['ratio']:.3f} of its time "
        f"({found['processor_ratio']:.3f} of its processor time); parameters "
        f"{'equal' if found['equal'] else 'NOT equal'} (largest difference {difference:.2g})"
    )


if __name__ == "__main__":
    main()
