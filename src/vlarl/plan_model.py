"""Parameters, FLOPs and bytes of policies, from their sizes alone.

Every function returns plain numbers per sample (one decision: a control step, or a chunk of them). The formulas count
what torch keeps, tensor by tensor; docs/plan.md says against which measurements they were checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from vlarl.recipe.front_ends import Convolution, FrontEnd

NUM_ACTION_TOKENS, NUM_BINS = 7, 256
FED_TOKENS = NUM_ACTION_TOKENS - 1  # the last one is predicted and never read
FP32, BF16 = 4, 2  # bytes


@dataclass(frozen=True, kw_only=True)
class Linear:
    """``count`` linear layers of one shape and name."""

    name: str  # last part of the module's name
    fan_in: int
    fan_out: int
    count: int
    bias: bool = False

    @property
    def weights(self) -> int:
        return self.count * self.fan_in * self.fan_out

    @property
    def parameters(self) -> int:
        return self.weights + (self.count * self.fan_out if self.bias else 0)

    def adapter(self, rank: int) -> int:
        """Parameters of a low-rank adapter on each of them."""
        return self.count * rank * (self.fan_in + self.fan_out)


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A vision transformer whose features are those of the last block but one, so that the last is never run."""

    width: int
    depth: int  # blocks in the checkpoint
    mlp: int
    num_patches: int
    patch: int = 14
    num_prefix: int = 0  # class and register tokens
    layer_scale: bool = False
    pool_mlp: int | None = None  # hidden width of an attention pool that is never run

    @property
    def blocks_run(self) -> int:
        return self.depth - 1

    @property
    def tokens(self) -> int:
        return self.num_patches + self.num_prefix

    def linears(self, blocks: int) -> tuple[Linear, ...]:
        w, m = self.width, self.mlp
        return (
            Linear(name="qkv", fan_in=w, fan_out=3 * w, count=blocks, bias=True),
            Linear(name="proj", fan_in=w, fan_out=w, count=blocks, bias=True),
            Linear(name="fc1", fan_in=w, fan_out=m, count=blocks, bias=True),
            Linear(name="fc2", fan_in=m, fan_out=w, count=blocks, bias=True),
        )

    def block_parameters(self, blocks: int) -> int:
        norms = 4 * self.width + (2 * self.width if self.layer_scale else 0)
        return sum(linear.parameters for linear in self.linears(blocks)) + blocks * norms

    @property
    def parameters(self) -> int:
        """Those that are used."""
        embedding = self.width * (3 * self.patch**2 + 1) + self.width * self.tokens
        return embedding + self.block_parameters(self.blocks_run)

    @property
    def unused(self) -> int:
        """The last block, the final norm and the attention pool: in the checkpoint, never computed."""
        return self.block_parameters(1) + 2 * self.width + self._pool

    @property
    def _pool(self) -> int:
        if self.pool_mlp is None:
            return 0
        w, m = self.width, self.pool_mlp
        return w + 4 * (w * w + w) + 2 * w + 2 * w * m + m + w

    @property
    def flops(self) -> float:
        """Forward, patch embedding left out (it is below 1 % of a block's)."""
        dense = 2.0 * self.tokens * sum(linear.weights for linear in self.linears(self.blocks_run))
        return dense + self.blocks_run * 4.0 * self.tokens**2 * self.width

    def saved(self, rank: int, item: int) -> int:
        """Bytes one block keeps for its backward pass: two norms, q, k, v, attention, two GELU sides."""
        per_token = 8 * self.width + 2 * self.mlp + (2 * self.width if self.layer_scale else 0) + 4 * rank
        return item * self.tokens * per_token

    def boundary(self, item: int) -> int:
        """Bytes of one block's input."""
        return item * self.tokens * self.width


