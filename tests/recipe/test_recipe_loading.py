"""Files, `extends` and `--set` become one recipe that knows where each value came from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from vlarl.errors import RecipeError
from vlarl.recipe.load import load_recipe, parse_recipe
from vlarl.recipe.schema import Recipe
from vlarl.recipe.shipped import shipped_recipes


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def codes(error: RecipeError) -> list[str]:
    return [d.code for d in error.diagnostics]


def test_an_empty_recipe_is_all_defaults() -> None:
    assert parse_recipe("").recipe == Recipe()
    assert parse_recipe("# nothing\n").recipe == Recipe()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1", 1.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0x10", 16.0),
        ("0o10", 8.0),
        ("010", 10.0),
        ("1E+2", 100.0),
    ],
)
def test_numbers_follow_yaml_1_2(text: str, value: float) -> None:
    assert parse_recipe(f"ppo: {{lr: {text}}}").recipe.ppo.lr == value


@pytest.mark.parametrize("text", ["off", "'off'", '"off"'])
def test_off_is_text(text: str) -> None:
    assert parse_recipe(f"determinism: {text}").recipe.determinism == "off"


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "2001-01-01", "1_000", "1:30", "0b1"])
def test_words_of_yaml_1_1_stay_text(word: str) -> None:
    assert parse_recipe(f"run: {{folder: {word}}}").recipe.run.folder == word


@pytest.mark.parametrize("word", ["true", "True", "TRUE"])
def test_true_is_a_boolean(word: str) -> None:
    assert parse_recipe(f"ppo: {{normalize_advantages: {word}}}").recipe.ppo.normalize_advantages is True


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("\ufeffseed: 3\n".encode())
    assert load_recipe(tmp_path / "a.yaml").recipe.seed == 3


def test_mappings_merge_and_lists_replace(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="ppo: {lr: 1e-3, clip: 0.3}\ncritic: {hidden_sizes: [64, 64]}\nseed: 1\n",
        top="extends: base.yaml\nppo: {lr: 1e-4}\ncritic: {hidden_sizes: [32]}\n",
    )
    recipe = load_recipe(tmp_path / "top.yaml").recipe
    assert (recipe.ppo.lr, recipe.ppo.clip, recipe.seed) == (1e-4, 0.3, 1)
    assert recipe.critic.model_dump()["hidden_sizes"] == [32]


def test_null_stops_inheritance_of_the_warm_start(tmp_path: Path) -> None:
    write(tmp_path, base="imitation: {updates: 500}\n", top="extends: base.yaml\nimitation: null\n")
    assert load_recipe(tmp_path / "top.yaml").recipe.imitation is None


def test_of_several_bases_the_later_wins_and_the_file_over_all(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="seed: 1\nname: a\nppo: {clip: 0.1}\n",
        b="seed: 2\nname: b\n",
        top="extends: [a.yaml, b.yaml]\nname: t\n",
    )
    recipe = load_recipe(tmp_path / "top.yaml").recipe
    assert (recipe.seed, recipe.name, recipe.ppo.clip) == (2, "t", 0.1)


def test_chains_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, root="seed: 9\n", top="extends: deep/middle.yaml\n")
    write(tmp_path / "deep", middle="extends: ../root.yaml\nppo: {clip: 0.4}\n")
    loaded = load_recipe(tmp_path / "top.yaml")
    assert (loaded.recipe.seed, loaded.recipe.ppo.clip) == (9, 0.4)
    assert [source.path.name for source in loaded.sources] == ["root.yaml", "middle.yaml", "top.yaml"]
    assert loaded.sources[0].sha256 == hashlib.sha256(b"seed: 9\n").hexdigest()


def test_a_shared_base_is_listed_once(tmp_path: Path) -> None:
    write(tmp_path, r="seed: 1\n", a="extends: r.yaml\n", b="extends: r.yaml\n", top="extends: [a.yaml, b.yaml]\n")
    assert len(load_recipe(tmp_path / "top.yaml").sources) == 4


def test_a_mapping_of_another_kind_replaces_its_base() -> None:
    from vlarl.recipe.text import Mapping, parse, plain
    from vlarl.recipe.tree import merge

    base, over = parse("p: {kind: a, x: 1, y: 2}")[0], parse("p: {kind: b, z: 3}")[0]
    assert isinstance(base, Mapping)
    assert isinstance(over, Mapping)
    assert plain(merge(base, over)) == {"p": {"kind": "b", "z": 3}}
    same = parse("p: {kind: a, x: 5}")[0]
    assert isinstance(same, Mapping)
    assert plain(merge(base, same)) == {"p": {"kind": "a", "x": 5, "y": 2}}


def test_a_circle_is_named_with_its_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, a="extends: b.yaml\n", b="extends: c.yaml\n", c="seed: 1\nextends: a.yaml\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("a.yaml"))
    (found,) = caught.value.diagnostics
    assert found.code == "R109"
    assert found.notes == ("a.yaml → b.yaml → c.yaml → a.yaml",)
    assert (found.file, found.line, found.column) == ("c.yaml", 2, 10)


def test_a_recipe_cannot_extend_itself(tmp_path: Path) -> None:
    write(tmp_path, a="extends: a.yaml\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "a.yaml")
    assert codes(caught.value) == ["R109"]


def test_exponential_chains_end(tmp_path: Path) -> None:
    write(tmp_path, **{f"f{i}": f"extends: [f{i + 1}.yaml, f{i + 1}.yaml]\n" for i in range(20)}, f20="seed: 1\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "f0.yaml")
    assert codes(caught.value) == ["R110"]


def test_a_missing_base_points_at_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, base="seed: 1\n", top="name: t\nextends: bsae.yaml\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("top.yaml"))
    (found,) = caught.value.diagnostics
    assert (found.code, found.line, found.column, found.hint) == ("R110", 2, 10, "did you mean `base.yaml`?")


def test_a_shipped_recipe_is_extended_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, mine="extends: quickstart\nseed: 8\n", ours="extends: mine.yaml\nname: ours\n")
    expected = load_recipe(shipped_recipes()["quickstart"], ["seed=8"]).recipe
    assert load_recipe(tmp_path / "mine.yaml").recipe == expected
    assert load_recipe(tmp_path / "ours.yaml").recipe == expected.model_copy(update={"name": "ours"})


def test_a_file_without_an_ending_is_no_recipe_even_of_a_shipped_one_s_name(tmp_path: Path) -> None:
    (tmp_path / "quickstart").write_text("seed: 3\n", encoding="utf-8")
    write(tmp_path, mine="extends: quickstart\n")
    expected = load_recipe(shipped_recipes()["quickstart"]).recipe
    assert load_recipe(tmp_path / "mine.yaml").recipe == expected


def test_a_shipped_recipe_is_no_file_of_that_name(tmp_path: Path) -> None:
    write(tmp_path, mine="extends: quickstart.yaml\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "mine.yaml")
    assert str(caught.value.diagnostics[0].hint).endswith("without an ending: `quickstart`")


@pytest.mark.parametrize("value", ["3", "{a: 1}", "[1]", "null", "''"])
def test_extends_takes_paths_only(value: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"extends: {value}")
    assert codes(caught.value) == ["R104"]


def test_a_folder_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "huge.yaml").write_text("# " + "x" * 300_000, encoding="utf-8")
    for path in (tmp_path, tmp_path / "huge.yaml", tmp_path / "none.yaml"):
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert codes(caught.value) == ["R110"]


def test_bytes_that_are_no_text_have_a_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"seed: 1\nname: \xff\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "a.yaml")
    (found,) = caught.value.diagnostics
    assert (found.code, found.line, found.column) == ("R101", 2, 7)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("seed: !!int 1", 1, 7),
        ("a: &x 1\nb: *x", 2, 4),
        ("ppo:\n  <<: {lr: 1}", 2, 3),
        ("seed: 1\n---\nseed: 2", 2, 1),
        ("? [a, b]\n: 1", 1, 3),
        ("seed: " + "[" * 40 + "]" * 40, 1, 38),
        ("suite: !<tag:example.org,2000:x> {}", 1, 8),
    ],
)
def test_what_is_not_part_of_the_language(text: str, line: int, column: int) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    assert [(d.line, d.column) for d in caught.value.diagnostics if d.code == "R112"] == [(line, column)]


def test_duplicate_keys_name_both_places() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("ppo:\n  lr: 1e-4\n  clip: 0.1\n  lr: 1e-5\n")
    (found,) = caught.value.diagnostics
    assert (found.code, found.line, found.column, found.length) == ("R108", 4, 3, 2)
    assert "2:3" in found.message


def test_set_changes_one_value_and_keeps_the_rest() -> None:
    text = "ppo: {lr: 1e-3, clip: 0.3}\nrewards: [{kind: success, truncated: -1.0}]"
    loaded = parse_recipe(text, ["ppo.lr=1e-5", "rewards.0.weight=2", "run.keep.every=5", "imitation=null"])
    recipe = loaded.recipe
    assert (recipe.ppo.lr, recipe.ppo.clip, recipe.run.keep.every, recipe.imitation) == (1e-5, 0.3, 5, None)
    assert recipe.rewards[0].model_dump() == {"kind": "success", "weight": 2.0, "truncated": -1.0, "errored": 0.0}
    assert loaded.overrides[1] == "rewards.0.weight=2"


@pytest.mark.parametrize("text", ["", "rewards: [{kind: success}]"])
@pytest.mark.parametrize("path", ["rewards.0.weight", "rewards[0].weight", "rewards[success].weight"])
def test_set_reaches_into_lists(text: str, path: str) -> None:
    assert parse_recipe(text, [f"{path}=3"]).recipe.rewards[0].model_dump()["weight"] == 3.0


def test_set_takes_whole_mappings_and_lists() -> None:
    recipe = parse_recipe("ppo: {clip: 0.3}", ["ppo={lr: 1e-3}", "critic.hidden_sizes=[8, 8]"]).recipe
    assert (recipe.ppo.lr, recipe.ppo.clip) == (1e-3, 0.3)
    assert recipe.critic.model_dump()["hidden_sizes"] == [8, 8]


def test_the_last_set_wins() -> None:
    assert parse_recipe("", ["seed=1", "seed=2"]).recipe.seed == 2


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("ppo.lr", "R111"),
        ("=3", "R111"),
        ("ppo..lr=3", "R111"),
        ("rewards[0=3", "R111"),
        ("rewards.7.weight=3", "R111"),
        ("rewards[process].weight=3", "R111"),
        ("seed.x=3", "R111"),
        ("rewards.weight=3", "R111"),
        ("ppo.0=3", "R111"),
        (".".join("a" * 50) + "=1", "R111"),
        ("ppo.epoch=3", "R102"),
        ("ppo.lr=fast", "R104"),
        ("ppo.lr={", "R101"),
        ("seed=*x", "R112"),
        ("extends=a.yaml", "R102"),
    ],
)
def test_unusable_overrides_are_shown_as_typed(override: str, code: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("seed: 1\nrewards: [{kind: success}]", [override])
    found = caught.value.diagnostics[0]
    assert (found.code, found.file, found.origin) == (code, None, f"--set {override}")


def test_origins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, base="ppo:\n  clip: 0.3\n  lr: 1e-3\n", top="extends: base.yaml\nppo: {lr: 1e-4}\n")
    loaded = load_recipe(Path("top.yaml"), ["seed=4"])
    assert str(loaded.origin("ppo.lr")) == "top.yaml:2:11"
    assert str(loaded.origin("ppo.clip")) == "base.yaml:2:9 (via `extends` in top.yaml:1)"
    assert str(loaded.origin("seed")) == "--set seed=4"
    assert str(loaded.origin("ppo.gamma")).startswith("default of ppo.gamma (vlarl ")
    assert loaded.recipe.name == "top"
    assert str(loaded.origin("name")) == "name of top.yaml"


def test_every_problem_is_reported_at_once_in_reading_order() -> None:
    text = "nmae: x\nppo: {lr: fast, minibatch_size: 600}\nseed: -1\nsuite: {num_envs: 31}\n"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, ["train.iteration=3"])
    assert codes(caught.value) == ["R102", "R104", "R201", "R105", "R203", "R102"]
    assert caught.value.message == "6 errors in the recipe"


def test_rules_that_read_a_wrong_value_keep_silent() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("suite: {num_envs: many}\nppo: {minibatch_size: 600, micro_batch_size: 7}\n")
    assert codes(caught.value) == ["R104", "R202"]


def test_a_problem_in_a_base_points_into_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, base="ppo:\n  clip: -1\n", top="extends: base.yaml\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("top.yaml"))
    (found,) = caught.value.diagnostics
    assert (found.file, found.line, found.column) == ("base.yaml", 2, 9)
    assert found.origin == "via `extends` in top.yaml:1"
