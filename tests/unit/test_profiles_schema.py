"""The JSON Schema for editors: it is the one that ships, takes every file of ours, and underlines what is wrong."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from citysense_profiles.catalogue import OWN_CATALOGUE
from citysense_profiles.schema import SCHEMA_PATH, profile_schema, schema_text
from citysense_profiles.yaml_source import load_yaml

SCHEMA = profile_schema()
FILES = sorted(OWN_CATALOGUE.glob("*/*.yaml"))
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
KNOWN = {
    "$id", "$ref", "$defs", "title", "description", "default", "type", "properties", "required", "additionalProperties",
    "patternProperties", "propertyNames", "minProperties", "maxProperties", "items", "prefixItems", "minItems",
    "maxItems", "anyOf", "const", "enum", "pattern", "minLength", "minimum", "maximum", "exclusiveMinimum",
}  # fmt: skip


def _fits(value: Any, schema: Any) -> bool:
    """What JSON Schema says of the keywords that our schema uses."""
    if isinstance(schema, bool):
        return schema
    assert schema.keys() <= KNOWN
    if "$ref" in schema and not _fits(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]):
        return False
    if "anyOf" in schema and not any(_fits(value, one) for one in schema["anyOf"]):
        return False
    if "const" in schema and (type(value), value) != (type(schema["const"]), schema["const"]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "type" in schema:
        if type(value) is bool and schema["type"] != "boolean":
            return False
        if not isinstance(value, TYPES[schema["type"]]):
            return False
    if isinstance(value, dict):
        return _fits_object({str(key): one for key, one in value.items()}, schema)
    if isinstance(value, list):
        return _fits_array(value, schema)
    if isinstance(value, str):
        return bool(re.search(schema.get("pattern", ""), value)) and len(value) >= schema.get("minLength", 0)
    if isinstance(value, int | float):
        low, high, above = (schema.get(key) for key in ("minimum", "maximum", "exclusiveMinimum"))
        return (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
    return True


def _fits_object(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    if not set(schema.get("required", ())) <= value.keys():
        return False
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        return False
    if not all(_fits(key, schema.get("propertyNames", True)) for key in value):
        return False
    for key, one in value.items():
        patterns = [inner for pattern, inner in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
        inner = [schema["properties"][key]] if key in schema.get("properties", {}) else patterns
        if not all(_fits(one, each) for each in inner or [schema.get("additionalProperties", True)]):
            return False
    return True


def _fits_array(value: list[Any], schema: dict[str, Any]) -> bool:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return False
    first = schema.get("prefixItems", [])
    rest = schema.get("items", True)
    return all(_fits(one, first[index] if index < len(first) else rest) for index, one in enumerate(value))


def test_the_schema_that_ships_is_the_one_of_the_models() -> None:
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text(), "write the output of `profiles schema` to the file"
    assert json.loads(schema_text()) == SCHEMA


def test_it_names_no_host() -> None:
    assert "//" not in schema_text()
    assert SCHEMA["$id"].startswith("urn:")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(OWN_CATALOGUE).as_posix())
def test_no_editor_underlines_a_file_of_ours(path: Path) -> None:
    assert _fits(load_yaml(path.read_text(encoding="utf-8"), path.name), SCHEMA)


DOCUMENT: dict[str, Any] = {
    "schema": 1,
    "id": "acme/x",
    "kind": "waterlogging_gauge",
    "title": "A gauge",
    "product": {"vendor": "Acme", "model": "X", "source": "its manual"},
    "transport": {"mqtt": {}},
    "report_every": "5min",
    "options": {"order": {"title": "Order of words", "default": "high", "choices": {"high": "High", "low": "Low"}}},
    "messages": {
        "report": {
            "codec": {
                "type": "modbus",
                "word_order": {"option": "order", "is": {"high": "high_first", "low": "low_first"}},
            },
            "fields": [
                {"name": "level", "table": "input", "address": 1, "type": "u16", "unit": "cm", "metric": "water.level"},
                {"name": "mode", "table": "input", "address": 2, "type": "u16", "map": {0: "off", 1: "on"}},
            ],
        }
    },
    "vectors": [],
}
REPORT = "messages.report"


def _changed(place: str, value: Any) -> dict[str, Any]:
    document = deepcopy(DOCUMENT)
    node: Any = document
    *way, last = place.split(".")
    for part in way:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[last] = value
    return document


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (f"{REPORT}.codec.unit", {"option": "order"}),
        (f"{REPORT}.fields.0.address", {"option": "order", "is": {"high": 1, "low": 2}}),
        (f"{REPORT}.fields.0.scale", {"option": "order", "is": {"high": "1/3", "low": 0.1}}),
        (f"{REPORT}.fields.0.invalid", [{"option": "order", "is": {"high": 255, "low": 0}}]),
        (f"{REPORT}.fields.1.map", {"option": "order", "is": {"high": {0: "a"}, "low": {0: "b"}}}),
        (f"{REPORT}.fields.1.map", {0: {"option": "order"}, 1: "on"}),
        (f"{REPORT}.fields.0.span", {"raw": [0, 1], "values": [{"setting": "low"}, {"option": "order"}]}),
        (f"{REPORT}.fields", [{"option": "order", "is": {"high": {}, "low": {}}}]),
    ],
)
def test_a_choice_may_stand_anywhere_in_messages(place: str, value: Any) -> None:
    assert _fits(DOCUMENT, SCHEMA)
    assert _fits(_changed(place, value), SCHEMA)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("kind", "toaster"),
        ("kind", {"option": "order"}),
        ("colour", "red"),
        ("id", "Acme X"),
        ("report_every", 300),
        (f"{REPORT}.codec.word_order", "middle_first"),
        (f"{REPORT}.codec.word_order", {"option": "order", "if": {}}),
        (f"{REPORT}.fields.0.address", 70000),
        (f"{REPORT}.fields.0.table", "output"),
        (f"{REPORT}.fields.0.pointer", "/a"),
        (f"{REPORT}.fields", []),
        ("vectors", [{"name": "a", "basis": "guessed", "wire": {"hex": "00"}}]),
    ],
)
def test_what_is_wrong_is_underlined(place: str, value: Any) -> None:
    assert not _fits(_changed(place, value), SCHEMA)
