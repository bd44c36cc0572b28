"""The JSON schema, the docs and the shipped recipes agree with the specs."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlarl.recipe import generated
from vlarl.recipe.fields import documented
from vlarl.recipe.json_schema import recipe_json_schema
from vlarl.recipe.load import load_recipe
from vlarl.recipe.schema import Recipe
from vlarl.recipe.shipped import shipped_recipes
from vlarl.recipe.text import parse, plain
from vlarl.recipe.write import resolved_yaml

SCHEMA = recipe_json_schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def read(text: str) -> Any:
    node, problems = parse(text, file="x")
    assert node is not None
    assert problems == []
    return plain(node)


def subschemas(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for item in node for found in subschemas(item)]
    if not isinstance(node, dict):
        return []
    return [node, *(found for value in node.values() for found in subschemas(value))]


def test_the_committed_files_are_up_to_date() -> None:
    assert generated.check()


def test_it_is_draft_07() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    for node in subschemas(SCHEMA):
        assert not {"prefixItems", "$defs", "discriminator"} & set(node)
        assert "$ref" not in node or len(node) == 1, "draft-07 ignores what stands beside $ref"


def test_every_field_has_a_description_and_a_default() -> None:
    for owner in (SCHEMA, *SCHEMA["definitions"].values()):
        for name, field in owner["properties"].items():
            assert field.get("description"), name
            # Nothing can be guessed for these.
            assert "default" in field or name in ("extends", "checkpoint", "model"), name
    for definition in SCHEMA["definitions"].values():
        assert definition["additionalProperties"] is False
        if "kind" in definition["properties"]:
            assert {"const", "enum"} & set(definition["properties"]["kind"])
    assert all(field.description for field in documented())


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid(name: str) -> None:
    path = shipped_recipes()[name]
    loaded = load_recipe(path)
    assert loaded.warnings == ()
    assert loaded.recipe.name == path.stem
    assert list(VALIDATOR.iter_errors(read(path.read_text(encoding="utf-8")))) == []
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=")


@pytest.mark.parametrize(
    "text",
    [
        "extends: a.yaml\nsuite: {num_envs: 3}",
        "extends: [a.yaml, b.yaml]\npolicy: {num_layers: 1}",
        "imitation: null",
        "train: {rollout: {num_steps: 3}}",
        "ppo: {lr: 1, target_kl: null}",
        "suite: {kind: libero, tasks: [0, put_the_bowl_on_the_plate]}",
    ],
)
def test_editors_accept(text: str) -> None:
    assert list(VALIDATOR.iter_errors(read(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "ppo: {gama: 1}",
        "suite: {kind: x}",
        "rewards: [{weight: 1}]",
        "rewards: []",
        "ppo: {clip: 0}",
        "determinism: fast",
        "extends: 3",
        "suite: {image_size: 63}",
        "suite: {kind: libero, tasks: [1.5]}",
        "train: {rollout: {kind: step}}",
    ],
)
def test_editors_mark(text: str) -> None:
    assert list(VALIDATOR.iter_errors(read(text))) != []


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["a", "on", "1e5", "0x1", "x-y.z"]),
            "seed": st.integers(0, 2**63 - 1),
            "ppo": st.fixed_dictionaries(
                {"lr": st.floats(1e-12, 1e12)}, optional={"target_kl": st.none() | st.floats(1e-9, 1.0)}
            ),
            "imitation": st.none() | st.just({}),
            "run": st.fixed_dictionaries({"folder": st.text(), "batches": st.lists(st.integers(0, 99))}),
        },
    )
)
def test_a_resolved_recipe_reads_back_equal(data: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(data)
    assert Recipe.model_validate(read(resolved_yaml(recipe))) == recipe
