"""The processes of one job: which one this is, and everything they say to each other.

A launcher (`accelerate launch`, `torchrun`, `srun`) starts the same command several times and tells each process its
place through RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Messages are JSON and plain arrays, never
pickled objects. A process alone is a job of one, without torch.distributed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from vlarl.errors import EnvironmentUnusable, Exit, RecipeError, RunError, VlarlError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Others wait while the first process records demonstrations and clones them; the end of a process is noticed at once,
# by its connection, whatever this is.
_PATIENCE = timedelta(hours=12)
_JOINING = timedelta(minutes=10)
_ROLL_CALL_SECONDS = 3.0  # for which the others are waited for, to name the one that is gone
_BUCKET = 2**25  # numbers of a gradient added up at once: 128 MB
LOST = "X550"

_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True)
class Message:
    """JSON and named arrays."""

    data: Any = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def packed(self) -> bytes:
        import numpy as np
        from safetensors.numpy import save

        text = json.dumps(self.data, separators=(",", ":")).encode()
        laid_out = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        return len(text).to_bytes(8, "big") + text + bytes(save(laid_out))

    @classmethod
    def unpacked(cls, raw: bytes) -> Message:
        from safetensors.numpy import load

        end = 8 + int.from_bytes(raw[:8], "big")
        return cls(json.loads(raw[8:end]), load(raw[end:]))


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job. All processes call the same methods in the same order.

    Every method that speaks to others raises RunError (X550) when one of them has ended.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"  # where this process computes, for policies that choose for themselves
    store: Any = field(default=None, repr=False, compare=False)  # of the rendezvous; None in a job of one

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder and talks to people."""
        return self.rank == 0

    def shards(self, num_shards: int) -> range:
        """The shards of env slots that this process runs."""
        share = num_shards // self.world_size
        return range(self.rank * share, (self.rank + 1) * share)

    def gather(self, message: Message) -> list[Message]:
        """What every process sent, by rank; the same everywhere."""
        if self.world_size == 1:
            return [message]
        import torch
        from torch import distributed

        raw = torch.frombuffer(bytearray(message.packed()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        with _noticing_the_end():
            distributed.all_gather(sizes, torch.tensor([len(raw)]))
            longest = int(max(sizes))
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(raw)] = raw
            received = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
            distributed.all_gather(received, padded)
        return [
            Message.unpacked(whole[: int(size)].numpy().tobytes()) for whole, size in zip(received, sizes, strict=True)
        ]

    def first_says(self, data: Any) -> Any:
        """JSON of the first process; what the others pass is ignored."""
        return self.gather(Message(data if self.is_first else None))[0].data

    def totals(self, values: Mapping[_Name, float], *, largest: Sequence[str] = ()) -> dict[_Name, float]:
        """Sums over the processes, added up in the order of ranks; of ``largest`` the maximum."""
        if self.world_size == 1:
            return dict(values)
        every = [message.data for message in self.gather(Message(dict(values)))]
        return {
            name: max(v[name] for v in every) if name in largest else sum(v[name] for v in every) for name in values
        }

    def any_of(self, said: str | None) -> str | None:
        """What the first process that says something says: a signal that only one of them received."""
        return next((message.data for message in self.gather(Message(said)) if message.data is not None), None)

    def agree(self, value: str, what: str) -> None:
        """RunError (X551) unless ``value`` is the same in every process."""
        found = [message.data for message in self.gather(Message(value))]
        if len(set(found)) > 1:
            others = [rank for rank, other in enumerate(found) if other != found[0]]
            raise RunError(
                f"{what} of process {others[0]} of {self.world_size} differ from those of process 0",
                code="X551",
                hint="`vlarl resume` goes on from the last checkpoint, written when they still agreed; if it happens "
                "again, the processes run on different machines or versions: `vlarl doctor` on each",
            )

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes, added in fp32; None stays where all have None."""
        if self.world_size == 1:
            return
        import torch

        held = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32)
        self._sum(held)
        buckets: dict[torch.device, list[Tensor]] = {}  # a critic may be elsewhere than the policy
        for parameter, holders in zip(parameters, held.tolist(), strict=True):
            if not holders:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket = buckets.setdefault(parameter.device, [])
            bucket.append(parameter.grad)
            if sum(gradient.numel() for gradient in bucket) >= _BUCKET:
                self._sum_bucket(bucket)
                bucket.clear()
        for bucket in buckets.values():
            if bucket:
                self._sum_bucket(bucket)

    def same_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of the first process's tensors, of the shapes and types that all have."""
        copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        if self.world_size > 1:
            from torch import distributed

            with _noticing_the_end():
                for name in sorted(copies):
                    distributed.broadcast(copies[name], 0)
        return copies

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """Of the errors that end a job, one is told; the other processes leave with that one's exit status."""
        if self.world_size == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            status = error.exit_status if isinstance(error, VlarlError) else Exit.RUN_FAILED
            told = self._already_told(int(status))
            if told is not None:
                raise SystemExit(told) from error
            if isinstance(error, VlarlError) and error.code == LOST:
                error.message += self._roll_call()
            raise
        self.leave()

    def leave(self) -> None:
        """Wait for all, then part."""
        from torch import distributed

        if distributed.is_initialized():
            self.gather(Message())
            distributed.destroy_process_group()

    def _sum(self, tensor: Tensor) -> None:
        from torch import distributed

        with _noticing_the_end():
            distributed.all_reduce(tensor)

    def _sum_bucket(self, gradients: Sequence[Tensor]) -> None:
        import torch

        flat = torch.cat([gradient.float().flatten() for gradient in gradients])
        self._sum(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def _already_told(self, status: int) -> int | None:
        """The exit status of the error that another process told before this one, else None."""
        try:
            self.store.set(f"ended/{self.rank}", "")
            if self.store.add("errors", 1) == 1:
                self.store.set("status", str(status))
                return None
            return int(self.store.get("status"))
        except RuntimeError:  # the first process keeps the store, and it is gone
            return None if self.rank == 1 else status

    def _roll_call(self) -> str:
        """Which processes have said nothing since one of them ended."""
        silent = [rank for rank in range(self.world_size) if rank != self.rank]
        deadline = time.monotonic() + _ROLL_CALL_SECONDS
        try:
            while silent and time.monotonic() < deadline:
                silent = [rank for rank in silent if not self.store.check([f"ended/{rank}"])]
                time.sleep(0.05)
        except RuntimeError:
            silent = [0]
        return f": no word from process {', '.join(map(str, silent))} of 0 to {self.world_size - 1}" if silent else ""


ALONE = Ranks()


def speaks() -> bool:
    """Whether this process is the one of its job that talks to people, before it has joined the others."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


@contextmanager
def met_by_all() -> Iterator[None]:
    """For errors that every process meets alike before they know each other: the first tells, the others leave."""
    try:
        yield
    except VlarlError as error:
        if speaks():
            raise
        raise SystemExit(int(error.exit_status)) from error


def join(num_shards: int) -> Ranks:
    """Meet the other processes of the job, if there are any.

    Raises RecipeError (R224) when ``num_shards`` cannot be dealt out evenly, EnvironmentUnusable (E450) when the
    launcher's variables are incomplete or the others do not come.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if missing:
        raise EnvironmentUnusable(
            f"WORLD_SIZE is set, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not",
            code="E450",
            hint="start with `accelerate launch` or `torchrun`, or unset WORLD_SIZE for a single process",
        )
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with met_by_all():
        if num_shards % world_size:
            raise RecipeError(
                f"{world_size} processes cannot share {num_shards} shard{'s' * (num_shards > 1)} of env slots",
                code="R224",
                place="suite.num_shards",
                hint=f"--set suite.num_shards={world_size}, or another number that {world_size} divides; it is part of "
                "the recipe's identity",
            )
    return _meet(rank, world_size)


def _meet(rank: int, world_size: int) -> Ranks:
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    device, backend = "cpu", "gloo"
    if torch.cuda.is_available():
        number = int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count()
        torch.cuda.set_device(number)
        device, backend = f"cuda:{number}", "cpu:gloo,cuda:nccl"
    try:
        store = next(iter(rendezvous("env://", timeout=_JOINING)))[0]
        prefix = distributed.PrefixStore("vlarl", store)
        distributed.init_process_group(backend, store=prefix, rank=rank, world_size=world_size, timeout=_PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        raise EnvironmentUnusable(
            f"process {rank} of {world_size} did not meet the others: {(str(error).splitlines() or [''])[0]}",
            code="E450",
            place=f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
            hint="MASTER_ADDR and MASTER_PORT name a machine and a free port that all processes reach",
        ) from error
    # The first exchange makes the connections, by which a process's end is noticed.
    ranks = Ranks(rank, world_size, device, distributed.PrefixStore("vlarl-control", store))
    ranks.gather(Message())
    return ranks


@contextmanager
def _noticing_the_end() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        with suppress(ImportError):
            from torch import OutOfMemoryError

            if isinstance(error, OutOfMemoryError):
                raise
        raise RunError(
            "a process of this job has ended or cannot be reached",
            code=LOST,
            hint="its own output, or the launcher's, says why (memory?); start the same command again with "
            "`--or-resume`, or `vlarl resume`",
        ) from error
