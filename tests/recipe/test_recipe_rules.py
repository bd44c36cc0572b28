"""Every code has an example that shows it and a mended one that does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vlarl
from vlarl.errors import Diagnostic, RecipeError
from vlarl.recipe.codes import CODES
from vlarl.recipe.load import parse_recipe
from vlarl.recipe.rules import divisors_near

EXAMPLES = {code: entry for code, entry in CODES.items() if entry.wrong is not None}


def diagnostics(text: str) -> tuple[Diagnostic, ...]:
    try:
        return parse_recipe(text).warnings
    except RecipeError as error:
        return error.diagnostics


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_wrong_example_shows_its_code_and_the_right_one_nothing(code: str) -> None:
    entry = EXAMPLES[code]
    assert entry.wrong is not None
    assert entry.right is not None
    assert [d.code for d in diagnostics(entry.wrong)] == [code]
    assert diagnostics(entry.right) == ()


@pytest.mark.parametrize("code", [code for code in EXAMPLES if "(warning)" in EXAMPLES[code].title])
def test_warnings_do_not_make_a_recipe_invalid(code: str) -> None:
    wrong = EXAMPLES[code].wrong
    assert wrong is not None
    assert [d.severity for d in parse_recipe(wrong).warnings] == ["warning"]


@pytest.mark.parametrize(
    ("text", "code", "where", "hint"),
    [
        ("ppo: {minibatch_size: 5000}", "R201", (1, 7), "4096 takes the whole rollout at once"),
        (
            "train: {rollout: {num_steps: 100}}\nppo: {minibatch_size: 512}",
            "R201",
            (2, 7),
            "400 and 640 are the nearest that do",
        ),
        ("train: {rollout: {num_steps: 101}}", "R201", (1, 19), "32 and 101 are the nearest that do"),
        (
            "suite: {num_envs: 3}\nppo: {minibatch_size: 64}",
            "R203",
            (1, 9),
            "`suite.num_envs` can be 2 or 4, or choose 1 or 3 groups",
        ),
        (
            "suite: {num_envs: 6, num_shards: 4}",
            "R225",
            (1, 22),
            "`suite.num_envs` can be 4 or 8, or choose 3 or 6 shards",
        ),
        (
            "suite: {num_envs: 6, num_shards: 2}\nppo: {minibatch_size: 64}",
            "R203",
            (1, 9),
            "1 and 3 are the nearest that do",
        ),
        ("policy: {hidden_size: 6, num_heads: 4}", "R204", (1, 26), "`policy.num_heads` can be 1 or 3"),
        ("policy: {hidden_size: 7}", "R204", (1, 10), "make `policy.hidden_size` even"),
        ("train: {iterations: 1, critic_warmup: 1}", "R205", (1, 24), "0 trains the policy from the start"),
        ("suite: {tasks: [reach_rde]}", "R206", (1, 17), "did you mean `reach_red`?"),
        ("suite: {tasks: [reach_red, reach_red]}", "R207", (1, 28), "remove one of the two"),
    ],
)
def test_rules_point_at_what_was_written(text: str, code: str, where: tuple[int, int], hint: str) -> None:
    found = diagnostics(text)[0]
    assert (found.code, (found.line, found.column), found.hint) == (code, where, hint)


def test_a_rule_about_defaults_alone_says_so() -> None:
    found = next(d for d in diagnostics("policy: {num_heads: 3}") if d.code == "R204")
    assert (found.line, found.column) == (1, 10)
    assert not diagnostics("suite: {num_envs: 1, num_groups: 1}\nppo: {minibatch_size: 64}"), (
        "two workers are the default"
    )
    (idle,) = diagnostics("suite: {num_envs: 8, num_workers: 5}\nppo: {minibatch_size: 64}")
    assert (idle.code, idle.severity, idle.line, idle.hint) == ("R214", "warning", 1, "4 is the most that has work")


@pytest.mark.parametrize("commit", ["", "@main", "@" + "a" * 39, "@" + "A" * 40, "@" + "a" * 41])
def test_a_strict_run_needs_a_whole_commit(commit: str) -> None:
    text = "imitation: null\ndeterminism: {}\npolicy: {{kind: openvla, checkpoint: 'hf://openvla/openvla-7b{}'}}"
    (found,) = diagnostics(text.format("strict", commit))
    assert (found.code, found.hint) == (
        "R221",
        "copy it from the page's history and write hf://openvla/openvla-7b@COMMIT",
    )
    assert diagnostics(text.format("strict", "@" + "a" * 40)) == ()
    assert diagnostics(text.format("seeded", commit)) == ()


@pytest.mark.parametrize("kind", ["frozen", "adapter"])
def test_a_critic_on_base_weights_needs_adapters(kind: str) -> None:
    text = f"imitation: null\ncritic: {{kind: {kind}}}\npolicy: {{kind: openvla, checkpoint: x}}"
    assert diagnostics(text) == ()
    (found,) = diagnostics(text.replace("checkpoint: x", "checkpoint: x, lora: null"))
    assert found.code == "R223"


def test_the_task_of_another_suite_is_unknown() -> None:
    assert diagnostics("suite: {name: tabletop_10, tasks: [press_button]}\nimitation: {num_episodes: 1}") == ()
    (found,) = diagnostics("suite: {name: tabletop_basic, tasks: [press_button]}")
    assert found.code == "R206"
    assert "reach_red" in found.notes[0]


@pytest.mark.parametrize(("total", "wanted", "near"), [(12, 5, [4, 6]), (7, 3, [1, 7]), (8, 9, [8]), (1, 1, [])])
def test_divisors_near(total: int, wanted: int, near: list[int]) -> None:
    assert divisors_near(wanted, total) == near


def test_every_code_in_the_source_is_explained() -> None:
    package = Path(vlarl.__file__).parent
    used = {
        code
        for path in package.rglob("*.py")
        for code in re.findall(r'"([A-Z]\d{3})"', path.read_text(encoding="utf-8"))
    }
    assert used - {"R100"} <= set(CODES)
    assert list(CODES) == sorted(CODES, key=lambda code: ("RUEXD".index(code[0]), code))
    assert all(entry.title and entry.text.endswith(".") for entry in CODES.values())
