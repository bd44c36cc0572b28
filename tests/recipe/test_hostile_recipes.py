"""Recipes that somebody wrote to do harm: each ends soon, with a message, and nothing of another file is shown."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlarl.console import diagnostic_text
from vlarl.errors import Diagnostic, RecipeError
from vlarl.recipe.diagnose import MOST, foremost
from vlarl.recipe.load import load_recipe, parse_recipe, plain_values
from vlarl.recipe.rules import divisors, divisors_near
from vlarl.recipe.specs.base import MAX_COUNT
from vlarl.recipe.text import MAX_BYTES, parse, plain
from vlarl.recipe.tree import Path as TreePath
from vlarl.recipe.tree import without

QUICK = settings(max_examples=50, deadline=None)
CPU_SECONDS, SECONDS = 20, 900  # far more than anything here takes: of work, and of waiting on a busy machine


@contextmanager
def soon() -> Iterator[None]:
    """Fails where the block goes on for ever, instead of going on for ever."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it does not end")

    before = {number: signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with soon():
        yield


def refused(text: str, *overrides: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, overrides)
    for found in caught.value.diagnostics:
        assert found.hint or found.notes
        assert diagnostic_text(found)
    return caught.value.diagnostics


def refused_file(name: str) -> Diagnostic:
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path(name))
    (found,) = caught.value.diagnostics
    assert found.hint
    assert diagnostic_text(found)
    return found


# Numbers


@pytest.mark.parametrize("digits", ["1000000001", "3000000001", "100000000000000000000007", "9" * 399])
@pytest.mark.parametrize("path", ["policy.hidden_size", "suite.num_envs", "train.rollout.num_steps", "run.keep.every"])
def test_a_count_has_a_limit_that_its_message_names(path: str, digits: str) -> None:
    (found,) = refused("", f"{path}={digits}")
    assert (found.code, found.path) == ("R105", path)
    assert f"`{path}` must be at most 10^9, not `" in found.message


def test_a_seed_too_large_is_told_the_limit() -> None:
    (found,) = refused(f"seed: {2**63}")
    assert found.message == f"`seed` must be below 2^63, not `{2**63}`"


def test_the_largest_counts_are_checked_at_once() -> None:
    prime = 999_999_937
    text = f"suite: {{num_envs: {prime}}}\ntrain: {{rollout: {{num_steps: {prime}}}}}\nppo: {{minibatch_size: 5}}"
    found = {each.code: each for each in refused(f"{text}\npolicy: {{hidden_size: {MAX_COUNT}, num_heads: 7}}")}
    assert found["R201"].hint == f"{1} and {prime} are the nearest that do"
    assert found["R204"].hint == "`policy.num_heads` can be 5 or 8"
    assert parse_recipe(f"policy: {{hidden_size: {MAX_COUNT}, num_heads: 8}}").recipe


@QUICK
@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.integers(1, 300))
def test_divisors(factors: list[int], wanted: int) -> None:
    total = 1
    for factor in factors:
        total *= factor
    expected = [d for d in range(1, total + 1) if total % d == 0] if total < 5000 else None
    found = divisors(*factors)
    assert found == (expected if expected is not None else sorted({d for d in found if total % d == 0}))
    assert found[0] == 1
    assert found[-1] == total
    below, above = [d for d in found if d < wanted], [d for d in found if d > wanted]
    assert divisors_near(wanted, *factors) == below[-1:] + above[:1]


def test_an_item_of_five_thousand_digits() -> None:
    for number in ("9" * 5000, "7"):
        for form in (f"rewards.{number}.weight=1", f"rewards[{number}].weight=1"):
            (found,) = refused("rewards: [{kind: success}]", form)
            assert found.code == "R111"
            assert "there is no item " in found.message
            assert len(found.message) < 100