@dataclass(frozen=True, kw_only=True)
class Llama:
    """A causal language model with gated MLPs."""

    width: int
    depth: int
    mlp: int
    vocabulary: int
    key_width: int | None = None  # below ``width`` with grouped queries

    @property
    def _keys(self) -> int:
        return self.width if self.key_width is None else self.key_width

    @property
    def linears(self) -> tuple[Linear, ...]:
        d, k, m, n = self.width, self._keys, self.mlp, self.depth
        return (
            Linear(name="q_proj", fan_in=d, fan_out=d, count=n),
            Linear(name="k_proj", fan_in=d, fan_out=k, count=n),
            Linear(name="v_proj", fan_in=d, fan_out=k, count=n),
            Linear(name="o_proj", fan_in=d, fan_out=d, count=n),
            Linear(name="gate_proj", fan_in=d, fan_out=m, count=n),
            Linear(name="up_proj", fan_in=d, fan_out=m, count=n),
            Linear(name="down_proj", fan_in=m, fan_out=d, count=n),
        )

    @property
    def layers(self) -> int:
        """Parameters of the layers alone: what one decoding step reads."""
        return sum(linear.parameters for linear in self.linears) + self.depth * 2 * self.width

    @property
    def embedding(self) -> int:
        """Parameters of the token embedding; the head has as many."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        return self.layers + self.width + 2 * self.embedding

    def flops(self, tokens: int, before: int = 0) -> float:
        """Forward of ``tokens`` new tokens after ``before`` cached ones; causal attention counts half its square."""
        attended = tokens * before + tokens * tokens / 2.0
        return 2.0 * tokens * self.layers + 4.0 * self.depth * self.width * attended

    def key_value_bytes(self, tokens: int, item: int) -> int:
        return 2 * self.depth * tokens * self._keys * item

    def saved(self, tokens: int, rank: int, item: int, *, every_weight: bool) -> int:
        """Bytes one layer keeps for its backward pass.

        Norms compute in fp32; their gradient is asked for only when every weight is trained. Then normed input
        twice, q, k, v, attention, and four of the MLP's width.
        """
        norms = 2 * self.width * FP32 + (2 * self.width * item if every_weight else 0)
        return tokens * (norms + item * (6 * self.width + 4 * self.mlp + 7 * rank))

    def working(self, tokens: int, item: int) -> int:
        """Bytes one layer has in flight when nothing is kept: norm in fp32, residual, q, k, v and three MLP halves."""
        return tokens * (self.width * FP32 + item * (5 * self.width + 3 * self.mlp))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A component of a policy."""

    name: str
    parameters: int  # used
    unused: int = 0  # in the checkpoint, never computed
    trainable: int = 0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one policy costs under one recipe: FLOPs and bytes of one sample unless said otherwise."""

    parts: tuple[Part, ...]
    weights: int  # bytes of all used weights
    masters: int  # bytes of fp32 copies or adapters beside them
    gradients: int  # bytes
    optimizer: int  # bytes: two moments in fp32
    feature_size: int
    num_tokens: int  # action tokens of a decision
    prompt_tokens: int  # image included, padding included
    vision_flops: float
    prefill_flops: float
    decode_flops: float  # all steps after the first token
    decode_reads: int  # bytes of weights each decoding step reads
    key_values: int  # bytes of one slot's cache
    working: int  # bytes in flight in a prefill
    update_flops: float  # forward and backward
    saved: int  # bytes kept for the backward pass
    recomputed: int  # bytes of the largest block that is recomputed, and of gradients in flight
    logits: int  # bytes

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def unused(self) -> int:
        return sum(part.unused for part in self.parts)

    @property
    def trainable(self) -> int:
        return sum(part.trainable for part in self.parts)

    @property
    def chunk(self) -> int:
        """Control steps of a decision."""
        return self.num_tokens // NUM_ACTION_TOKENS

    @property
    def prompt_flops(self) -> float:
        return self.vision_flops + self.prefill_flops

    @property
    def decision_flops(self) -> float:
        return self.prompt_flops + self.decode_flops


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Low-rank adapters, as the recipe asks for them."""

    rank: int
    targets: Sequence[str] | None = None  # None: every linear layer
    vision: bool = True
    head: bool = False
    unused: bool = False  # also on blocks that never run, as some fine-tunes have it

    def on(self, linears: Iterable[Linear]) -> int:
        chosen = (each for each in linears if self.targets is None or any(map(each.name.endswith, self.targets)))
        return sum(each.adapter(self.rank) for each in chosen)


