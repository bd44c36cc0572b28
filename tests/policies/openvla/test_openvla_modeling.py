"""The model against what the original implementation computed, and against its own definition."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from layout import SMALL, config_of, random_tensor, write_checkpoint
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from vlarl.errors import AssetError
from vlarl.policies.openvla.checkpoint import load_model, read_layout
from vlarl.policies.openvla.modeling import PUBLISHED, OpenVlaModel, OpenVlaSizes, empty_model, sizes_of
from vlarl.policies.openvla.sizes import check_shapes, is_unused, tensor_shapes

TINY = Path(__file__).parent / "prismatic_tiny"
PROMPT, ACTION = 12, 7


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(TINY / "golden.safetensors")


@pytest.fixture(scope="module")
def tiny() -> OpenVlaModel:
    layout = read_layout(TINY)
    return load_model(layout, sizes_of(layout.shapes, layout.config, vision_heads=4), dtype=torch.float32)


@pytest.fixture
def small(tmp_path: Path) -> OpenVlaModel:
    layout = read_layout(write_checkpoint(tmp_path / "small"))
    return load_model(layout, sizes_of(layout.shapes, layout.config, vision_heads=2), dtype=torch.float32)


def embedded(model: OpenVlaModel, pixels: Tensor, ids: Tensor) -> Tensor:
    text = model.language_model.model.embed_tokens(ids)
    return torch.cat([text[:, :1], model.forward_visual(pixels), text[:, 1:]], dim=1)


def logits(model: OpenVlaModel, pixels: Tensor, ids: Tensor) -> Tensor:
    return model.language_model(inputs_embeds=embedded(model, pixels, ids)).logits


@torch.no_grad()
def test_logits_are_those_of_the_original(tiny: OpenVlaModel, golden: dict[str, Tensor]) -> None:
    found = logits(tiny, golden["pixel_values"], golden["input_ids"])[:, -8:]
    assert golden["logits_last8"].std() > 0.5
    torch.testing.assert_close(found, golden["logits_last8"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_greedy_tokens_are_those_of_the_original(tiny: OpenVlaModel, golden: dict[str, Tensor]) -> None:
    ids, pixels = golden["input_ids"][:1, :PROMPT], golden["pixel_values"][:1]
    for _ in range(ACTION):
        ids = torch.cat([ids, logits(tiny, pixels, ids)[:, -1:].argmax(dim=-1)], dim=1)
    assert ids[0, PROMPT:].tolist() == golden["greedy"].tolist()


@torch.no_grad()
def test_another_image_gives_other_logits(tiny: OpenVlaModel, golden: dict[str, Tensor]) -> None:
    ids, pixels = golden["input_ids"][:1], golden["pixel_values"]
    mine, other, black = (logits(tiny, p, ids)[:, -8:] for p in (pixels[:1], pixels[1:], torch.zeros_like(pixels[:1])))
    assert (mine - other).abs().max() > 0.05
    assert (mine - black).abs().max() > 0.05


@torch.no_grad()
@pytest.mark.parametrize("channels", [slice(0, 3), slice(3, 6)])
def test_each_tower_sees_its_own_channels(tiny: OpenVlaModel, golden: dict[str, Tensor], channels: slice) -> None:
    pixels = golden["pixel_values"][:1]
    other = pixels.clone()
    other[:, channels] = golden["pixel_values"][1:, channels]
    before, after = (tiny.vision_backbone(p).split(32, dim=2) for p in (pixels, other))
    assert [not torch.equal(a, b) for a, b in zip(before, after)] == [channels.start == 0, channels.start == 3]


def test_the_published_model_has_the_published_number_of_parameters() -> None:
    assert PUBLISHED.num_parameters == 7_541_237_184
    assert len(tensor_shapes(PUBLISHED)) == 982
    with torch.device("meta"):
        model = OpenVlaModel(PUBLISHED)
    built = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    unused = {name: shape for name, shape in tensor_shapes(PUBLISHED).items() if is_unused(name, PUBLISHED)}
    assert built | unused == tensor_shapes(PUBLISHED)
    assert not built.keys() & unused.keys()
    assert sum(map(math.prod, built.values())) == PUBLISHED.num_built
    assert sum(map(math.prod, unused.values())) == 43_080_480
    assert (PUBLISHED.image_size, PUBLISHED.num_patches, PUBLISHED.first_action_row) == (224, 256, 31744)


def test_sizes_come_from_the_tensors() -> None:
    tiny = read_layout(TINY)
    found = sizes_of(tiny.shapes, tiny.config, vision_heads=4)
    assert (found.image_size, found.num_patches, found.first_action_row) == (28, 4, 64)  # its config.json says 224
    assert found.num_parameters == 293_628
    assert found.featurizer.num_heads == 4
    for sizes in (SMALL, PUBLISHED):
        config = json.loads(json.dumps(config_of(sizes, {})))
        assert sizes_of(tensor_shapes(sizes), config, sizes.featurizer.num_heads) == sizes


def test_where_the_configuration_is_silent_the_original_library_decides() -> None:
    config = {"model_type": "openvla", "text_config": {"pad_token_id": 32000, "vocab_size": 32064}}
    assert sizes_of(tensor_shapes(PUBLISHED), config, vision_heads=16) == PUBLISHED
    assert PUBLISHED.language.rms_norm_eps == 1e-6
    newer = {"text_config": {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}}
    found = sizes_of(tensor_shapes(PUBLISHED), newer, vision_heads=16).language
    assert (found.rms_norm_eps, found.rope_theta, found.pad_token_id) == (1e-5, 500.0, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"hidden_size": 64}, "text_config.hidden_size is 64 where the model has 48"),
        ({"num_hidden_layers": 2}, "num_hidden_layers"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"rope_scaling": {"factor": 2.0}}, "rotary"),
        ({"num_attention_heads": 5}, "do not divide the hidden size 48"),
        ({"num_attention_heads": 1}, "do not divide the 24 rows of k_proj"),
    ],
)
def test_a_configuration_of_another_model_is_refused(text: dict[str, object], said: str) -> None:
    config = config_of(SMALL, {})
    config["text_config"] |= text
    with pytest.raises(AssetError, match=said) as caught:
        sizes_of(tensor_shapes(SMALL), config, vision_heads=2)
    assert caught.value.code == "R373"


def test_a_number_of_heads_that_does_not_divide_points_at_the_recipe() -> None:
    with pytest.raises(AssetError, match="16 attention heads do not divide the width 24") as caught:
        sizes_of(tensor_shapes(SMALL), config_of(SMALL, {}), vision_heads=16)
    assert caught.value.hint is not None
    assert "policy.vision_heads" in caught.value.hint


V, S = "vision_backbone.featurizer", "vision_backbone.fused_featurizer"


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        (f"{V}.pos_embed", None, f"lacks {V}.pos_embed"),
        (f"{V}.pos_embed", (1, 10, 24), "10 positions"),
        (f"{V}.pos_embed", (1, 16, 24), "see different images: 4 and 3 patches"),
        (f"{V}.patch_embed.proj.weight", (24, 3, 7), "impossible shape"),
        (f"{V}.norm.weight", None, f"lacks {V}.norm.weight"),  # unused, but tells that the last block is the last
        (f"{S}.blocks.1.attn.qkv.bias", None, f"lacks {S}.blocks.1.attn.qkv.bias"),
        (f"{S}.norm_pre.weight", (20,), "no place for"),
        (f"{V}.blocks.9.norm1.weight", (24,), f"lacks {V}.blocks.4"),
        ("projector.fc3.bias", (49,), r"projector.fc3.bias is \[49\] instead of \[48\]"),
        ("language_model.model.layers.1.self_attn.q_proj.bias", (48,), "no place for"),
        ("language_model.model.embed_tokens.weight", (200, 48), "no room for 256 action tokens"),
        ("language_model.lm_head.weight", (328, 48), "lm_head"),
    ],
)
def test_tensors_of_another_model_are_refused(name: str, shape: tuple[int, ...] | None, said: str) -> None:
    shapes = tensor_shapes(SMALL)
    if shape is None:
        del shapes[name]
    else:
        shapes[name] = shape
    with pytest.raises(AssetError, match=said) as caught:
        check_shapes(shapes, sizes_of(shapes, config_of(SMALL, {}), vision_heads=2))
    assert caught.value.code == "R373"


def test_a_tower_of_one_block_is_refused() -> None:
    shapes = {n: s for n, s in tensor_shapes(SMALL).items() if not n.startswith((f"{S}.blocks.1.", f"{S}.blocks.2."))}
    with pytest.raises(AssetError, match="second-to-last"):
        sizes_of(shapes, config_of(SMALL, {}), vision_heads=2)


@torch.no_grad()
def test_towers_of_other_sizes(small: OpenVlaModel, tmp_path: Path) -> None:
    """Against the transformer written out for one image, from the tensors in the file."""
    tensors = load_file(tmp_path / "small" / "model.safetensors")
    pixels = torch.randn(2, 6, 21, 21, generator=torch.Generator().manual_seed(3))
    found = small.vision_backbone(pixels)
    for i in range(2):
        first = plain_tower(tensors, V, pixels[i, :3], num_blocks=3, num_prefix=4)
        second = plain_tower(tensors, S, pixels[i, 3:], num_blocks=2, num_prefix=0)
        torch.testing.assert_close(found[i], torch.cat([first, second], dim=1), rtol=1e-5, atol=1e-5)
    assert small.forward_visual(pixels).shape == (2, 9, 48)


def plain_tower(tensors: dict[str, Tensor], prefix: str, pixels: Tensor, *, num_blocks: int, num_prefix: int) -> Tensor:
    """(P, D) of one image (3, H, W), patch by patch, head by head."""

    def affine(name: str, x: Tensor) -> Tensor:
        return x @ tensors[f"{prefix}.{name}.weight"].flatten(1).T + tensors[f"{prefix}.{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
        return scaled * tensors[f"{prefix}.{name}.weight"] + tensors[f"{prefix}.{name}.bias"]

    patches = [pixels[:, 7 * r : 7 * r + 7, 7 * c : 7 * c + 7].flatten() for r in range(3) for c in range(3)]
    x = affine("patch_embed.proj", torch.stack(patches)) + tensors[f"{prefix}.pos_embed"][0]
    if num_prefix:
        x = torch.cat([tensors[f"{prefix}.cls_token"][0], tensors[f"{prefix}.reg_token"][0], x])
    for i in range(num_blocks):
        block, width = f"blocks.{i}", x.shape[1]
        q, k, v = affine(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).split(width, dim=1)
        heads = []
        for h in range(2):
            part = slice(h * width // 2, (h + 1) * width // 2)
            weights = (q[:, part] @ k[:, part].T / math.sqrt(width // 2)).softmax(dim=1)
            heads.append(weights @ v[:, part])
        x = x + affine(f"{block}.attn.proj", torch.cat(heads, dim=1)) * tensors.get(
            f"{prefix}.{block}.ls1.scale_factor", torch.ones(width)
        )
        inner = affine(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + affine(f"{block}.mlp.fc2", inner) * tensors.get(f"{prefix}.{block}.ls2.scale_factor", torch.ones(width))
    return x[num_prefix:]


def random_model(sizes: OpenVlaSizes) -> OpenVlaModel:
    model, generator = empty_model(sizes, dtype=torch.float32, device="cpu"), torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data = random_tensor(name, tuple(parameter.shape), generator)
    return model


def gradients(model: OpenVlaModel, pixels: Tensor, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    loss = F.cross_entropy(logits(model, pixels, ids)[:, -4:].flatten(0, 1), ids[:, -4:].flatten())
    model.zero_grad()
    loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) == len(list(model.parameters()))
    return loss.detach(), [grad.clone() for grad in found]


def test_recomputation_changes_no_number() -> None:
    model = random_model(SMALL)
    pixels, ids = torch.randn(2, 6, 21, 21), torch.randint(0, 300, (2, 8))
    kept_loss, kept = gradients(model, pixels, ids)
    entered: list[str] = []

    @contextmanager
    def again() -> Iterator[None]:
        entered.append("again")
        yield

    model.set_gradient_checkpointing(True, lambda: (nullcontext(), again()))
    loss, recomputed = gradients(model, pixels, ids)
    assert len(entered) == 3 + 2 + 3  # every block of both towers and every layer, once
    assert torch.equal(loss, kept_loss)
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed))
    model.set_gradient_checkpointing(False)
    gradients(model, pixels, ids)
    assert len(entered) == 8


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_recomputation_leaves_the_cache_alone(training: bool) -> None:
    """transformers' own switch drops the cache in train mode, and every decoded token forgets the prompt."""
    model = random_model(SMALL).train(training)
    model.set_gradient_checkpointing(True)
    ids = torch.randint(0, 300, (1, 6), generator=torch.Generator().manual_seed(1))
    cache = DynamicCache(config=model.language_model.config)
    model.language_model(ids[:, :5], past_key_values=cache, use_cache=True)
    step = model.language_model(ids[:, 5:], past_key_values=cache, use_cache=True).logits[:, -1]
    torch.testing.assert_close(step, model.language_model(ids).logits[:, -1], rtol=0, atol=1e-5)


def test_rotary_tables_keep_full_precision() -> None:
    tables = [
        empty_model(SMALL, dtype=dtype, device="cpu").language_model.model.rotary_emb.inv_freq
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert tables[1].dtype == torch.float32
    assert torch.equal(*tables)
    assert tables[0].tolist() == pytest.approx([5000.0 ** (-i / 6) for i in range(6)])
