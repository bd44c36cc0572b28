"""Decoding for large models: a cache at fixed addresses and one-token steps that are captured once and replayed.

The cache has a column for every column of the prompt, padding included, and then one for each token fed. Everything
that differs from step to step is a tensor written in place, so a step is the same list of kernels each time. In
scoring the action tokens follow each row's last real token, before the padding, so attention is plainly causal and
needs no mask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from vlarl.policies.decoding import ActionDecoder, Prompt, run_layers, run_prompts, take_rows

# From what runs a step to what runs it again: the same, or a replay of its kernels.
Capture = Callable[[Callable[[], None]], Callable[[], None]]

_KEPT = 2  # shapes whose buffers are kept: the groups of a rollout share one, an evaluation may have another
_ALIGNED = 8  # columns of the cache are a multiple of this: kernels copy a mask of another width in every layer
_WARM_UPS = 2  # libraries set themselves up in first runs, which may not be captured


def directly(run: Callable[[], None]) -> Callable[[], None]:
    """No capture: a step's kernels are launched one by one."""
    return run


def captured(
    run: Callable[[], None], surroundings: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Callable[[], None]:
    """A CUDA graph of ``run`` as it is within ``surroundings``; runs more than once, to the same effect.

    What autocast converts is freed when its block ends, so a graph may not read it: under autocast ``surroundings``
    must turn it off and have every weight in the arithmetic's dtype, at an address that stays.
    """
    with surroundings():
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                run()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    return graph.replay


class StaticCache:
    """Keys and values of all layers, (N, H, K, C) each, of which P columns are the prompt's.

    Layers call ``update`` as they would a cache of transformers.
    """

    def __init__(self, num_prompt: int, num_columns: int) -> None:
        self._num_prompt, self._num_columns = num_prompt, num_columns
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.written: Tensor | None = None  # (K - P, 1) bool, the column that a step writes; None in the prefill

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What the layer attends to: in the prefill its own columns alone, in a step all there are."""
        if layer not in self._layers:
            self._layers[layer] = self._zeros(key), self._zeros(value)
        kept = self._layers[layer]
        for columns, new in zip(kept, (key, value), strict=True):
            if self.written is None:
                columns[:, :, : self._num_prompt].copy_(new)
            else:  # which column is known to the device alone, and indexing by it has no fast deterministic form
                tail = columns[:, :, self._num_prompt :]
                torch.where(self.written, new, tail, out=tail)
        return (key, value) if self.written is None else kept

    def _zeros(self, like: Tensor) -> Tensor:
        """Columns nobody has written are masked, but still multiplied by 0, so they must be numbers."""
        batch, heads, _, size = like.shape
        return like.new_zeros(batch, heads, self._num_columns, size)


class Steps:
    """Prefill and steps for batches of one shape."""

    def __init__(self, model: LlamaForCausalLM, like: Prompt, *, num_fed: int, first_row: int) -> None:
        count, num_prompt = like.valid.shape
        device, self._dtype = like.valid.device, like.embeddings.dtype
        self._model, self._first_row = model, first_row
        columns = -(-(num_prompt + num_fed) // _ALIGNED) * _ALIGNED
        self._cache = StaticCache(num_prompt, columns)
        self._tail = torch.arange(columns - num_prompt, device=device)
        self._valid = torch.zeros_like(like.valid)
        self._last = torch.zeros(count, 1, dtype=torch.int64, device=device)
        self._token = torch.zeros(count, dtype=torch.int64, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._hidden = torch.zeros_like(like.embeddings[:, 0])
        self._replay: Callable[[], None] | None = None

    def prefill(self, prompt: Prompt) -> Tensor:
        """Hidden states (N, P, D) of the prompts, whose keys and values the steps will see."""
        self._valid.copy_(prompt.valid)
        self._last.copy_(prompt.last[:, None])
        self._step.fill_(-1)
        self._cache.written = None
        return run_prompts(self._model, prompt.embeddings, self._cache)

    def feed(self, token: Tensor, capture: Capture) -> Tensor:
        """Hidden state (N, D) after feeding ``token`` (N,); the next step writes over it."""
        self._token.copy_(token)
        self._step.add_(1)
        if self._replay is None:
            self._replay = capture(self._run)
        self._replay()
        return self._hidden

    def _run(self) -> None:
        self._cache.written = (self._tail == self._step)[:, None]
        fed = (self._tail <= self._step).expand(len(self._valid), -1)
        allowed = torch.cat([self._valid, fed], dim=1)
        bias = torch.zeros(allowed.shape, dtype=self._dtype, device=allowed.device)
        bias = bias.masked_fill_(~allowed, torch.finfo(self._dtype).min)[:, None, None]
        embeddings = F.embedding(self._token + self._first_row, self._model.model.embed_tokens.weight)[:, None]
        where = self._last + self._step + 1
        self._hidden.copy_(run_layers(self._model, embeddings, where=where, bias=bias, cache=self._cache)[:, 0])


class StaticDecoder(ActionDecoder):
    """An ActionDecoder that keeps its cache, and its steps' graphs, from one decision to the next.

    ``capture`` sees a step when a shape first occurs. Scoring with gradients gives the memory back.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        *,
        num_action_tokens: int,
        num_bins: int,
        first_row: int,
        capture: Capture = directly,
    ) -> None:
        super().__init__(model, num_action_tokens=num_action_tokens, num_bins=num_bins, first_row=first_row)
        self._capture = capture
        self._kept: OrderedDict[tuple[Any, ...], Steps] = OrderedDict()  # by shape, the one used last at the end

    def release(self) -> None:
        """Give the memory of caches and graphs back; a shape that occurs again is set up again."""
        self._kept.clear()

    def _start(self, prompt: Prompt) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        steps = self._steps(prompt)
        feature = take_rows(steps.prefill(prompt), prompt.last)
        return feature, lambda token: steps.feed(token, self._capture)

    def _steps(self, prompt: Prompt) -> Steps:
        shape = (*prompt.embeddings.shape, prompt.embeddings.dtype, prompt.embeddings.device)
        if shape not in self._kept:
            while len(self._kept) >= _KEPT:
                self._kept.popitem(last=False)
            self._kept[shape] = Steps(self._model, prompt, num_fed=self._num_tokens - 1, first_row=self._first_row)
        self._kept.move_to_end(shape)
        return self._kept[shape]

    def feature(self, prompt: Prompt) -> Tensor:
        self._make_room()
        return super().feature(prompt)

    def _make_room(self) -> None:
        if torch.is_grad_enabled():
            self.release()  # the backward pass needs the memory; setting up again takes a second

    def _predicting(self, prompt: Prompt, fed: Tensor) -> Tensor:
        self._make_room()
        hidden = run_prompts(self._model, joined(prompt, fed))
        return take_rows(hidden, prompt.last[:, None] + torch.arange(self._num_tokens, device=hidden.device))


def joined(prompt: Prompt, more: Tensor) -> Tensor:
    """(N, P + M, D): each row's real tokens, then ``more`` (N, M, D), then its padding."""
    both = torch.cat([prompt.embeddings, more], dim=1)
    num_prompt, num_more = prompt.valid.shape[1], more.shape[1]
    columns = torch.arange(num_prompt + num_more, device=both.device)
    beyond = columns - prompt.last[:, None] - 1  # (N, P + M), negative on real tokens
    padding = columns - num_more
    return take_rows(
        both, torch.where(beyond < 0, columns, torch.where(beyond < num_more, num_prompt + beyond, padding))
    )
