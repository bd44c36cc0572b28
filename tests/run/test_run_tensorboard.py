"""What a run's event files hold, read back as TensorBoard reads them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlarl.recipe.load import load_recipe
from vlarl.recorder_events import hparams
from vlarl.run.events import read_events
from vlarl.run.figures import Encoded
from vlarl.run.folder import RunFolder
from vlarl.run.tensorboard import TensorBoard, flatten
from vlarl.train import resume, train

SECRET = "hf_0123456789abcdef"
RECIPE = """
seed: 3
suite:
  {kind: tabletop, name: tabletop_basic, tasks: [reach_red, reach_green], image_size: 32, num_envs: 4, num_workers: 1}
policy: {kind: tiny, hidden_size: 32, num_layers: 1, num_heads: 2, num_keypoints: 16, num_visual_tokens: 2}
curriculum: {kind: paper, tau: 0.1, window: 6, bucket_size: 50000}
imitation: null
ppo: {lr: 1e-3, minibatch_size: 64}
train: {iterations: 2, critic_warmup: 0, torch_threads: 1, rollout: {kind: steps, num_steps: 48}}
evaluation: {every: 1, episodes: 1}
run: {checkpoint_every: 1}
determinism: strict
"""


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()


def text(found: Any, tag: str, at: int = -1) -> str:
    tensor = found.Tensors(f"{tag}/text_summary")[at].tensor_proto
    return str(tensor.string_val[0].decode())


def session(found: Any) -> dict[str, Any]:
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data

    content = found.PluginTagToContent("hparams")[SESSION_START_INFO_TAG]
    values = parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def metrics(found: Any) -> list[str]:
    from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG, parse_experiment_plugin_data

    content = found.PluginTagToContent("hparams")[EXPERIMENT_TAG]
    return [each.name.tag for each in parse_experiment_plugin_data(content).metric_infos]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Stopped after one iteration of two and resumed, with a secret in the environment, the command and the recipe."""
    folder = tmp_path_factory.mktemp("tensorboard")
    (folder / "tiny.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_TOKEN", SECRET)
        loaded = load_recipe(folder / "tiny.yaml", [f"run.cache={folder / SECRET}"])
        begun = train(loaded, command=["train", SECRET], run_folder=folder / "runs", until=1)
        return resume(begun.run, command=["resume"]).run


def test_flatten_joins_sections_and_skips_what_is_no_number() -> None:
    values = {
        "ppo": {"approx_kl": 0.25, "none": None, "nan": float("nan")},
        "reward": {"success": {"mean": 1}},
        "x": "y",
    }
    assert list(flatten(values)) == [("ppo/approx_kl", 0.25), ("reward/success/mean", 1.0)]


def test_curves_are_cut_back_on_resume(tmp_path: Path) -> None:
    with TensorBoard(tmp_path) as board:
        for step in range(6):
            board.add_scalars(step, {"rollout": {"success_rate": step / 10}})
    with TensorBoard(tmp_path, purge_step=3) as board:
        board.add_scalars(3, {"rollout": {"success_rate": 1.0}})
    curve = read(tmp_path).Scalars("rollout/success_rate")
    assert [(event.step, round(event.value, 3)) for event in curve] == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 1.0)]


def test_turned_off_it_writes_nothing_and_imports_no_torch(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2] / 'src')!r})\n"
        "from vlarl.run.tensorboard import TensorBoard\n"
        "from vlarl.run.figures import Encoded\n"
        "import vlarl.run.checkpoint, vlarl.run.episodes, vlarl.run.events, vlarl.run.folder, vlarl.run.manifest\n"
        "with TensorBoard(None) as board:\n"
        "    board.add_scalars(0, {'a': 1.0}); board.add_code(0, 'b', 'c'); board.add_hparams(0, {'d': 1}, ['e'])\n"
        "    board.add_image(0, 'f', Encoded(data=b'', width=1, height=1)); board.flush(); print(board.is_open)\n"
        "print(*(name for name in sys.modules if name in ('torch', 'tensorboard', 'mujoco', 'PIL')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["False"]
    assert not list(tmp_path.iterdir())