@dataclass(frozen=True, kw_only=True)
class OpenVla:
    """Sizes of an OpenVLA checkpoint: one or two towers, projector, language model."""

    towers: Mapping[str, Tower]
    projector: tuple[Linear, ...]
    language: Llama

    @property
    def image_tokens(self) -> int:
        return next(iter(self.towers.values())).num_patches

    @property
    def total(self) -> int:
        """Parameters of the checkpoint, unused ones included."""
        towers = sum(tower.parameters + tower.unused for tower in self.towers.values())
        return towers + sum(linear.parameters for linear in self.projector) + self.language.parameters

    def adapters(self, adapters: Adapters) -> dict[str, int]:
        """Adapter parameters of each component."""
        found = {
            name: adapters.on(tower.linears(tower.depth if adapters.unused else tower.blocks_run))
            if adapters.vision
            else 0
            for name, tower in self.towers.items()
        }
        found["projector"] = adapters.on(self.projector)
        found["language model"] = adapters.on(self.language.linears)
        head = Linear(name="lm_head", fan_in=self.language.width, fan_out=self.language.vocabulary, count=1)
        found["head"] = head.adapter(adapters.rank) if adapters.head else 0
        return found

    @property
    def vision_flops(self) -> float:
        projector = 2.0 * self.image_tokens * sum(linear.weights for linear in self.projector)
        return sum(tower.flops for tower in self.towers.values()) + projector

    def parts(self, adapters: Adapters | None) -> tuple[Part, ...]:
        language = self.language
        used = {name: tower.parameters for name, tower in self.towers.items()}
        used["projector"] = sum(linear.parameters for linear in self.projector)
        used["language model"] = language.parameters - language.embedding
        used["head"] = language.embedding
        unused = {name: tower.unused for name, tower in self.towers.items()}
        trained = used if adapters is None else self.adapters(adapters)
        return tuple(
            Part(name=name, parameters=count, unused=unused.get(name, 0), trainable=trained[name])
            for name, count in used.items()
        )


PUBLISHED = OpenVla(
    towers={
        "DINOv2": Tower(width=1024, depth=24, mlp=4096, num_patches=256, num_prefix=5, layer_scale=True),
        "SigLIP": Tower(width=1152, depth=27, mlp=4304, num_patches=256, pool_mlp=4304),
    },
    projector=(
        Linear(name="fc1", fan_in=2176, fan_out=8704, count=1, bias=True),
        Linear(name="fc2", fan_in=8704, fan_out=4096, count=1, bias=True),
        Linear(name="fc3", fan_in=4096, fan_out=4096, count=1, bias=True),
    ),
    language=Llama(width=4096, depth=32, mlp=11008, vocabulary=32064),
)
"""Sizes of openvla-7b and its fine-tunes."""


def openvla_costs(
    sizes: OpenVla,
    *,
    adapters: Adapters | None,
    checkpointing: bool,
    text_tokens: int,
    item: int = BF16,
    chunk: int | None = None,
) -> Costs:
    """Costs of an OpenVLA model; ``text_tokens`` follow BOS and image, ``item`` is bytes of a weight.

    ``adapters`` None trains every weight. Adapters, masters and moments are fp32. With a ``chunk`` all tokens of so
    many control steps come from one forward, with a column for each and one for the end of the text.
    """
    language, full = sizes.language, adapters is None
    rank = 0 if adapters is None else adapters.rank
    prompt = 1 + sizes.image_tokens + text_tokens
    num_tokens = NUM_ACTION_TOKENS * (chunk or 1)
    length = prompt + (FED_TOKENS if chunk is None else num_tokens + 1)
    first, fed = (prompt, FED_TOKENS) if chunk is None else (length, 0)  # columns of one forward, then one by one
    parts = sizes.parts(adapters)
    trainable = sum(part.trainable for part in parts)
    towers = list(sizes.towers.values()) if adapters is None or adapters.vision else []
    layer = language.saved(length, rank, item, every_weight=full)
    if checkpointing:
        saved = language.depth * item * length * language.width
        saved += sum(tower.blocks_run * tower.boundary(item) for tower in towers)
        recomputed = max([layer, *(tower.saved(rank, item) for tower in towers)])
    else:
        saved = language.depth * layer + sum(tower.blocks_run * tower.saved(rank, item) for tower in towers)
        recomputed = 0
    forward = language.flops(length)
    seen = sizes.vision_flops
    backward = (2.0 if full else 1.0) * (forward + (seen if towers else 0.0))
    again = (forward + (seen if towers else 0.0)) if checkpointing else 0.0
    return Costs(
        parts=parts,
        weights=sum(part.parameters for part in parts) * item,
        masters=(0 if item == FP32 else trainable * FP32) if full else trainable * FP32,
        gradients=trainable * (item if full else FP32),
        optimizer=2 * trainable * FP32,
        feature_size=language.width,
        num_tokens=num_tokens,
        prompt_tokens=prompt,
        vision_flops=seen,
        prefill_flops=language.flops(first),
        decode_flops=sum((language.flops(1, prompt + i) for i in range(fed)), 0.0),
        decode_reads=language.layers * item if fed else 0,
        key_values=language.key_value_bytes(length, item) if fed else 0,
        working=language.working(first, item),
        update_flops=forward + seen + backward + again,
        saved=saved,
        recomputed=recomputed + item * length * (language.width + 2 * language.mlp),
        logits=_logits(item, num_tokens),
    )