# Many problems


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("".join(f"key{i}: 1\n" for i in range(4000)), 4000 - MOST),
        ("ppo: {" + ", ".join(f"key{i}: 1" for i in range(4000)) + "}", 4000 - MOST),
        ("rewards: [{" + ", ".join(f"key{i}: 1" for i in range(4000)) + "}]", 4001 - MOST),
        ("suite: {tasks: [" + ", ".join(f"reach_rod{i}" for i in range(2000)) + "]}", 2001 - MOST),
        ("suite: {tasks: [" + "1, " * 2000 + "]}", 2000 - MOST),
        ("seed: 1\n" * 2000, 2000 - 1 - MOST),
        ("a: !x 1\n" + "b: [" + "!x 1, " * 2000 + "]", 2003 - MOST),
    ],
)
def test_many_problems_are_counted_and_the_first_ones_shown(text: str, more: int) -> None:
    assert len(text) < MAX_BYTES
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    found = caught.value.diagnostics
    assert len(found) == MOST
    assert [each for each in found if f"and {more} more" in each.notes] == [found[-1]]
    assert caught.value.message == f"{MOST} errors and {more} more in the recipe"
    for each in found:
        assert len(diagnostic_text(each)) < 2000


def test_many_warnings_do_not_hide_an_error() -> None:
    batches = ", ".join(str(100 + i) for i in range(500))
    text = f"run: {{batches: [{batches}]}}\n"
    warnings = parse_recipe(text).warnings
    assert len(warnings) == MOST
    assert warnings[-1].notes[-1] == f"and {500 - MOST} more"
    found = refused(f"{text}ppo: {{minibatch_size: 5}}\n")
    assert len(found) == MOST
    assert found[-1].code == "R201"


def test_unknown_keys_and_warnings_together_end() -> None:
    keys = "".join(f"key{i}: 1\n" for i in range(1500))
    with pytest.raises(RecipeError):
        parse_recipe(f"{keys}run: {{batches: [{', '.join(['500'] * 1500)}]}}\n")


def test_few_problems_are_all_shown() -> None:
    found = refused("".join(f"key{i}: 1\n" for i in range(MOST)))
    assert len(found) == MOST
    assert not any("more" in note for each in found for note in each.notes)
    assert foremost([]) == ([], 0)


tree_values = st.recursive(
    st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def paths_of(value: Any, above: TreePath = ()) -> list[TreePath]:
    children: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [above, *(path for key, child in children for path in paths_of(child, (*above, key)))]


def pruned(value: Any, paths: set[TreePath], above: TreePath = ()) -> Any:
    if isinstance(value, dict):
        return {k: pruned(v, paths, (*above, k)) for k, v in value.items() if (*above, k) not in paths}
    if isinstance(value, list):
        return [pruned(v, paths, (*above, i)) for i, v in enumerate(value) if (*above, i) not in paths]
    return value


@QUICK
@given(st.data())
def test_values_are_set_aside_all_at_once(data: st.DataObject) -> None:
    value = data.draw(st.dictionaries(st.sampled_from("abc"), tree_values, max_size=3))
    paths = data.draw(st.sets(st.sampled_from(paths_of(value)), max_size=4))
    node, _ = parse(str(value) or "{}")
    assert node is not None
    assert plain(without(node, paths)) == pruned(value, paths)


# Files


def test_a_pipe_is_no_recipe() -> None:
    os.mkfifo("fifo.yaml")
    Path("top.yaml").write_text("extends: fifo.yaml\n")
    for name in ("top.yaml", "fifo.yaml"):
        found = refused_file(name)
        assert (found.code, found.message) == ("R110", "cannot read `fifo.yaml`: it is not a regular file")


@pytest.mark.parametrize("text", ["a" * 300 + ".yaml", "a" * 5000 + ".yaml", "b/" * 3000 + "c.yaml", "a\\0b.yaml"])
def test_names_that_no_file_can_have(text: str) -> None:
    Path("top.yaml").write_text(f'extends: "{text}"\n')
    assert refused_file("top.yaml").code == "R110"
    if "\\" not in text:
        assert refused_file(text).code == "R110"


def test_links_in_a_circle() -> None:
    Path("loop.yaml").symlink_to("loop.yaml")
    Path("top.yaml").write_text("extends: loop.yaml\n")
    assert "symbolic links" in refused_file("top.yaml").message
    assert "symbolic links" in refused_file("loop.yaml").message
    assert refused_file("lop.yaml").hint == "did you mean `loop.yaml`?"


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../..", "..", "/", ".", "secret", "secret.txt", "a.yaml/", "~", "x\n"]
)
def test_a_base_is_a_shipped_recipe_or_yaml(name: str) -> None:
    Path("secret").write_text("token: 1234\n")
    Path("secret.txt").write_text("token: 1234\n")
    Path("a.yaml").write_text("seed: 1\n")
    Path("top.yaml").write_text(f"extends: {name!r}\n" if "\n" not in name else 'extends: "x\\n"\n')
    found = refused_file("top.yaml")
    assert (found.code, found.file) == ("R110", "top.yaml")
    assert "neither a shipped recipe nor a file whose name ends in .yaml or .yml" in found.message
    assert "token" not in diagnostic_text(found)


