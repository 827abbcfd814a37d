"""What the OpenAPI document says of every route, so that no feature has to repeat it.

Owns the bearer scheme, the shape and examples of refusals, and nothing about any feature.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

from citysense_platform.api.problems import MEDIA_TYPE, ProblemBody, body_of

BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "The admin token, from the file admin-token in the data folder.",
}
_PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}
_OPERATIONS = frozenset({"get", "put", "post", "delete", "patch", "head", "options"})
_UNAUTHORISED = ("unauthorised", "this needs the admin token")
_INVALID = ("invalid", "site.lon: Input should be less than or equal to 180")
_INVALID_FIELD = {"field": "site.lon", "message": "Input should be less than or equal to 180"}


def problem_responses(examples: Mapping[int, tuple[str, str]]) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: `problem_responses({404: ("not_found", "there is no case 7")})`.

    Values are the stable code and an example of the detail. 401 and 422 need not be named, every route gets them.
    """
    return {status: _documented(status, *example) for status, example in examples.items()}


def complete(document: dict[str, Any], open_paths: Collection[str]) -> dict[str, Any]:
    """`document` with the bearer scheme and the common refusals at each operation; `open_paths` need no token."""
    components = document.setdefault("components", {})
    components.setdefault("securitySchemes", {})["bearer"] = BEARER
    schemas = components.setdefault("schemas", {})
    for replaced in ("HTTPValidationError", "ValidationError"):
        schemas.pop(replaced, None)
    schema = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas["Problem"] = {**schema, "title": "Problem"}
    for path, operations in document.get("paths", {}).items():
        for method, operation in operations.items():
            if method in _OPERATIONS:
                _complete_operation(operation, is_open=path in open_paths)
    return document


def _complete_operation(operation: dict[str, Any], *, is_open: bool) -> None:
    responses = operation.setdefault("responses", {})
    operation["security"] = [] if is_open else [{"bearer": []}]
    if not is_open:
        responses.setdefault("401", _documented(401, *_UNAUTHORISED))
    validated = responses.get("422", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if validated.get("$ref", "").endswith("/HTTPValidationError"):
        responses["422"] = _documented(422, *_INVALID, errors=[_INVALID_FIELD])
    operation["responses"] = dict(sorted(responses.items()))


def _documented(status: int, code: str, detail: str, **fields: Any) -> dict[str, Any]:
    return {
        "description": f"{HTTPStatus(status).phrase}, code `{code}`",
        "content": {MEDIA_TYPE: {"schema": _PROBLEM_REF, "example": body_of(status, code, detail, **fields)}},
    }
