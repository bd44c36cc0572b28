"""The tiny reward model: what it looks at, how it learns, and its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from build_trajectories import SIDE, trajectory, two_tasks, write
from safetensors.torch import load_file, save_file

from vlarl.digest import file_digest, json_digest
from vlarl.errors import AssetError, Exit, RecipeError
from vlarl.prm.dataset import open_labels
from vlarl.prm.folder import FrozenRewardModel, Meaning, check_meaning, load_reward_model, probabilities
from vlarl.prm.label import label_segments
from vlarl.prm.protocol import Views
from vlarl.prm.tiny_model import TinyRewardModel, _attention
from vlarl.prm.training import Trained, hold_out, train_prm
from vlarl.recipe.load import parse_recipe
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.prm import TinyPrmSpec

SMALL = (
    "labels.positive_window=3",
    "labels.far_distance=6",
    "train.torch_threads=1",
    "prm.hidden_size=32",
    "prm.num_layers=1",
    "prm.num_heads=2",
    "prm.num_keypoints=8",
    "prm.training.updates=120",
    "prm.training.warmup_updates=5",
    "prm.training.lr=3e-3",
    "prm.training.bootstrap=20",
    "prm.training.holdout=0.25",
)
TEXTS = ("pick up the red cube", "pick up the small green cube and place it on the yellow plate")


def recipe(*knobs: str) -> Recipe:
    return parse_recipe("", [*SMALL, *knobs]).recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Labels of two made-up tasks and a model trained on them, in one folder."""
    folder = tmp_path_factory.mktemp("prm")
    (folder / "demos").mkdir()
    label_segments(recipe(), folder / "labels", demonstrations=[two_tasks(folder / "demos", successes=6, failures=3)])
    return train_prm(recipe(), folder / "labels", folder / "prm")


def model(seed: int = 0, **knobs: int) -> TinyRewardModel:
    spec = TinyPrmSpec(**{"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_keypoints": 8, **knobs})  # type: ignore[arg-type]
    made = TinyRewardModel(spec, image_size=SIDE, seed=seed)
    made.train(False)
    return made


def views(count: int, *, seed: int = 0, previous: bool = False) -> Views:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (2, count, SIDE, SIDE, 3), dtype=np.uint8)
    return Views(
        images=images[0],
        previous=images[1] if previous else None,
        instructions=[TEXTS[i % len(TEXTS)] for i in range(count)],
    )


def take(some: Views, rows: slice) -> Views:
    previous = None if some.previous is None else some.previous[rows]
    return Views(images=some.images[rows], previous=previous, instructions=some.instructions[rows])


def test_batches_and_padding_change_no_score() -> None:
    whole = views(6)
    together, one_by_one = probabilities(model(), whole, 6), probabilities(model(), whole, 1)
    assert together.shape == (6, 2)
    np.testing.assert_allclose(together, one_by_one, atol=1e-6)


def test_picture_and_instruction_both_count() -> None:
    some, judge = views(2), model()
    scores = probabilities(judge, some, 2)
    other_text = Views(images=some.images, previous=None, instructions=some.instructions[::-1])
    other_image = Views(images=some.images[::-1].copy(), previous=None, instructions=some.instructions)
    for changed in (other_text, other_image):
        assert np.abs(probabilities(judge, changed, 2) - scores).min() > 1e-6


def test_neither_question_sees_the_other() -> None:
    """Changing the token of one question changes its own answer alone."""
    judge, some = model(), views(2)
    before = judge.answer_logits(some).detach().clone()
    for question in range(2):
        changed = model()
        with torch.no_grad():
            row = changed.language_model.embed_tokens.weight[-4 + question]
            row.add_(torch.randn(row.shape, generator=torch.Generator().manual_seed(1)))
        after = changed.answer_logits(some).detach()
        assert torch.equal(after[:, 1 - question], before[:, 1 - question])
        assert not torch.equal(after[:, question], before[:, question])


def test_an_earlier_picture_is_looked_at() -> None:
    judge, some = model(previous_frame=3), views(2, previous=True)
    assert some.previous is not None
    other = Views(images=some.images, previous=some.previous[::-1].copy(), instructions=some.instructions)
    assert np.abs(probabilities(judge, some, 2) - probabilities(judge, other, 2)).min() > 1e-6


def test_an_instruction_that_is_too_long_is_an_error() -> None:
    with pytest.raises(RecipeError) as caught:
        model(max_prompt_length=4).answer_logits(views(2))
    assert caught.value.code == "R216"


def test_it_learns_what_the_labels_say(made: Trained) -> None:
    report = made.card["held_out"]
    assert report["auc"]["value"] > 0.9
    assert report["value_order_of_progress"]["value"] > 0.9
    assert report["auc"]["low"] <= report["auc"]["value"] <= report["auc"]["high"]
    assert set(report["auc_by_source"]) == {"far", "failed", "other_task", "shuffled"}
    assert [task["instruction"] for task in report["tasks"]] == ["pick up the green cube", "pick up the red cube"]


