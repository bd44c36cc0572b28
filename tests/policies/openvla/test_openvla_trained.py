"""Trained weights as others load them: merged tensors, and adapters read by peft itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from builders import observation
from small_openvla import VISION_HEADS, Small, write_checkpoint
from vlarl.errors import AssetError
from vlarl.policies.openvla.checkpoint import export_checkpoint, read_tensor
from vlarl.policies.openvla.layout import Layout, read_layout
from vlarl.policies.openvla.policy import OpenVlaPolicy
from vlarl.policies.openvla.trained import ADAPTER_CONFIG, adapted_layers, merged, write_adapter
from vlarl.recipe.specs.policies import LoraSpec, OpenVlaSpec
from vlarl.types import Observation, SuiteFacts

LORA = LoraSpec(rank=4, alpha=8)
SMALL = {"hidden": 64, "vision_width": 32, "vocabulary": "small"}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    folder = tmp_path_factory.mktemp("base") / "small"
    write_checkpoint(folder, Small(**SMALL, dtype=request.param))
    return read_layout(folder)


def make_policy(folder: Path, *, trained: bool = True, **knobs: Any) -> OpenVlaPolicy:
    values = {"vision_heads": VISION_HEADS, "dtype": "float32", "device": "cpu", "images": "plain", **knobs}
    suite = SuiteFacts("tabletop_basic", 64)
    return OpenVlaPolicy(OpenVlaSpec(checkpoint=str(folder), **values), suite=suite, seed=1, trained=trained)


def as_trained(base: Layout) -> OpenVlaPolicy:
    """With adapters that change its features about as much as the picture does."""
    policy = make_policy(base.folder, lora=LORA)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in policy.adapters.weights("policy").items():
            if ".lora_B" in name:
                weight.add_(0.1 * torch.randn(weight.shape, generator=random))
    return policy


def features(policy: OpenVlaPolicy) -> Tensor:
    given: Observation = observation(6, image_size=64)
    with torch.no_grad():
        return policy.features(policy.prepare(given))


def largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def test_merged_weights_give_the_features_of_the_adapters(base: Layout, tmp_path: Path) -> None:
    policy = as_trained(base)
    out = export_checkpoint(tmp_path / "out", base, merged(base, policy.state_dict(), LORA))
    adapted, plain = features(policy), features(make_policy(base.folder, lora=None, trained=False))
    found = features(make_policy(out, lora=None, trained=False))
    assert largest(adapted, plain) > 0.5
    # Of features up to 3: measured 2e-6 stored in float32, and 0.02 where the sums are rounded to bfloat16.
    tolerance = 2e-5 if base.tensors["projector.fc1.weight"].dtype == "F32" else 0.06
    assert 0 < largest(found, adapted) < tolerance


def test_in_bfloat16_merging_errs_as_much_as_the_arithmetic(base: Layout, tmp_path: Path) -> None:
    exact = as_trained(base)
    out = export_checkpoint(tmp_path / "out", base, merged(base, exact.state_dict(), LORA))
    rounded = make_policy(base.folder, lora=LORA, dtype="bfloat16")
    rounded.load_state_dict(exact.state_dict())
    found = features(make_policy(out, lora=None, trained=False, dtype="bfloat16"))
    # Measured 0.05 between the two, and 0.03 to 0.04 between one of them and float32.
    assert largest(features(rounded), features(exact)) > 0.01
    assert largest(found, features(rounded)) < 0.15


def test_peft_loads_the_adapters_onto_the_same_base(base: Layout, tmp_path: Path) -> None:
    policy = as_trained(base)
    out = write_adapter(tmp_path / "out", policy.state_dict(), LORA, source=base, reference=str(base.folder))
    other = make_policy(base.folder, lora=None, trained=False)
    before = features(other)
    loaded = PeftModel.from_pretrained(other.model, out)
    assert loaded.peft_config["default"].base_model_name_or_path == str(base.folder)
    assert largest(features(other), before) > 0.5
    assert torch.equal(features(other), features(policy))


def test_the_files_of_an_adapter(base: Layout, tmp_path: Path) -> None:
    state = as_trained(base).state_dict()
    commit = "0" * 40
    for name in ("one", "two"):
        write_adapter(tmp_path / name, state, LORA, source=base, reference=f"hf://openvla/openvla-7b@{commit}")
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert sorted(one) == ["adapter_config.json", "adapter_model.safetensors", "dataset_statistics.json"]
    tensors = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight" in tensors
    assert {name.removeprefix("base_model.model.") for name in tensors} == set(state)
    described = json.loads(one[ADAPTER_CONFIG])
    assert (described["base_model_name_or_path"], described["revision"]) == ("openvla/openvla-7b", commit)
    assert (described["r"], described["lora_alpha"]) == (4, 8)
    assert described["target_modules"] == adapted_layers(state)
    assert json.loads(one["dataset_statistics.json"]) == base.statistics


def test_adapters_that_are_still_zero_change_no_byte(base: Layout, tmp_path: Path) -> None:
    state = make_policy(base.folder, lora=LORA).state_dict()
    assert list(merged(base, state, LORA)) == []
    state["projector.fc1.lora_B.weight"] = torch.ones_like(state["projector.fc1.lora_B.weight"])
    [(name, weight)] = merged(base, state, LORA)
    assert name == "projector.fc1.weight"
    up, down = state["projector.fc1.lora_B.weight"], state["projector.fc1.lora_A.weight"]
    torch.testing.assert_close(weight, read_tensor(base.tensors[name]).float() + 2 * up @ down)


def test_merging_leaves_the_base_as_it_was(base: Layout, tmp_path: Path) -> None:
    digest, policy = base.digest(), as_trained(base)
    before = features(policy)
    export_checkpoint(tmp_path / "out", base, merged(base, policy.state_dict(), LORA))
    assert torch.equal(features(policy), before)
    assert read_layout(base.folder).digest() == digest != read_layout(tmp_path / "out").digest()


def test_an_adapter_that_exists_is_left_alone_and_one_that_fails_leaves_nothing(
    base: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_policy(base.folder, lora=LORA).state_dict()
    (tmp_path / "there").mkdir()
    with pytest.raises(AssetError) as caught:
        write_adapter(tmp_path / "there", state, LORA, source=base, reference="x")
    assert caught.value.code == "R375"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vlarl.policies.openvla.trained.publish_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_adapter(tmp_path / "out", state, LORA, source=base, reference="x")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_policy_that_only_acts_is_in_memory_once(base: Layout) -> None:
    acting = make_policy(base.folder, lora=None, trained=False, dtype="bfloat16")
    assert {parameter.dtype for parameter in acting.model.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in acting.model.parameters())
    assert acting.state_dict() == {}
    assert acting.trainable_groups() == {}
    learning = make_policy(base.folder, lora=None)
    assert {parameter.dtype for parameter in learning.model.parameters()} == {torch.float32}
    assert largest(features(acting), features(learning)) < 0.1  # measured 0.025