def _sides(layers: Sequence[Convolution], image_size: int) -> list[int]:
    """Side of what each of the convolutions, one after the other, puts out."""
    strides = (layer.stride for layer in layers)
    return list(accumulate(strides, lambda side, stride: -(-side // stride), initial=image_size))[1:]


def tiny_costs(
    *,
    width: int,
    depth: int,
    front_end: FrontEnd,
    num_keypoints: int,
    num_visual_tokens: int,
    image_size: int,
    vocabulary: int,
    text_tokens: int,
) -> Costs:
    """Costs of the tiny policy, whose weights are all fp32 and all trained."""
    language = Llama(width=width, depth=depth, mlp=2 * width, vocabulary=vocabulary + NUM_BINS)
    keypoints, side = num_keypoints, front_end.side(image_size)
    layers = [*front_end.stem, front_end.points(keypoints), *([front_end.reader()] if front_end.read else [])]
    maps = sum(layer.parameters for layer in layers) + keypoints
    wide = 2 * width
    dense = ((front_end.numbers(keypoints) + width) * wide, wide * wide, wide * num_visual_tokens * width)
    project = sum(dense) + 2 * wide + num_visual_tokens * width
    prompt = 1 + num_visual_tokens + text_tokens
    length = prompt + FED_TOKENS
    sides = _sides(layers, image_size)
    convolved = sum(out**2 * (each.parameters - each.outputs) for each, out in zip(layers, sides, strict=True))
    seen = 2.0 * convolved + 2.0 * sum(dense)
    forward = language.flops(length)
    parts = (
        Part(name="vision", parameters=maps + project, trainable=maps + project),
        Part(
            name="language model",
            parameters=language.parameters - language.embedding,
            trainable=language.parameters - language.embedding,
        ),
        Part(name="head", parameters=language.embedding, trainable=language.embedding),
    )
    total = sum(part.parameters for part in parts)
    # Pixels, two sides of every convolution, maps, scaled maps and their soft-max.
    stem = sum(2 * each.outputs * out**2 for each, out in zip(front_end.stem, sides))
    pixels = FP32 * (3 * image_size**2 + stem + side * side * (3 * keypoints + front_end.read))
    layer = language.saved(length, 0, FP32, every_weight=True)
    return Costs(
        parts=parts,
        weights=total * FP32,
        masters=0,
        gradients=total * FP32,
        optimizer=2 * total * FP32,
        feature_size=width,
        num_tokens=NUM_ACTION_TOKENS,
        prompt_tokens=prompt,
        vision_flops=seen,
        prefill_flops=language.flops(prompt),
        decode_flops=sum(language.flops(1, prompt + i) for i in range(FED_TOKENS)),
        decode_reads=language.layers * FP32,
        key_values=language.key_value_bytes(length, FP32),
        working=max(pixels, language.working(prompt, FP32)),
        update_flops=3.0 * (forward + seen),
        saved=pixels + depth * layer + FP32 * 3 * wide,
        recomputed=layer,
        logits=_logits(FP32, NUM_ACTION_TOKENS),
    )


def _logits(item: int, num_tokens: int) -> int:
    """Bytes of the action rows' logits, then scaled, log-soft-maxed and exponentiated in fp32."""
    return num_tokens * NUM_BINS * (item + 4 * FP32)


def value_head(feature_size: int, hidden_sizes: Sequence[int]) -> int:
    """Parameters of the value head: a norm and a perceptron with one output."""
    widths = [feature_size, *hidden_sizes, 1]
    return 2 * feature_size + sum(a * b + b for a, b in pairwise(widths))
