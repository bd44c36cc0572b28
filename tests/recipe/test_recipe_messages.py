"""What a person reads: whole messages, the docs' example, and hints that work when followed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import vlarl
from vlarl.cli import main
from vlarl.console import Console, diagnostic_text
from vlarl.errors import Diagnostic, RecipeError
from vlarl.recipe.load import load_recipe, parse_recipe

DOCS = Path(vlarl.__file__).parents[2] / "docs" / "recipes.md"


def found(text: str, overrides: tuple[str, ...] = ()) -> tuple[Diagnostic, ...]:
    try:
        return parse_recipe(text, overrides, name="r.yaml").warnings
    except RecipeError as error:
        return error.diagnostics


SNAPSHOTS = {
    "seed: 1\nrewards:\n  - {kind: success, wieght: 0.3}\n": """\
error[R102]: unknown key `wieght` in reward `success`
  --> r.yaml:3:21
   |
 3 |   - {kind: success, wieght: 0.3}
   |                     ^^^^^^

hint: did you mean `weight`?""",
    "train: {gamma: 0.9}": """\
error[R102]: unknown key `gamma` in `train`
  --> r.yaml:1:9
   |
 1 | train: {gamma: 0.9}
   |         ^^^^^
   = keys of `train`: iterations, rollout, temperature, final_temperature, critic_warmup, torch_threads,
     rollout_threads

hint: it belongs to `ppo.gamma`""",
    "ppo:\n  extends: a.yaml\n": """\
error[R102]: unknown key `extends` in `ppo`
  --> r.yaml:2:3
   |
 2 |   extends: a.yaml
   |   ^^^^^^^
   = keys of `ppo`: lr, value_lr, group_lr, lr_decay, lr_warmup, advantage, drop_equal_groups, gamma, gae_lambda,
     clip, value_clip, value_coef, entropy_bonus, epochs, minibatch_size, micro_batch_size, max_grad_norm, target_kl,
     normalize_advantages, truncation, old_log_probs, ratio_tolerance, adam_eps

hint: `extends` stands at the top level""",
    "rewards: [{weight: 2.0}]": """\
error[R103]: `kind` is missing from reward 0
  --> r.yaml:1:11
   |
 1 | rewards: [{weight: 2.0}]
   |           ^

hint: the kinds are success, process, dense_oracle""",
    "train: {iterations: 1.0}": """\
error[R104]: `train.iterations` must be a whole number, not `1.0`
  --> r.yaml:1:21
   |
 1 | train: {iterations: 1.0}
   |                     ^^^

hint: write `1`""",
    "run: {tensorboard: no}": """\
error[R104]: `run.tensorboard` must be true or false, not the text `no`
  --> r.yaml:1:20
   |
 1 | run: {tensorboard: no}
   |                    ^^

hint: write `false`; YAML 1.2 has no other word for it""",
    "ppo: {lr: .nan, clip: -1, gamma: 1.5}": """\
error[R105]: `ppo.lr` must be a finite number, not `nan`
  --> r.yaml:1:11
   |
 1 | ppo: {lr: .nan, clip: -1, gamma: 1.5}
   |           ^^^^

hint: `vlarl explain ppo.lr` says what it takes

error[R105]: `ppo.clip` must be above 0, not `-1`
  --> r.yaml:1:23
   |
 1 | ppo: {lr: .nan, clip: -1, gamma: 1.5}
   |                       ^^

hint: `vlarl explain ppo.clip` says what it takes

error[R105]: `ppo.gamma` must be at most 1, not `1.5`
  --> r.yaml:1:34
   |
 1 | ppo: {lr: .nan, clip: -1, gamma: 1.5}
   |                                  ^^^

hint: `vlarl explain ppo.gamma` says what it takes""",
    "name: ../escape\nrewards: []": """\
error[R105]: `name` cannot be `../escape`: it must match `^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`
  --> r.yaml:1:7
   |
 1 | name: ../escape
   |       ^^^^^^^^^

hint: `vlarl explain name` says what it takes

error[R105]: `rewards` must have at least 1 item
  --> r.yaml:2:10
   |
 2 | rewards: []
   |          ^

hint: `vlarl explain rewards` says what it takes""",
    "ppo: {truncation: bootstraped}": """\
error[R106]: `ppo.truncation` cannot be `bootstraped`; it is one of `bootstrap`, `terminal`
  --> r.yaml:1:19
   |
 1 | ppo: {truncation: bootstraped}
   |                   ^^^^^^^^^^^

hint: did you mean `bootstrap`?""",
    "suite: {kind: libreo}\npolicy: small\ntrain: {rollout: {kind: step}}": """\
error[R107]: unknown kind `libreo` of `suite`
  --> r.yaml:1:15
   |
 1 | suite: {kind: libreo}
   |               ^^^^^^
   = kinds: tabletop, libero

hint: did you mean `libero`?

error[R104]: `policy` must be a mapping, not the text `small`
  --> r.yaml:2:9
   |
 2 | policy: small
   |         ^^^^^

hint: `vlarl explain policy` says what it takes

error[R107]: unknown kind `step` of `train.rollout`
  --> r.yaml:3:25
   |
 3 | train: {rollout: {kind: step}}
   |                         ^^^^
   = kinds: steps, episodes

hint: did you mean `steps`?""",
    "ppo: {lr: 1e-4": """\
