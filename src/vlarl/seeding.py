"""Randomness as a pure function: every seed is a keyed hash of what it is for.

Worker count, order of execution and resume cannot change a value drawn here. Torch is imported
only by the functions that need it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np

_DIGEST = 64  # bytes of the longest digest
SCHEME = "blake2b-1"  # recorded in every manifest; a change of derivation changes this


def _key(root: int, purpose: str, index: tuple[int | str, ...]) -> bytes:
    return "/".join((str(root), purpose, *(f"{type(i).__name__}:{i}" for i in index))).encode()


def seed(root: int, purpose: str, *index: int | str) -> int:
    """A 63-bit seed for ``purpose`` at ``index`` under the run's root seed."""
    return int.from_bytes(blake2b(_key(root, purpose, index), digest_size=8).digest(), "big") >> 1


def generator(root: int, purpose: str, *index: int | str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed(root, purpose, *index)))


def uniforms(count: int, root: int, purpose: str, *index: int | str) -> np.ndarray:
    """``count`` float64 values in [0, 1) with 53 random bits each: up to 8 from one hash, more from one for each 8."""
    assert count > 0
    key, size = _key(root, purpose, index), min(8 * count, _DIGEST)
    blocks = range(-(-8 * count // _DIGEST))
    digests = b"".join(blake2b(key, digest_size=size, salt=block.to_bytes(16, "big")).digest() for block in blocks)
    raw = np.frombuffer(digests, dtype=">u8")[:count]
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def seed_torch(root: int, purpose: str, *index: int | str) -> None:
    """Set torch's global generator, for code that offers no generator argument (weight initialisation)."""
    import torch

    torch.manual_seed(seed(root, purpose, *index))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Compute with ``count`` intra-op threads of torch inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def apply_determinism(level: str, num_threads: int) -> None:
    """Switch torch to the level a recipe asks for: ``off``, ``seeded`` or ``strict``.

    ``strict`` fails on kernels without a deterministic form instead of warning. The number of
    intra-op threads changes the order of sums, so it is part of the recipe and set here.
    """
    import torch

    torch.set_num_threads(num_threads)
    # Torch's default rounds a GPU's fp32 convolutions to 10 bits: rollout and update would not agree on a ratio of 1.
    torch.backends.cudnn.allow_tf32 = False
    if level == "strict":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