def test_a_base_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text("seed: 4\n")
    (tmp_path / "deep").mkdir()
    for base in ("../base.yml", str(tmp_path / "base.yml")):
        (tmp_path / "deep" / "top.yaml").write_text(f"extends: {base}\n")
        assert load_recipe(tmp_path / "deep" / "top.yaml").recipe.seed == 4


def test_the_name_that_was_meant() -> None:
    Path("base.yaml").write_text("seed: 1\n")
    Path("deep").mkdir()
    Path("top.yaml").write_text("extends: base\n")
    assert refused_file("top.yaml").hint == "did you mean `base.yaml`?"
    Path("deep/top.yaml").write_text("extends: ../base\n")
    assert refused_file("deep/top.yaml").hint == "did you mean `../base.yaml`?"
    Path("top.yaml").write_text("extends: quickstrat\n")
    assert refused_file("top.yaml").hint == "did you mean `quickstart`?"


def test_nothing_is_quoted_from_a_file_that_a_link_leads_to() -> None:
    Path("secret.txt").write_text("token 1234: ]\n")
    Path("base.yaml").symlink_to("secret.txt")
    Path("top.yaml").write_text("extends: base.yaml\n")
    found = refused_file("top.yaml")
    assert (found.code, found.source, found.line is not None) == ("R101", None, True)
    assert "1234" not in diagnostic_text(found)
    Path("real.yaml").write_text("token 1234: ]\n")
    Path("base.yaml").unlink()
    Path("base.yaml").symlink_to("real.yaml")
    assert "1234" in diagnostic_text(refused_file("top.yaml"))


def test_a_name_that_ends_in_a_line_break_is_no_name() -> None:
    Path("b\n.yaml").write_text("seed: 1\n")
    assert load_recipe(Path("b\n.yaml")).recipe.name == "unnamed"
    assert refused('name: "b\\n"')[0].code == "R105"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "[" * 5000,
        "suite: !!int x",
        "suite: {name: !!timestamp 2001-99-99}",
        "seed: !!int " + "9" * 5000,
        "# " + "x" * MAX_BYTES,
        "suite: [",
        "\x00",
        "",
    ],
)
def test_what_cannot_be_read_has_no_values(text: str) -> None:
    Path("r.yaml").write_text(text)
    assert plain_values(Path("r.yaml")) is None


def test_values_of_a_text_that_nobody_checks() -> None:
    Path("r.yaml").write_text(f"suite: {{name: x, when: 2001-99-99}}\nn: {'9' * 5000}\n")
    assert plain_values(Path("r.yaml")) == {"suite": {"name": "x", "when": "2001-99-99"}, "n": "9" * 5000}
    Path("r.yaml").write_bytes(b"\xff")
    os.mkfifo("f.yaml")
    for name in ("r.yaml", "f.yaml", "none.yaml", "."):
        assert plain_values(Path(name)) is None
