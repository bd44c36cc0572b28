"""JSON schema of the recipe language for editors, within draft-07."""

from __future__ import annotations

import json
from typing import Any

from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.study import StudySpec

TITLE = "vlarl recipe"
STUDY_TITLE = "vlarl study"
_EXTENDS = {
    "description": "Recipes this one builds on: files relative to this one, or shipped recipes by name; later ones "
    "win, this file wins over all.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


def recipe_json_schema() -> dict[str, Any]:
    """The schema as plain data.

    Keys that a section needs are not `required` here, because a recipe with `extends` may inherit
    them; only items of lists, which are never merged, must be complete.
    """
    raw = Recipe.model_json_schema(ref_template="#/definitions/{model}")
    definitions = raw.pop("$defs", {})
    for definition in definitions.values():
        definition.pop("required", None)
        _describe(definition, definitions)
    needed = raw.pop("required", [])
    schema: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": TITLE,
        **{key: value for key, value in _draft7(raw).items() if key != "title"},
        "definitions": {name: _draft7(definition) for name, definition in sorted(definitions.items())},
    }
    schema["properties"] = {"extends": _EXTENDS, **schema["properties"]}
    rewards = schema["properties"]["rewards"]["items"]
    schema["properties"]["rewards"]["items"] = {**rewards, "required": ["kind"]}
    if needed:
        schema["if"] = {"not": {"required": ["extends"]}}
        schema["then"] = {"required": needed}
    return schema


def _describe(definition: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Gives `kind` and nested sections the description of what they name."""
    for name, field in definition.get("properties", {}).items():
        named = definitions.get(str(field.get("$ref", "")).rpartition("/")[2])
        about = definition if name == "kind" else named
        if about is not None and "description" in about:
            field.setdefault("description", about["description"])


def study_json_schema() -> dict[str, Any]:
    """The schema of study files."""
    raw = StudySpec.model_json_schema(ref_template="#/definitions/{model}")
    definitions = raw.pop("$defs", {})
    _describe(raw, definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": STUDY_TITLE,
        **{key: value for key, value in _draft7(raw).items() if key != "title"},
        "definitions": {name: _draft7(definition) for name, definition in sorted(definitions.items())},
    }


def schema_text(schema: dict[str, Any] | None = None) -> str:
    """A schema, of recipes when absent, as the committed file holds it."""
    return json.dumps(schema or recipe_json_schema(), indent=2, ensure_ascii=False) + "\n"


def _draft7(node: Any) -> Any:
    """Rewrites what draft-07 lacks or ignores: siblings of `$ref`, `discriminator`, `oneOf` of kinds."""
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node
    done = {key: _draft7(value) for key, value in node.items() if key != "discriminator"}
    assert "prefixItems" not in done, "draft-07 has no tuples; use a list in the spec"
    if isinstance(done.get("title"), str):
        del done["title"]  # a class or field name once more
    if "oneOf" in done:
        # An overlay may leave `kind` to its base, and then fits more than one choice.
        done["anyOf"] = done.pop("oneOf")
    if "$ref" in done and len(done) > 1:
        done = {"allOf": [{"$ref": done.pop("$ref")}], **done}
    return done
