"""`vlarl plan`: published numbers reproduced from sizes, verdicts, the nearest change, and what the command prints."""

from __future__ import annotations

import importlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlarl
from vlarl import cli
from vlarl.errors import AssetError, Exit, UsageError
from vlarl.plan import Plan, make_plan
from vlarl.plan_checkpoint import read_checkpoint
from vlarl.plan_machine import Machine, gpu_rates, host_memory, named_machine, parse_size
from vlarl.plan_model import PUBLISHED, Adapters, Costs, openvla_costs
from vlarl.plan_text import duration, plan_text
from vlarl.plan_work import HORIZONS, decision_seconds
from vlarl.recipe.front_ends import FRONT_ENDS
from vlarl.recipe.load import load_recipe
from vlarl.recipe.schema import Recipe
from vlarl.recipe.shipped import shipped_recipes
from vlarl.recipe.specs.policies import TinySpec

ROOT = Path(vlarl.__file__).parents[2]
GOAL = shipped_recipes()["libero_goal"]
OFT = ("policy.kind=openvla_oft", "policy.checkpoint=anywhere", "policy.gradient_checkpointing=false")
TERA, GIGA, MEGA = 1e12, 1e9, 1e6


def costs(rank: int | None = 32, *, checkpointing: bool = False, vision: bool = True) -> Costs:
    """OpenVLA-7B on the published measurements' prompt of 29 text tokens."""
    adapters = None if rank is None else Adapters(rank=rank, vision=vision)
    return openvla_costs(PUBLISHED, adapters=adapters, checkpointing=checkpointing, text_tokens=29)


def goal(*overrides: str) -> Recipe:
    return load_recipe(GOAL, overrides).recipe


def planned(*overrides: str, gpu: str = "80GB", num_gpus: int = 1) -> Plan:
    return make_plan(goal(*overrides), named_machine(gpu, num_gpus))


def near(value: float, tolerance: float) -> Any:
    return pytest.approx(value, rel=tolerance)


# Parameters


def test_the_published_checkpoint_has_its_number_of_parameters() -> None:
    assert PUBLISHED.total == 7_541_237_184
    assert sum(tower.unused for tower in PUBLISHED.towers.values()) == near(43.1 * MEGA, 1e-3)
    assert {name: tower.parameters + tower.unused for name, tower in PUBLISHED.towers.items()} == {
        "DINOv2": near(303.2 * MEGA, 1e-3),
        "SigLIP": near(427.7 * MEGA, 1e-3),
    }
    assert PUBLISHED.language.parameters == near(6738.9 * MEGA, 1e-5)
    assert sum(linear.parameters for linear in PUBLISHED.projector) == near(71.4 * MEGA, 1e-3)


def test_adapters_have_the_published_number_of_parameters() -> None:
    """The published count has adapters on the head and on blocks that never run as well."""
    published = PUBLISHED.adapters(Adapters(rank=32, head=True, unused=True))
    expected = {"DINOv2": 12.6, "SigLIP": 15.4, "projector": 1.0, "language model": 79.95, "head": 1.16}
    assert {name: count / MEGA for name, count in published.items()} == {k: near(v, 0.02) for k, v in expected.items()}
    assert sum(published.values()) == near(110.1 * MEGA, 1e-3)
    own = sum(part.trainable for part in costs().parts)
    assert own == 107_862_016
    assert sum(PUBLISHED.adapters(Adapters(rank=32, vision=False)).values()) == near(81.0 * MEGA, 1e-3)


def test_adapters_on_chosen_layers() -> None:
    attention = Adapters(rank=32, targets=("q_proj", "v_proj"), vision=False)
    assert sum(PUBLISHED.adapters(attention).values()) == 32 * 2 * 32 * (4096 + 4096)