error[R101]: not valid YAML: expected ',' or '}', but got '<stream end>'
  --> r.yaml:1:15
   |
 1 | ppo: {lr: 1e-4
   |               ^

hint: look here and one line above for a missing quote, bracket or colon, a tab or wrong indentation""",
    "ppo:\n  minibatch_size: 600\n": """\
error[R201]: `ppo.minibatch_size` (600) does not divide the rollout (32 envs × 128 steps = 4096)
  --> r.yaml:2:3
   |
 2 |   minibatch_size: 600
   |   ^^^^^^^^^^^^^^

hint: 512 and 1024 are the nearest that do""",
}


@pytest.mark.parametrize("text", SNAPSHOTS)
def test_messages(text: str) -> None:
    assert "\n\n".join(diagnostic_text(d, width=118) for d in found(text)) == SNAPSHOTS[text]


def test_a_value_from_the_command_line_is_shown_as_typed() -> None:
    (diagnostic,) = found("", ("ppo.epoch=2",))
    assert diagnostic_text(diagnostic) == (
        "error[R102]: unknown key `epoch` in `ppo`\n  --> --set ppo.epoch=2\n\nhint: did you mean `epochs`?"
    )


def test_long_lines_are_cut_around_the_caret() -> None:
    text = "# " + "x" * 300 + "\nrun: {folder: " + "a" * 200 + ", tensorbord: true, cache: " + "b" * 200 + "}"
    (diagnostic,) = found(text)
    lines = diagnostic_text(diagnostic, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    caret = lines[4].index("^")
    assert lines[3][caret : caret + 10] == "tensorbord"


def test_wide_characters_keep_the_caret_in_place() -> None:
    (diagnostic,) = found('{name: "日本", sede: 1}')[1:] or found('{name: "日本", sede: 1}')
    lines = diagnostic_text(diagnostic).splitlines()
    assert lines[4].index("^") - lines[3].index("sede") == 2


def test_colour_adds_nothing_but_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlarl.console import rich_paint

    (diagnostic,) = found("ppo: {lrr: 1}")
    painted = diagnostic_text(diagnostic, paint=rich_paint)
    assert "\x1b[" in painted
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == diagnostic_text(diagnostic)


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("ppo: {gama: 0.9}", "ppo: {gamma: 0.9}"),
        ("ppo: {truncation: bootstraped}", "ppo: {truncation: bootstrap}"),
        ("suite: {kind: tabeltop}", "suite: {kind: tabletop}"),
        ("suite: {name: tabletop_bsaic}", "suite: {name: tabletop_basic}"),
        ("suite: {tasks: [reach_rde]}", "suite: {tasks: [reach_red]}"),
        ("rewards: [{knd: success}]", "rewards: [{kind: success}]"),
        ("SEED: 1", "seed: 1"),
    ],
)
def test_following_did_you_mean_mends_the_recipe(text: str, mended: str) -> None:
    (diagnostic,) = found(text)
    assert diagnostic.line == 1
    assert diagnostic.column is not None
    word = re.fullmatch(r"did you mean `(.+)`\?", diagnostic.hint or "")
    assert word is not None
    start = diagnostic.column - 1
    followed = text[:start] + word.group(1) + text[start + diagnostic.length :]
    assert followed == mended
    assert found(followed) == ()


def test_hints_that_are_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands: list[str] = []
    broken = [
        "suite: {kind: libero}",
        "policy: {kind: big}",
        "critic: {kind: x}",
        "curriculum: {kind: x}",
        "rewards: [{kind: zz}]",
    ]
    for text in broken:
        commands += [c for d in found(text) for c in re.findall(r"`(vlarl [^`]+)`", d.hint or "")]
    Path("a.yaml").write_text("ppo: {minibatch_size: 600}", encoding="utf-8")
    for words in (
        ["validate", "a.yaml"],
        ["validate", "none.yaml"],
        ["explain", "zzz"],
        ["list", "suite"],
        ["init", "a.yaml"],
    ):
        with pytest.raises(SystemExit):
            main(words)
        commands += re.findall(r"`(vlarl [^`]+)`", capsys.readouterr().err)
    assert len(commands) >= 10
    for command in commands:
        with pytest.raises(SystemExit) as done:
            main(shlex.split(command)[1:])
        assert done.value.code == 0, command


def test_the_docs_show_a_real_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"<!-- example: (.+?) -->\n```\w*\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    examples = dict(blocks)
    Path("base.yaml").write_text("ppo: {minibatch_size: 500}\n", encoding="utf-8")
    Path("mine.yaml").write_text(examples["broken recipe"], encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("mine.yaml"))
    Console("validate").failure(caught.value)
    assert examples["its errors"].strip() == capsys.readouterr().err.strip()


def test_a_study_is_told_as_such_with_a_command_that_checks_it(capsys: pytest.CaptureFixture[str]) -> None:
    study = Path(vlarl.__file__).parents[2] / "recipes" / "studies" / "smoke.yaml"
    assert _status(["validate", str(study)]) == 3
    said = capsys.readouterr().err
    assert said.count("error[") == 1
    assert "this is a study, not a recipe" in said
    command = re.search(r"hint: `vlarl (.*)` checks it", said)
    assert command is not None
    assert _status(shlex.split(command[1])) == 0


def _status(words: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code