def test_hparams_keep_their_types_and_lists_become_text(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    found = hparams(load_recipe(tmp_path / "tiny.yaml").recipe)
    assert found["ppo.lr"] == 1e-3
    assert found["seed"] == 3
    assert found["train.rollout.kind"] == "steps"
    assert found["evaluation.videos"] is True
    assert found["suite.tasks"] == "[reach_red, reach_green]"
    assert str(found["rewards"]).startswith("[{kind: success")
    assert "imitation" not in found
    assert all(isinstance(value, bool | int | float | str) for value in found.values())


def test_hparams_of_one_folder_are_one_row_however_often_it_is_resumed(tmp_path: Path) -> None:
    for step in (0, 4):
        with TensorBoard(tmp_path, purge_step=step + 1) as board:
            board.add_hparams(step, {"ppo.lr": 0.5, "seed": 3, "on": True, "name": "a"}, ["rollout/success_rate"])
            board.add_scalars(step, {"rollout": {"success_rate": step / 10}})
    found = read(tmp_path)
    assert session(found) == {"ppo.lr": 0.5, "seed": 3.0, "on": True, "name": "a"}
    assert session(found)["on"] is True
    assert metrics(found) == ["rollout/success_rate"]
    assert sorted(found.PluginTagToContent("hparams")) == ["_hparams_/experiment", "_hparams_/session_start_info"]
    assert all(path.is_file() for path in tmp_path.iterdir())  # no folder of its own


def test_code_is_shown_as_it_is(tmp_path: Path) -> None:
    written = "a: |\n  ```\n\n  <b>&\n# b\n"
    with TensorBoard(tmp_path) as board:
        board.add_code(2, "recipe", written)
    found = text(read(tmp_path), "recipe")
    assert textwrap.dedent(found) == written
    from tensorboard import plugin_util

    shown = plugin_util.markdown_to_safe_html(found)
    assert shown.startswith("<pre><code>")
    assert shown.count("<code>") == 1
    assert "<h1>" not in shown


def test_an_image_is_written_as_it_is(tmp_path: Path) -> None:
    with TensorBoard(tmp_path) as board:
        board.add_image(5, "a/b", Encoded(data=b"GIF89a", width=3, height=2))
    (image,) = read(tmp_path).Images("a/b")
    assert (image.step, image.width, image.height, image.encoded_image_string) == (5, 3, 2, b"GIF89a")


def test_a_run_writes_its_hparams_with_metrics_that_it_has(run: RunFolder) -> None:
    found = read(run.tensorboard)
    values = session(found)
    assert (values["ppo.lr"], values["seed"], values["curriculum.kind"]) == (1e-3, 3.0, "paper")
    assert values["run.tensorboard"] is True
    assert metrics(found) == ["eval/tabletop_basic/success", "rollout/success_rate"]
    assert set(metrics(found)) <= set(found.Tags()["scalars"])


def test_a_run_writes_recipe_and_manifest_at_its_start_and_on_resume(run: RunFolder) -> None:
    found = read(run.tensorboard)
    assert [event.step for event in found.Tensors("manifest/text_summary")] == [0, 1]
    assert "curriculum:\n  kind: paper\n" in textwrap.dedent(text(found, "recipe"))
    first, resumed = (json.loads(text(found, "manifest", at)) for at in (0, 1))
    assert (first["status"], first["run"], "resumed" in first) == ("running", run.id, False)
    assert first["start"]["chain"]
    assert resumed["resumed"][0]["iteration"] == 1


def test_no_secret_is_in_the_event_files(run: RunFolder) -> None:
    paths = list(run.tensorboard.iterdir())
    assert len(paths) == 2
    assert not any(SECRET.encode() in path.read_bytes() for path in paths)
    assert sum(path.stat().st_size for path in paths) < 2_000_000


def test_a_run_draws_its_maps_at_evaluations_only(run: RunFolder) -> None:
    found = read(run.tensorboard)
    assert read_events(run.events)[0]["kind"] == "evaluation"
    for tag in ("curriculum/probabilities", "rollout/action_coverage_map"):
        drawn = found.Images(tag)
        assert [image.step for image in drawn] == [1, 2]
        assert drawn[0].encoded_image_string != drawn[1].encoded_image_string
        opened = Image.open(io.BytesIO(drawn[1].encoded_image_string))
        assert (opened.format, opened.size) == ("PNG", (drawn[1].width, drawn[1].height))


def test_a_run_shows_one_moving_episode_a_task(run: RunFolder) -> None:
    found = read(run.tensorboard)
    tags = [f"eval/tabletop_basic/{task}" for task in ("reach_green", "reach_red")]
    assert sorted(tag for tag in found.Tags()["images"] if tag.startswith("eval/")) == tags
    for tag in tags:
        image = found.Images(tag)[-1]
        opened = Image.open(io.BytesIO(image.encoded_image_string))
        assert (opened.format, opened.size, image.step) == ("GIF", (128, 152), 2)
        assert 1 < opened.n_frames <= 60  # type: ignore[attr-defined]


def test_turned_off_a_run_has_the_same_chain_and_no_event_files(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    loaded = load_recipe(tmp_path / "tiny.yaml", ["run.tensorboard=false"])
    other = train(loaded, command=["test"], run_folder=tmp_path / "runs", until=1).run
    assert not other.tensorboard.exists()
    chains = [[e["chain"] for e in read_events(each.events) if e["kind"] == "iteration"] for each in (run, other)]
    assert chains[0][:1] == chains[1]