@pytest.mark.parametrize("vision", ["keypoints", "deep_keypoints"])
def test_the_tiny_policy_has_as_many_parameters_as_counted(vision: Literal["keypoints", "deep_keypoints"]) -> None:
    from vlarl import plan_memory
    from vlarl.policies.tiny.tokenizer import VOCABULARY_SIZE
    from vlarl.policies.tiny.vision import KeypointEncoder

    assert plan_memory._TINY_VOCABULARY == VOCABULARY_SIZE
    spec = TinySpec(vision=vision, hidden_size=48, num_keypoints=12, num_visual_tokens=3, num_layers=3)
    plan = make_plan(Recipe(policy=spec), named_machine("80GB", 1))
    counted = {part.name: part.parameters for part in plan.parts}
    encoder = KeypointEncoder(image_size=64, num_keypoints=12, num_tokens=3, width=48, front_end=FRONT_ENDS[vision])
    assert counted["vision"] == sum(weight.numel() for weight in encoder.parameters())
    transformers = importlib.import_module("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY_SIZE + 256,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config)
    assert counted["language model"] + counted["head"] == sum(weight.numel() for weight in model.parameters())


# FLOPs and bytes of a sample


def test_flops_are_the_published_ones() -> None:
    assert PUBLISHED.towers["DINOv2"].flops == near(0.157 * TERA, 0.01)
    assert PUBLISHED.towers["SigLIP"].flops == near(0.211 * TERA, 0.01)
    each = costs()
    assert each.vision_flops == near(0.405 * TERA, 0.01)
    assert each.prefill_flops == near(3.73 * TERA, 0.01)
    assert each.decode_flops == near(0.079 * TERA, 0.01)
    assert each.decision_flops == near(4.21 * TERA, 0.01)
    assert each.decode_reads == near(12.95 * GIGA, 0.01)
    assert each.key_values == near(150 * MEGA, 0.03)


@pytest.mark.parametrize(
    ("rank", "checkpointing", "vision", "teraflops"),
    [(32, False, True, 8.4), (32, True, True, 12.6), (None, False, True, 12.6), (None, True, True, 16.8)],
)
def test_flops_of_an_update(rank: int | None, checkpointing: bool, vision: bool, teraflops: float) -> None:
    assert costs(rank, checkpointing=checkpointing, vision=vision).update_flops == near(teraflops * TERA, 0.01)


def test_activations_are_the_measured_ones() -> None:
    """Measured with saved-tensor hooks on layers of real size, 293 tokens."""
    language, towers = PUBLISHED.language, PUBLISHED.towers
    assert language.saved(293, 32, 2, every_weight=False) == near(50.1 * MEGA, 0.02)
    assert language.saved(293, 0, 2, every_weight=True) == near(54.8 * MEGA, 0.02)
    assert towers["DINOv2"].saved(0, 2) == near(9.64 * MEGA, 0.02)
    assert towers["SigLIP"].saved(0, 2) == near(9.14 * MEGA, 0.02)
    assert costs().saved == near(2.06 * GIGA, 0.02)
    assert costs(checkpointing=True).saved == near(0.104 * GIGA, 0.02)


def test_activations_of_a_real_layer() -> None:
    """What torch keeps of one narrow Llama layer, adapters computing in bfloat16 beside it."""
    torch = importlib.import_module("torch")
    llama = importlib.import_module("transformers.models.llama.modeling_llama")
    sizes = replace(PUBLISHED.language, width=256, mlp=688, depth=1, vocabulary=8)
    config = llama.LlamaConfig(
        vocab_size=8,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        attn_implementation="sdpa",
    )
    layer, rotary = llama.LlamaDecoderLayer(config, 0).bfloat16(), llama.LlamaRotaryEmbedding(config)
    weights = {weight.data_ptr() for weight in layer.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hidden = torch.randn(1, 292, 256, dtype=torch.bfloat16, requires_grad=True)
    positions = rotary(hidden, torch.arange(292)[None])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(hidden, position_embeddings=positions)
    assert output is not None
    assert sum(kept.values()) == near(sizes.saved(292, 0, 2, every_weight=True), 0.05)


@pytest.mark.parametrize(("slots", "rate"), [(1, 24), (8, 72), (16, 85), (32, 93), (64, 97), (128, 100)])
def test_rates_of_deciding_are_the_published_ones(slots: int, rate: float) -> None:
    assert slots / decision_seconds(costs(), slots, gpu_rates(80 * 10**9)) == near(rate, 0.03)


# Memory


def peak(plan: Plan) -> float:
    return plan.memory[0].peak / GIGA


@pytest.mark.parametrize(
    ("micro", "checkpointing", "gigabytes"),
    [
        (4, False, 25),
        (8, False, 33),
        (16, False, 50),
        (32, False, 83),
        (4, True, 17.5),
        (8, True, 18),
        (16, True, 19.5),
        (32, True, 22),
    ],
)
def test_memory_with_adapters_is_the_published_one(micro: int, checkpointing: bool, gigabytes: float) -> None:
    plan = planned(
        f"ppo.micro_batch_size={micro}", f"policy.gradient_checkpointing={str(checkpointing).lower()}", gpu="1000GB"
    )
    items = {item.name: item.bytes / GIGA for item in plan.memory[0].items if not item.how.startswith("rollout")}
    assert sum(items.values()) == near(gigabytes, 0.08)


def test_memory_of_full_fine_tuning_is_the_published_one() -> None:
    plan = planned("policy.lora=null", gpu="1000GB")
    held = {item.name: item.bytes / GIGA for item in plan.memory[0].items}
    total = sum(held[name] for name in ("weights", "fp32 masters", "gradients", "optimizer"))
    assert total == near(120.7, 0.01)


@pytest.mark.parametrize("num_gpus", [1, 4, 8])
def test_full_fine_tuning_needs_one_gpu_that_holds_it_all(num_gpus: int) -> None:
    """Training shards no weights, so more GPUs of one size do not help."""
    full = ("policy.lora=null", "policy.gradient_checkpointing=true")
    assert planned(*full, gpu="192GB", num_gpus=num_gpus).fits
    small = planned(*full, num_gpus=num_gpus)
    assert not small.fits
    assert small.change is not None
    assert any("policy.lora" in word for word in small.change.overrides)


@pytest.mark.parametrize("lora", [(), ("policy.lora=null",)])
def test_weights_are_not_sharded(lora: tuple[str, ...]) -> None:
    one, four = ({i.name: i.bytes for i in planned(*lora, num_gpus=n).memory[0].items} for n in (1, 4))
    assert one["weights"] == four["weights"]
    assert one["optimizer"] == four["optimizer"]
    assert one["KV cache"] == 4 * four["KV cache"]


def test_a_card_with_24_gb_is_too_small_until_the_change_is_made() -> None:
    assert planned().fits
    small = planned(gpu="24GB")
    assert not small.fits
    assert small.change is not None
    assert small.change.overrides == ("policy.gradient_checkpointing=true",)
    mended = planned(*small.change.overrides, gpu="24GB")
    assert mended.fits
    assert mended.memory[0].headroom == small.change.headroom
    assert "does not fit: " in plan_text(small)
    assert "--set policy.gradient_checkpointing=true" in plan_text(small)
    assert "fits: " in plan_text(mended)


@pytest.mark.parametrize(
    ("overrides", "gpu"),
    [
        (("policy.lora=null",), "80GB"),
        (("policy.lora=null", "ppo.micro_batch_size=64"), "40GB"),
        (("ppo.micro_batch_size=64", "suite.num_groups=1"), "20GB"),
        (("policy.lora=null", "policy.gradient_checkpointing=true"), "18.5GB"),
        (("critic.kind=adapter",), "24GB"),
    ],
)
def test_a_suggested_change_fits_when_pasted(overrides: tuple[str, ...], gpu: str) -> None:
    change = planned(*overrides, gpu=gpu).change
    assert change is not None
    assert planned(*overrides, *change.overrides, gpu=gpu, num_gpus=change.num_gpus or 1).fits
    assert change.words.count("--set") == len(change.overrides) > 0


def test_a_model_larger_than_the_card_has_no_change_that_helps() -> None:
    plan = planned(gpu="8GB")
    assert (plan.fits, plan.change) == (False, None)
    assert "no change that is known here makes it fit" in plan_text(plan)


def test_more_gpus_are_the_last_resort() -> None:
    overrides = ("policy.lora=null", "policy.gradient_checkpointing=true", "ppo.micro_batch_size=1")
    change = planned(*overrides, gpu="80GB").change
    assert change is not None
    assert (change.num_gpus, change.overrides) == (None, ("policy.lora.rank=32",))


def test_cloning_has_its_own_peak() -> None:
    overrides = ("imitation.batch_size=128", "imitation.updates=1000", "imitation.demonstrations=demos")
    plan = planned(*overrides)
    assert plan.memory[0].phase == "cloning"
    assert peak(plan) > 128 * 2.06
    assert not plan.fits


@pytest.mark.parametrize("kind", ["shared", "frozen", "adapter"])
def test_critics_differ_in_what_they_cost(kind: str) -> None:
    shared, plan = planned(), planned(f"critic.kind={kind}")
    reads_twice = plan.work.decision_flops > 1.9 * shared.work.decision_flops
    assert reads_twice == (kind != "shared")
    assert (plan.critic > 50 * MEGA) == (kind == "adapter")
    host = {item.name: item.bytes for item in plan.memory[1].items}
    assert host.get("critic features", 0) == (4096 * 4 * 4096 if kind == "frozen" else 0)
    assert plan.work.update_flops >= shared.work.update_flops
    kept = {item.name: item.bytes for item in plan.memory[0].items}["activations"]
    alone = {item.name: item.bytes for item in shared.memory[0].items}["activations"]
    assert kept == (2 if kind == "adapter" else 1) * alone


def test_a_libero_worker_holds_its_compiled_tasks() -> None:
    def simulators(*overrides: str) -> float:
        plan = planned(
            "suite.num_workers=4", "suite.num_envs=4", "suite.num_groups=1", "ppo.minibatch_size=64", *overrides
        )
        return next(item.bytes for item in plan.memory[1].items if item.name == "simulators") / 4

    assert simulators("suite.models_per_worker=1") == 1370 * 2**20
    assert simulators("suite.models_per_worker=3") == 1370 * 2**20 + 2 * 600 * MEGA
    assert simulators("suite.models_per_worker=8", "suite.tasks=[0, 1]") == 1370 * 2**20 + 600 * MEGA


# Properties

MICRO = st.sampled_from([1, 2, 4, 8, 16, 32, 64])
FLAGS = st.booleans()


def changed(recipe: Recipe, micro: int, groups: int, checkpointing: bool, vision: bool, full: bool) -> Recipe:
    policy: Any = recipe.policy
    lora = None if full else policy.lora.model_copy(update={"vision": vision})
    policy = policy.model_copy(update={"gradient_checkpointing": checkpointing, "lora": lora})
    ppo = recipe.ppo.model_copy(update={"micro_batch_size": micro})
    suite = recipe.suite.model_copy(update={"num_groups": groups})
    return recipe.model_copy(update={"policy": policy, "ppo": ppo, "suite": suite})


BASE = load_recipe(GOAL).recipe


@given(MICRO, MICRO, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), FLAGS, FLAGS, FLAGS)
def test_memory_grows_with_what_is_asked_for(
    micro: int, other: int, groups: int, gpus: int, checkpointing: bool, vision: bool, full: bool
) -> None:
    def total(*values: Any, num_gpus: int = gpus) -> int:
        return make_plan(changed(BASE, *values), named_machine("80GB", num_gpus), suggest=False).memory[0].peak

    few, many = sorted((micro, other))
    assert total(few, groups, checkpointing, vision, full) <= total(many, groups, checkpointing, vision, full)
    assert total(few, groups, True, vision, full) <= total(few, groups, False, vision, full)
    assert total(few, groups, checkpointing, False, full) <= total(few, groups, checkpointing, True, full)
    assert total(few, groups, checkpointing, vision, False) <= total(
        few, groups, checkpointing, vision, True, num_gpus=1
    )
    assert total(few, groups * 2, checkpointing, vision, full) <= total(few, groups, checkpointing, vision, full)


@given(st.integers(1, 64), st.integers(1, 256), st.integers(0, 40))
def test_every_plan_is_plain_json(epochs: int, iterations: int, warmup: int) -> None:
    ppo = BASE.ppo.model_copy(update={"epochs": epochs})
    train = BASE.train.model_copy(update={"iterations": iterations, "critic_warmup": warmup})
    plan = make_plan(BASE.model_copy(update={"ppo": ppo, "train": train}), named_machine("80GB", 1))
    data = json.loads(json.dumps(plan.as_data(), allow_nan=False))
    assert data["digest"] == plan.digest
    assert all(row["seconds"] >= 0 and math.isfinite(row["seconds"]) for row in data["time"])
    assert plan.work.updates == max(0, iterations - warmup) * plan.work.updates_per_iteration
    assert plan_text(plan).endswith("\n")


# Checkpoints, machines, time


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of two shards without data: their headers say what there would be."""
    widths = {"featurizer": 8, "fused_featurizer": 6}
    shapes: dict[str, list[int]] = {"language_model.lm_head.weight": [384, 16], "projector.fc1.weight": [56, 14]}
    shapes |= {"projector.fc1.bias": [56], "projector.fc2.weight": [16, 56], "projector.fc3.weight": [16, 16]}
    for name, width in widths.items():
        prefix = f"vision_backbone.{name}"
        shapes |= {f"{prefix}.patch_embed.proj.weight": [width, 3, 14, 14], f"{prefix}.pos_embed": [1, 4, width]}
        shapes |= {f"{prefix}.blocks.{i}.mlp.fc1.weight": [4 * width, width] for i in range(3)}
    for i in range(2):
        layer = f"language_model.model.layers.{i}"
        shapes |= {f"{layer}.mlp.gate_proj.weight": [40, 16], f"{layer}.self_attn.k_proj.weight": [16, 16]}
    names, files = sorted(shapes), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for file, part in zip(files, (names[::2], names[1::2]), strict=True):
        header = {name: {"dtype": "BF16", "shape": shapes[name], "data_offsets": [0, 0]} for name in part}
        text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
        (tmp_path / file).write_bytes(len(text).to_bytes(8, "little") + text)
    weight_map = {name: files[i % 2] for i, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps({"norm_stats": {"libero_spatial": {}}}))
    return tmp_path


def test_sizes_are_read_from_headers(folder: Path) -> None:
    found = read_checkpoint(folder)
    towers = found.sizes.towers
    assert (found.sizes.language.width, found.sizes.language.depth, found.sizes.language.mlp) == (16, 2, 40)
    assert {name: (tower.width, tower.depth) for name, tower in towers.items()} == {"DINOv2": (8, 3), "SigLIP": (6, 3)}
    assert found.statistics == ("libero_spatial",)
    plan = planned(f"policy.checkpoint={folder}", gpu="1GB")
    assert plan.fits
    assert sum(part.parameters for part in plan.parts) < MEGA
    assert plan.disk.asset == found.bytes
    assert plan.warnings == ("the checkpoint has no statistics for libero_goal; it has libero_spatial",)


@pytest.mark.parametrize("damage", ["cut", "no config", "no shard", "other model"])
def test_a_damaged_checkpoint_is_an_asset_error(folder: Path, damage: str) -> None:
    shard = folder / "model-00001-of-00002.safetensors"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:40])
    elif damage == "no config":
        (folder / "config.json").unlink()
    elif damage == "no shard":
        shard.unlink()
    else:
        text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard.name}}))
        shard.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(AssetError) as caught:
        planned(f"policy.checkpoint={folder}")
    assert caught.value.code == "R300"
    assert str(folder) in str(caught.value.place)


@pytest.mark.parametrize(
    ("text", "size"), [("80GB", 80e9), ("24", 24e9), ("79.5 GiB", 79.5 * 2**30), ("24564MiB", 24564 * 2**20)]
)
def test_sizes_of_memory(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0GB", "-1GB", "80 apples", "GB", "1e3GB"])
def test_what_is_no_size_of_memory(text: str) -> None:
    with pytest.raises(UsageError, match="not a size of memory"):
        parse_size(text)


def test_memory_of_the_host_is_that_of_its_container(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal:       1000 kB\nMemFree:  1 kB\n")
    assert host_memory(meminfo, limit) == 1024000
    limit.write_text("4096\n")
    assert host_memory(meminfo, limit) == 4096
    limit.write_text("max\n")
    assert host_memory(meminfo, limit) == 1024000
    assert host_memory(tmp_path / "absent", tmp_path / "absent") is None


def test_on_a_cpu_everything_shares_one_memory() -> None:
    machine = Machine(device="cpu", num_gpus=0, gpu_bytes=None, gpu_name=None, host_bytes=24 * 10**9, origin="a test")
    (host,) = make_plan(load_recipe(shipped_recipes()["quickstart"]).recipe, machine).memory
    assert {"trainer", "simulators", "activations"} <= {item.name for item in host.items}
    assert host.fits
    plan = make_plan(goal("policy.device=cpu"), named_machine("80GB", 1))
    assert [memory.where for memory in plan.memory] == ["host"]
    assert "`--gpu` is not used" in plan.warnings[0]
    assert "policy `tiny`" in make_plan(Recipe(), named_machine("80GB", 1)).warnings[0]
    assert not make_plan(Recipe(), machine).warnings


def test_the_quickstart_takes_as_long_as_it_was_measured_to() -> None:
    """1.7 s deciding and 3.0 s updating an iteration, on two cores."""
    plan = make_plan(load_recipe(shipped_recipes()["quickstart"]).recipe, named_machine("80GB", 1))
    seconds = {row.what: row.seconds for row in plan.time}
    assert seconds["rollout"] == near(1.7, 0.15)
    assert seconds["update"] == near(3.0, 0.15)


def test_the_horizons_are_the_suites_own() -> None:
    tabletop = importlib.import_module("vlarl.suites.tabletop.tasks")
    longest = {name: max(row.horizon for row in rows) for name, rows in tabletop.SUITES.items()}
    install = importlib.import_module("vlarl.suites.libero.install")
    assert {**longest, **install.HORIZONS} == HORIZONS


def test_durations() -> None:
    shown = [duration(seconds) for seconds in (1.66, 119.0, 720.0, 26000.0, 267840.0)]
    assert shown == ["1.66 s", "119 s", "12.0 min", "7.2 h", "3.1 days"]


def test_the_digest_is_of_the_numbers(folder: Path) -> None:
    assert planned().digest == planned().digest
    assert planned().digest != planned(gpu="40GB").digest
    assert planned().digest != planned("seed=8").digest


# The command


class Done:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Done:
        with pytest.raises(SystemExit) as caught:
            cli.main(["plan", *words])
        return Done(int(caught.value.code or 0), *capsys.readouterr())

    return run


@pytest.mark.parametrize(("gpu", "verdict"), [("80GB", "fits: "), ("24GB", "does not fit: ")])
def test_a_verdict_is_an_answer_not_a_failure(run_plan: Any, gpu: str, verdict: str) -> None:
    done = run_plan("libero_goal", "--gpu", gpu)
    assert (done.status, done.err) == (Exit.OK, "")
    assert re.search(f"^{verdict}", done.out, re.MULTILINE)
    document = json.loads(run_plan("libero_goal", "--gpu", gpu, "--json").out)
    assert (document["schema"], document["ok"]) == ("vlarl.plan/1", True)
    assert document["plan"]["fits"] is (gpu == "80GB")
    assert document["plan"]["parameters"] == 7_498_156_704
    assert document["plan"]["machine"]["gpu_bytes"] == int(gpu[:2]) * 10**9


def test_a_plan_can_be_kept(run_plan: Any) -> None:
    done = run_plan("libero_goal", "--gpu", "80GB", "--num-gpus", "2", "--set", "seed=3", "--out", "plans/a.json")
    assert done.status == Exit.OK
    stored = json.loads(Path("plans/a.json").read_text())
    again = make_plan(goal("seed=3"), named_machine("80GB", 2))
    assert (stored["digest"], stored["recipe_digest"]) == (again.digest, again.recipe_digest)


def test_this_machine_is_planned_for_when_none_is_named(
    run_plan: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run_plan("quickstart", "--json")
    assert json.loads(done.out)["plan"]["machine"]["device"] == "cpu"
    assert run_plan("libero_goal", "--num-gpus", "2").status == Exit.USAGE
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\necho 'NVIDIA H100 80GB HBM3, 81559'\n")
    smi.chmod(0o755)
    machine = json.loads(run_plan("libero_goal", "--json").out)["plan"]["machine"]
    assert (machine["num_gpus"], machine["gpu_bytes"]) == (2, 81559 * 2**20)
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert json.loads(run_plan("libero_goal", "--json").out)["plan"]["machine"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("libero_goal", "--gpu", "large"), Exit.USAGE),
        (("libero_goal", "--gpu", "80GB", "--num-gpus", "0"), Exit.USAGE),
        (("libero_gaol",), Exit.USAGE),
        (("none.yaml",), Exit.RECIPE),
        (("libero_goal", "--set", "ppo.clpi=1"), Exit.RECIPE),
    ],
)
def test_what_cannot_be_planned_fails_as_elsewhere(run_plan: Any, words: tuple[str, ...], status: int) -> None:
    done = run_plan(*words)
    assert (done.status, done.out) == (status, "")
    assert "Traceback" not in done.err


def test_the_documents_show_what_is_printed() -> None:
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    block = re.search(
        r"^```\nvlarl plan recipes/libero_goal.yaml --gpu 24GB\n```\n+```text\n(.*?)^```", text, re.M | re.S
    )
    assert block is not None
    # The first line holds the recipe's hash, which every new field of the recipe language changes.
    assert block[1].splitlines()[1:] == plan_text(planned(gpu="24GB")).splitlines()[1:]


# OpenVLA-OFT: every token of a chunk from one forward


def test_a_chunk_costs_a_prefill_and_its_columns() -> None:
    """A forward of 1 + 256 + 32 + 7 x 8 + 1 = 346 columns; nothing is cached and nothing decoded step by step."""
    plain, chunked = planned(), planned(*OFT)
    assert chunked.prompt_tokens == plain.prompt_tokens == 289
    per_column = 2 * PUBLISHED.language.layers
    more = 57 * per_column
    assert plain.work.chunk == 1
    assert chunked.work.chunk == 8
    own = chunked.work.decision_flops
    before = openvla_costs(PUBLISHED, adapters=None, checkpointing=False, text_tokens=32).prompt_flops
    assert own - before == near(more, 0.02)  # the rest is attention
    names = {item.name for item in chunked.memory[0].items}
    assert "KV cache" not in names
    assert "KV cache" in {item.name for item in plain.memory[0].items}


def test_a_chunk_multiplies_env_steps_and_not_updates() -> None:
    plain, chunked = planned().work, planned(*OFT).work
    assert chunked.rollout_steps == 8 * plain.rollout_steps
    assert chunked.env_steps == 8 * plain.env_steps
    assert chunked.updates == plain.updates
    assert chunked.evaluation_episodes == plain.evaluation_episodes
    text = plan_text(planned(*OFT))
    assert "a decision for 8 env steps" in text
    assert "56 positions x 256 rows" in json.dumps(planned(*OFT).as_data())


def test_a_chunk_of_one_is_still_one_forward() -> None:
    one = planned(*OFT, "policy.chunk=1")
    assert one.work.env_steps == planned().work.env_steps
    assert "KV cache" not in {item.name for item in one.memory[0].items}


@pytest.mark.parametrize(
    ("gpus", "envs", "wanted", "simulators"), [(1, 32, 32, 16), (4, 32, 16, 16), (8, 32, 16, 16), (4, 64, 32, 32)]
)
def test_no_simulator_is_counted_that_has_no_slot_of_each_group(
    gpus: int, envs: int, wanted: int, simulators: int
) -> None:
    recipe = load_recipe(
        shipped_recipes()["libero_goal"], [f"suite.num_envs={envs}", f"suite.num_workers={wanted}"]
    ).recipe
    plan = make_plan(recipe, named_machine("80GB", gpus), suggest=False)
    rollout = next(time.how for time in plan.time if time.what == "rollout")
    assert f"on {simulators} cores" in rollout
    (host,) = [memory for memory in plan.memory if memory.where == "host"]
    notes = {item.name: item.how for item in host.items}
    assert notes["simulators"].startswith(f"{simulators} workers")