def test_held_out_trajectories_are_whole_and_of_every_task(made: Trained) -> None:
    labels = open_labels(made.folder.parent / "labels")
    held = hold_out(labels, 0.25, 0)
    for task in range(2):
        for success in (True, False):
            mine = (labels.trajectories["instruction"] == task) & (labels.trajectories["success"] == success)
            assert 1 <= held[mine].sum() < mine.sum()
    assert np.array_equal(held, hold_out(labels, 0.25, 0))
    assert made.card["training"]["trajectories"] == int((~held).sum())


def test_the_same_labels_and_seed_give_the_same_weights(made: Trained, tmp_path: Path) -> None:
    again = train_prm(recipe(), made.folder.parent / "labels", tmp_path / "again")
    assert again.digest == made.digest
    other = train_prm(recipe("seed=1", "prm.training.updates=1"), made.folder.parent / "labels", tmp_path / "other")
    assert other.digest != made.digest


def test_the_folder_gives_back_the_frozen_model(made: Trained) -> None:
    frozen = load_reward_model(made.folder)
    assert frozen.digest == made.digest == json.loads((made.folder / "card.json").read_text())["model"]
    assert frozen.meaning.suite == "tabletop"
    assert not any(parameter.requires_grad for parameter in frozen.model.parameters())
    some = trajectory()
    answers = frozen.answers(some.images, None, [some.instruction] * 24, 7)
    assert answers["progress"][[0, 23]].tolist() == sorted(answers["progress"][[0, 23]].tolist())
    assert answers["progress"].dtype == np.float32
    assert "| all tasks |" in (made.folder / "card.md").read_text()


@pytest.mark.parametrize(
    ("damage", "code"), [("COMPLETE", "R395"), ("model.safetensors", "R398"), ("config.json", "R398")]
)
def test_a_folder_that_is_not_whole_is_refused(made: Trained, tmp_path: Path, damage: str, code: str) -> None:
    for path in made.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / damage).read_bytes()
    (tmp_path / damage).write_bytes(whole[:-20])
    if damage == "COMPLETE":
        (tmp_path / damage).unlink()
    with pytest.raises(AssetError) as caught:
        load_reward_model(tmp_path)
    assert (caught.value.code, caught.value.exit_status) == (code, Exit.ENVIRONMENT)


def with_weights_of(value: float, made: Trained, folder: Path) -> Path:
    """A copy whose head is ``value`` and whose digests are right."""
    shutil.copytree(made.folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["head.weight"][:] = value
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["weights"] = file_digest(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "COMPLETE").write_text(json_digest(config))
    return folder


def test_weights_that_are_not_numbers_are_refused_though_their_digests_are_right(made: Trained, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"`head\.weight` are not all numbers") as caught:
        load_reward_model(with_weights_of(float("nan"), made, tmp_path / "model"))
    assert caught.value.code == "R398"


def test_answers_that_are_not_numbers_name_the_model(made: Trained, tmp_path: Path) -> None:
    frozen = load_reward_model(with_weights_of(3e38, made, tmp_path / "model"))
    some = trajectory()
    with pytest.raises(AssetError, match="its answers are not numbers") as caught:
        frozen.answers(some.images, None, [some.instruction] * 24, 7)
    assert caught.value.code == "R398"


def test_a_language_model_alone_is_no_reward_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(AssetError, match="LlamaForCausalLM, a model without an image-text head") as caught:
        load_reward_model(tmp_path)
    assert caught.value.code == "R395"


@pytest.mark.parametrize("other", [{"action": "joints"}, {"suite": "libero"}, {"image_size": 64}])
def test_another_action_space_or_camera_is_refused(made: Trained, other: dict[str, object]) -> None:
    frozen: FrozenRewardModel = load_reward_model(made.folder)
    check_meaning(frozen, frozen.meaning)
    with pytest.raises(AssetError) as caught:
        check_meaning(frozen, Meaning(**{**vars(frozen.meaning), **other}))  # type: ignore[arg-type]
    assert caught.value.code == "R396"


def test_a_single_success_cannot_be_held_out(tmp_path: Path) -> None:
    path = write(tmp_path / "one.hdf5", trajectory())
    label_segments(recipe(), tmp_path / "labels", demonstrations=[path])
    with pytest.raises(AssetError, match="one successful trajectory") as caught:
        train_prm(recipe(), tmp_path / "labels", tmp_path / "prm")
    assert caught.value.code == "R399"
    assert not (tmp_path / "prm").exists()


def test_the_mask_lies_where_the_prompt_does() -> None:
    known = torch.ones(2, 5, dtype=torch.bool, device="meta")  # as a GPU, a device that is not the CPU
    assert _attention(known, 3, torch.float32).device.type == "meta"
