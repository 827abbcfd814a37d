"""The JSON Schema of a profile file, for editors: names of keys, what may stand there, and a sentence about each part.

Owns turning the format's models into that schema. It is looser than the loader where a rule spans several keys: what it
underlines is wrong, and `citysense profiles check` finds the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from citysense_profiles.format.profile_file import ProfileFile

SCHEMA_PATH = Path(__file__).with_name("profile.schema.json")
"""The schema as it ships; a test holds it to `schema_text`."""
_CHOICE = "Choice"
_OPTION = {"$ref": f"#/$defs/{_CHOICE}"}
_REF = "#/$defs/"
Schema = dict[str, Any]


def profile_schema() -> Schema:
    """The schema of a whole file, draft 2020-12. A new object with every call."""
    made = ProfileFile.model_json_schema(by_alias=True, mode="validation")
    definitions: Schema = made.pop("$defs")
    _tidy(made)
    for definition in definitions.values():
        _tidy(definition)
    for name in sorted(set(_reachable(made["properties"]["messages"], definitions))):
        definitions[name]["properties"] = {
            key: value if key == "codec" else _or_choice(value)
            for key, value in definitions[name].get("properties", {}).items()
        }
    definitions[_CHOICE] = _choice()
    description = made.pop("description", "")
    return {
        "$id": "urn:citysense:profile:1",
        "title": "citysense device profile",
        "description": description,
        **{key: value for key, value in made.items() if key != "title"},
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """The schema as it stands in its file."""
    return json.dumps(profile_schema(), indent=1, ensure_ascii=False) + "\n"


def _choice() -> Schema:
    return {
        "title": _CHOICE,
        "description": "The value that an option chooses: the choice itself, or what `is` says for it.",
        "type": "object",
        "properties": {"option": {"type": "string"}, "is": {"type": "object"}},
        "required": ["option"],
        "additionalProperties": False,
    }


def _tidy(node: Any) -> None:
    """Titles that only repeat the key, and defaults of nothing, help nobody.

    `oneOf` becomes `anyOf`: which of several shapes is meant is decided by a key, and an editor should not insist.
    """
    if isinstance(node, list):
        for one in node:
            _tidy(one)
    if not isinstance(node, dict):
        return
    if "oneOf" in node:
        node["anyOf"] = node.pop("oneOf")
    if node.get("default", ...) is None or isinstance(node.get("default"), dict | list):
        del node["default"]
    node.pop("gt", None)  # of a duration, which is a number only once it has been read
    for key, value in node.items():
        if key == "properties":
            for one in value.values():
                one.pop("title", None)
                _tidy(one)
        elif key not in ("default", "const", "enum"):
            _tidy(value)


def _or_choice(node: Schema) -> Schema:
    """The same, or a choice."""
    opened = _opened_inside(node)
    if "anyOf" in opened:
        return {**opened, "anyOf": [*map(_opened_inside, opened["anyOf"]), _OPTION]}
    outer = {key: value for key, value in opened.items() if key in ("default", "description")}
    return {"anyOf": [{key: value for key, value in opened.items() if key not in outer}, _OPTION], **outer}


def _opened_inside(node: Schema) -> Schema:
    """The same, with choices among what stands in its lists and tables."""
    opened = dict(node)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            opened[key] = _or_choice(node[key])
    if "prefixItems" in node:
        opened["prefixItems"] = [_or_choice(one) for one in node["prefixItems"]]
    return opened


def _reachable(node: Any, definitions: Schema, seen: set[str] | None = None) -> Iterator[str]:
    """The names of all definitions that `node` leads to."""
    met = set() if seen is None else seen
    if isinstance(node, list):
        for one in node:
            yield from _reachable(one, definitions, met)
    elif isinstance(node, dict):
        name = str(node.get("$ref", "")).removeprefix(_REF)
        if name and name not in met:
            met.add(name)
            yield name
            yield from _reachable(definitions[name], definitions, met)
        for value in node.values():
            yield from _reachable(value, definitions, met)
