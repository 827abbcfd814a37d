"""Errors as answers: problem+json (RFC 9457) with a stable `code`.

Owns the one shape in which every refusal leaves the platform, also those of the router, of validation and of the
database. Never puts internals, or what the sender sent, into an answer: it may be a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException as RouterError

from citysense.errors import Overloaded, StorageError, StorageFull

MEDIA_TYPE = "application/problem+json"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    # Answers hold what the bearer may see, one of them a password.
    "Cache-Control": "no-store",
}
RETRY_AFTER_S = 5
"""A full disk heals within 10 s of space returning and a full queue within seconds."""

_ROUTER_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
}
_ROUTER_DETAILS = {
    404: "there is nothing at this path; /docs lists all that is",
    405: "this path does not take this method; the Allow header says which it takes",
}


class Problem(HTTPException):
    """A refusal with HTTP `status`, a stable `code` for programs and a `detail` for people.

    `fields` stand beside them in the answer; `headers` are sent along.
    """

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> None:
        super().__init__(status, detail, dict(headers) if headers else None)
        self.code = code
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.status_code} {self.code}: {self.detail}"


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemBody(BaseModel):
    """The answer to a request that was refused; some carry more fields."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] = []


def body_of(status: int, code: str, detail: str, **fields: Any) -> dict[str, Any]:
    """The JSON object of a refusal."""
    known = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    return {**fields, **known}


def answer(
    status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **fields: Any
) -> JSONResponse:
    """The response of a refusal."""
    return JSONResponse(
        body_of(status, code, detail, **fields),
        status,
        headers={**SECURITY_HEADERS, **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def field_errors(faults: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Pydantic's faults as field and message: `site.lon`, `limit`; the whole body is ''."""
    return [_field_error(fault) for fault in faults]


def _field_error(fault: Mapping[str, Any]) -> dict[str, str]:
    where = fault["loc"][1:]
    if fault["type"] == "json_invalid":
        return {"field": "", "message": f"not JSON: {fault['ctx']['error']} at byte {where[0] if where else 0}"}
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not where and fault["loc"] == ("body",):
        message = f"{message}; send a JSON object with Content-Type: application/json"
    return {"field": ".".join(str(part) for part in where), "message": message}


def render_problems(app: FastAPI) -> None:
    """Let every error of `app` leave as problem+json."""

    async def problem(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return answer(error.status_code, error.code, error.detail, headers=error.headers, **error.fields)

    async def router(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RouterError)
        status = error.status_code
        detail = _ROUTER_DETAILS.get(status, str(error.detail))
        code = _ROUTER_CODES.get(status) or HTTPStatus(status).name.lower()
        return answer(status, code, detail, headers=error.headers)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = field_errors(error.errors())
        first = errors[0]
        detail = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
        return answer(422, "invalid", detail, errors=errors)

    async def storage(_: Request, error: Exception) -> JSONResponse:
        full, busy = isinstance(error, StorageFull), isinstance(error, Overloaded)
        code = "storage_full" if full else "overloaded" if busy else "storage_failed"
        sentence = {
            "storage_full": "no space is left on the platform's disk; nothing was changed; try again once there is",
            "overloaded": "too many requests wait for the disk; try again shortly",
            "storage_failed": "the database could not be used; nothing was changed; the platform's log says why",
        }[code]
        return answer(503, code, sentence, headers={"Retry-After": str(RETRY_AFTER_S)})

    async def bug(_: Request, __: Exception) -> JSONResponse:
        # The server logs the error with its trace; the sender can do nothing with it.
        return answer(500, "internal", "something went wrong inside the platform; its log says what")

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(RouterError, router)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(StorageError, storage)
    app.add_exception_handler(Exception, bug)
