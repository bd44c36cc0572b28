"""The Qwen-VL reward model on small random checkpoints: what it reads, what it trains, what it keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build_trajectories import SIDE, trajectory, two_tasks
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from small_qwen import write_checkpoint
from vlarl import cli
from vlarl.digest import file_digest
from vlarl.errors import Exit
from vlarl.prm.dataset import open_labels
from vlarl.prm.folder import load_reward_model, probabilities
from vlarl.prm.label import label_segments
from vlarl.prm.protocol import Views
from vlarl.prm.qwen_base import Pictures, open_base
from vlarl.prm.qwen_vl import QwenVlRewardModel
from vlarl.prm.training import Trained, train_prm
from vlarl.recipe.load import load_recipe, parse_recipe
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.prm import QwenVlPrmSpec
from vlarl.run.events import read_events
from vlarl.train import train

TEXTS = ("pick up the red cube", "pick up the small green cube and place it on the yellow plate")
TOLERANCE = 2e-6  # measured in fp32: 2e-7
FAMILY = ("qwen2_vl", "qwen2_5_vl")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: write_checkpoint(folder / kind, model_type=kind) for kind in FAMILY}


def model(base: Path, *, seed: int = 0, **knobs: Any) -> QwenVlRewardModel:
    spec = QwenVlPrmSpec(checkpoint=str(base), **{"dtype": "float32", "device": "cpu", **knobs})
    return QwenVlRewardModel(spec, image_size=SIDE, seed=seed)


def moved(judge: QwenVlRewardModel) -> QwenVlRewardModel:
    """With adapters that are not at their start, so that they matter."""
    random = torch.Generator().manual_seed(5)
    judge.load_state_dict({n: 0.3 * torch.randn(w.shape, generator=random) for n, w in judge.state_dict().items()})
    return judge


def views(count: int, *, previous: bool = False) -> Views:
    images = np.random.default_rng(0).integers(0, 256, (2, count, SIDE, SIDE, 3), dtype=np.uint8)
    return Views(
        images=images[0],
        previous=images[1] if previous else None,
        instructions=[TEXTS[i % len(TEXTS)] for i in range(count)],
    )


@pytest.mark.parametrize("previous_frame", [0, 3])
@pytest.mark.parametrize("kind", FAMILY)
def test_batches_and_padding_change_no_score(kind: str, previous_frame: int, bases: dict[str, Path]) -> None:
    judge, some = moved(model(bases[kind], previous_frame=previous_frame)), views(5, previous=previous_frame > 0)
    together, one_by_one = probabilities(judge, some, 5), probabilities(judge, some, 1)
    assert np.ptp(together) > 1e-2
    np.testing.assert_allclose(together, one_by_one, atol=TOLERANCE)


@pytest.mark.parametrize("kind", FAMILY)
def test_each_answer_is_what_the_base_says_when_it_is_asked_that_question_alone(
    kind: str, bases: dict[str, Path]
) -> None:
    """The plain forward of transformers, with its own mask and positions, on the prompt written out by hand."""
    base, some = open_base(str(bases[kind])), views(1)
    patches, grid = Pictures(base).patches(some.images)
    assert grid.tolist() == [[1, 4, 4]], "32 pixels become the least that the image processor allows"
    found = probabilities(model(bases[kind]), some, 1)[0]
    network = AutoModelForImageTextToText.from_pretrained(bases[kind], attn_implementation="eager")
    questions = (", is the robot about to complete a step of it?", ", is it completed?")
    for question, answer in zip(questions, found, strict=True):
        text = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            f"<|vision_start|>{'<|image_pad|>' * 4}<|vision_end|>The task is {TEXTS[0]}"
        )
        pieces = (text, f"{question}<|im_end|>\n<|im_start|>assistant\n")
        ids = torch.tensor([[i for piece in pieces for i in base.tokenizer.encode(piece).ids]])
        with torch.no_grad():
            logits = network(
                input_ids=ids,
                mm_token_type_ids=(ids == network.config.image_token_id).int(),
                pixel_values=torch.from_numpy(patches),
                image_grid_thw=torch.from_numpy(grid),
            ).logits[0, -1]
        no, yes = (base.tokenizer.token_to_id(word) for word in "01")
        assert float(logits[[no, yes]].softmax(0)[1]) == pytest.approx(float(answer), abs=TOLERANCE)


def test_pictures_and_instruction_all_count(bases: dict[str, Path]) -> None:
    some, judge = views(2, previous=True), moved(model(bases["qwen2_vl"], previous_frame=1))
    assert some.previous is not None
    scores = probabilities(judge, some, 2)
    for changed in (
        Views(images=some.images, previous=some.previous, instructions=some.instructions[::-1]),
        Views(images=some.images[::-1].copy(), previous=some.previous, instructions=some.instructions),
        Views(images=some.images, previous=some.previous[::-1].copy(), instructions=some.instructions),
    ):
        assert np.abs(probabilities(judge, changed, 2) - scores).min() > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("knobs", "present", "absent"),
    [
        ({}, ("q_proj", "down_proj"), ("visual", "lm_head")),
        ({"lora": {"vision": True}}, ("q_proj", "visual"), ("lm_head",)),
        ({"lora": {"targets": ["v_proj"]}}, ("v_proj",), ("q_proj", "visual", "lm_head")),
    ],
)
def test_adapters_alone_are_trained_on_the_layers_that_the_recipe_names(
    knobs: dict[str, Any], present: tuple[str, ...], absent: tuple[str, ...], bases: dict[str, Path]
) -> None:
    judge = model(bases["qwen2_vl"], **{name: _lora(value) for name, value in knobs.items()})
    names = list(judge.state_dict())
    for word in present:
        assert any(word in name for name in names), word
    for word in absent:
        assert not any(word in name for name in names), word
    judge.train()
    judge.answer_logits(views(2)).square().sum().backward()
    trained = {id(parameter) for parameter in judge.parameters()}
    for name, parameter in judge._network.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained), name


def _lora(values: dict[str, Any]) -> Any:
    from vlarl.recipe.specs.policies import LoraSpec

    return LoraSpec(**{"vision": False, **values})


def test_recomputation_changes_no_gradient(bases: dict[str, Path]) -> None:
    gradients = []
    for recompute in (True, False):
        judge = moved(model(bases["qwen2_vl"], gradient_checkpointing=recompute))
        judge.train()
        judge.answer_logits(views(3)).square().sum().backward()
        gradients.append([weight.grad for weight in judge.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_bfloat16_keeps_its_adapters_in_fp32(bases: dict[str, Path]) -> None:
    judge, exact = (moved(model(bases["qwen2_vl"], dtype=dtype)) for dtype in ("bfloat16", "float32"))
    assert {weight.dtype for weight in judge.parameters()} == {torch.float32}
    scores = probabilities(judge, views(4), 4)
    assert 0 < np.abs(scores - probabilities(exact, views(4), 4)).max() < 0.05


def recipe(base: Path, *knobs: str) -> Recipe:
    return parse_recipe(
        "",
        [
            "labels.positive_window=3",
            "labels.far_distance=6",
            "train.torch_threads=1",
            f"prm={{kind: qwen_vl, checkpoint: {base}, dtype: float32, device: cpu}}",
            "prm.lora={rank: 8, alpha: 16, vision: true}",
            "prm.training={updates: 60, batch_size: 32, lr: 3e-3, warmup_updates: 5, bootstrap: 5, holdout: 0.25}",
            *knobs,
        ],
    ).recipe


@pytest.fixture(scope="module")
def made(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, list[float]]:
    folder = tmp_path_factory.mktemp("prm")
    (folder / "demos").mkdir()
    wanted = recipe(bases["qwen2_vl"])
    label_segments(wanted, folder / "labels", demonstrations=[two_tasks(folder / "demos", failures=1)])
    losses: list[float] = []
    done = train_prm(wanted, folder / "labels", folder / "prm", progress=lambda update, loss: losses.append(loss))
    return done, losses


def test_it_learns_and_its_card_names_the_base(made: tuple[Trained, list[float]], bases: dict[str, Path]) -> None:
    done, losses = made
    # Soft targets of the progress leave a loss of about 0.5 to the best of models.
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10]), losses
    assert done.card["held_out"]["auc"]["value"] > 0.75
    base = open_base(str(bases["qwen2_vl"]))
    assert done.card["base"] == {"name": "qwen2_vl", "sha256": base.digest}
    assert f"Adapters on `qwen2_vl`, `{base.digest[:12]}`" in (done.folder / "card.md").read_text()


def test_the_folder_holds_adapters_and_no_copy_of_the_base(
    made: tuple[Trained, list[float]], bases: dict[str, Path]
) -> None:
    done, _ = made
    weights = load_file(done.folder / "model.safetensors")
    assert weights
    assert all(".lora_A." in name or ".lora_B." in name for name in weights)
    assert {path.suffix for path in done.folder.iterdir()} == {".safetensors", ".json", ".md", ""}
    config = (done.folder / "config.json").read_text()
    assert str(bases["qwen2_vl"]) not in config, "where the base lies is no part of the model"
    assert json.loads(config)["base"] == open_base(str(bases["qwen2_vl"])).digest


def test_a_reload_answers_the_same_to_the_bit(made: tuple[Trained, list[float]], bases: dict[str, Path]) -> None:
    done, _ = made
    some = trajectory()
    frozen = load_reward_model(done.folder)
    assert frozen.digest == done.digest
    assert not any(weight.requires_grad for weight in frozen.model.parameters())
    judge = model(bases["qwen2_vl"], lora=_lora({"rank": 8, "alpha": 16, "vision": True}), seed=9)
    judge.load_state_dict(load_file(done.folder / "model.safetensors"))
    asked = [some.instruction] * 24
    answers = frozen.answers(some.images, None, asked, 7)
    again = probabilities(judge, Views(images=some.images, previous=None, instructions=asked), 7)
    assert np.array_equal(answers["promise"], again[:, 0])
    assert np.array_equal(answers["progress"], again[:, 1])


@pytest.mark.slow
def test_the_same_labels_and_seed_give_the_same_adapters(
    made: tuple[Trained, list[float]], bases: dict[str, Path], tmp_path: Path
) -> None:
    labels, short = made[0].folder.parent / "labels", ("prm.training.updates=6", "prm.training.bootstrap=0")
    digests = [
        train_prm(recipe(bases["qwen2_vl"], *short, f"seed={seed}"), labels, tmp_path / name).digest
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_micro_batches_add_up_to_the_batch(made: tuple[Trained, list[float]], bases: dict[str, Path]) -> None:
    from vlarl.prm.training import Frames, _backward

    labels = open_labels(made[0].folder.parent / "labels")
    found = []
    for size in (None, 5):
        judge = moved(model(bases["qwen2_vl"]))
        spec = recipe(bases["qwen2_vl"]).prm.training.model_copy(update={"micro_batch_size": size})  # type: ignore[attr-defined]
        with labels.frames() as reader:
            rows = np.linspace(0, len(labels.examples) - 1, 16).astype(int)
            loss = _backward(judge, Frames(labels, reader, 0), labels.examples.take(rows), spec)
        found.append((loss, [weight.grad for weight in judge.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for whole, parts in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-6)


def test_a_base_that_moved_is_found_by_its_new_place(
    made: tuple[Trained, list[float]], bases: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    done, _ = made
    shutil.copytree(done.folder, tmp_path / "prm")
    shutil.copytree(bases["qwen2_vl"], tmp_path / "elsewhere")
    (tmp_path / "prm" / "base.json").write_text(json.dumps({"checkpoint": str(tmp_path / "elsewhere")}))
    assert load_reward_model(tmp_path / "prm").digest == done.digest


def without_head(folder: Path) -> None:
    weights = {
        name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if "lm_head" not in name
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def of_text_alone(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}')


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def of_other_patches(folder: Path) -> None:
    found = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**found, "patch_size": 16}))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "code", "status", "word"),
    [
        (of_text_alone, "R395", Exit.ENVIRONMENT, "without an image-text head of the Qwen-VL family: Qwen2ForCausalLM"),
        (without_head, "R395", Exit.ENVIRONMENT, "without an image-text head, whose weights lack lm_head.weight"),
        (without("config.json"), "R370", Exit.ENVIRONMENT, "no config.json"),
        (without("tokenizer.json"), "R370", Exit.ENVIRONMENT, "no tokenizer.json"),
        (without("preprocessor_config.json"), "R370", Exit.ENVIRONMENT, "no preprocessor_config.json"),
        (without("model.safetensors"), "R370", Exit.ENVIRONMENT, "neither model.safetensors nor"),
        (pickled, "R371", Exit.ENVIRONMENT, "never opens"),
        (cut_short, "R372", Exit.ENVIRONMENT, "damaged"),
        (of_other_patches, "R382", Exit.ENVIRONMENT, "patch_size is 16, the network has 14"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "R383", Exit.ENVIRONMENT, "tokenizer.json"),
    ],
)
def test_a_checkpoint_that_does_not_serve_is_one_message(
    damage: Callable[[Path], None],
    code: str,
    status: Exit,
    word: str,
    made: tuple[Trained, list[float]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(write_checkpoint(tmp_path / "base"))
    ended = train_by_command(tmp_path, made, f"prm.checkpoint={tmp_path / 'base'}")
    err = capsys.readouterr().err
    assert (ended, err.count("error[")) == (int(status), 1), err
    assert f"error[{code}]" in err
    assert word in " ".join(err.split())
    assert not (tmp_path / "prm").exists()


@pytest.mark.parametrize(
    ("knob", "code"),
    [
        ("prm.checkpoint=hf://Qwen", "R222"),
        ("prm.lora.targets=[qkv_proj]", "R218"),
        ("prm.positive_answer='yes it is'", "R383"),
        ("prm.positive_answer='0'", "R383"),
    ],
)
def test_a_recipe_that_does_not_fit_the_checkpoint_is_one_message(
    knob: str,
    code: str,
    bases: dict[str, Path],
    made: tuple[Trained, list[float]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = train_by_command(tmp_path, made, f"prm.checkpoint={bases['qwen2_vl']}", knob)
    err = capsys.readouterr().err
    assert (ended, err.count("error[")) == (int(Exit.RECIPE), 1), err
    assert f"error[{code}]" in err


def train_by_command(folder: Path, made: tuple[Trained, list[float]], *knobs: str) -> int | str | None:
    (folder / "recipe.yaml").write_text(
        "labels: {positive_window: 3, far_distance: 6}\nprm: {kind: qwen_vl, checkpoint: nowhere, dtype: float32}\n"
    )
    words = ["train-prm", str(folder / "recipe.yaml"), "--labels", str(made[0].folder.parent / "labels")]
    words += ["--out", str(folder / "prm"), *[word for knob in knobs for word in ("--set", knob)]]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    return ended.value.code


def test_another_base_is_refused(
    made: tuple[Trained, list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(made[0].folder, tmp_path / "prm")
    other = write_checkpoint(tmp_path / "other", seed=1)
    before = file_digest(tmp_path / "prm" / "config.json")
    (tmp_path / "prm" / "base.json").write_text(json.dumps({"checkpoint": str(other)}))
    (tmp_path / "run.yaml").write_text(
        f"suite: {{kind: tabletop, tasks: [reach_red], image_size: {SIDE}, num_envs: 2}}\nimitation: null\n"
        f"ppo: {{minibatch_size: 8}}\nrewards: [{{kind: success}}, {{kind: process, model: {tmp_path / 'prm'}}}]\n"
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(tmp_path / "run.yaml")])
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("error[")) == (int(Exit.ENVIRONMENT), 1), err
    assert "error[R377]" in err
    assert before == file_digest(tmp_path / "prm" / "config.json")


@pytest.mark.parametrize(
    "knobs",
    [
        {"transformers_weights": "other.safetensors"},
        {"transformers_weights": "adapter_model.bin"},
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"auto_map": {"AutoModelForImageTextToText": "evil.Model"}},
        {"text_config": {"_attn_implementation": "kernels-community/flash-attn"}},
    ],
)
def test_a_configuration_chooses_no_other_files_and_no_code(
    knobs: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    """Its own weights and arithmetic are used: the answers are those of the folder without the knob."""
    folder = tmp_path / "base"
    shutil.copytree(bases["qwen2_vl"], folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in knobs.items():
        config[key] = {**config.get(key, {}), **value} if key == "text_config" else value
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, folder / "other.safetensors")
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    (folder / "evil.py").write_text("raise SystemExit(9)")
    some = views(2)
    expected = probabilities(moved(model(bases["qwen2_vl"])), some, 2)
    assert np.array_equal(probabilities(moved(model(folder)), some, 2), expected)


def test_it_rewards_a_run(made: tuple[Trained, list[float]], tmp_path: Path) -> None:
    reward = f"{{kind: process, model: {made[0].folder}, every: 4, between: interpolate, device: cpu, batch_size: 8}}"
    (tmp_path / "run.yaml").write_text(
        f"suite: {{kind: tabletop, tasks: [reach_red], image_size: {SIDE}, num_envs: 2, num_workers: 1}}\n"
        "policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}\n"
        "imitation: null\nppo: {minibatch_size: 8}\n"
        "train: {iterations: 1, critic_warmup: 0, torch_threads: 1, rollout: {kind: steps, num_steps: 8}}\n"
        f"evaluation: {{every: 1, episodes: 1, videos: false}}\nrewards: [{{kind: success}}, {reward}]\n"
    )
    result = train(load_recipe(tmp_path / "run.yaml"), command=["test"], run_folder=tmp_path / "runs")
    first = json.loads(result.run.manifest.read_text())["start"]
    assert first["reward_models"] == {"process": made[0].digest}
    [event] = [each for each in read_events(result.run.events) if each["kind"] == "iteration"]
    assert event["reward"]["process"] != 0.0
    assert event["ledger"]["score_seconds"] > 0.0
