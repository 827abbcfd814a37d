"""What surrounds every feature: the token, errors, headers, health, metrics and the documentation."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CollectorRegistry, Counter
from pydantic import BaseModel

from citysense.errors import Overloaded, StorageError, StorageFull
from citysense.keys import token_digest
from citysense_platform.api.app import MAX_BODY_BYTES, build_api
from citysense_platform.api.health import Health, health_routes
from citysense_platform.api.metrics import metrics_routes
from citysense_platform.api.openapi import problem_responses
from citysense_platform.api.paging import page
from citysense_platform.api.problems import Problem

TOKEN = "the-admin-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Thing(BaseModel):
    """Something to post."""

    size: int


def features() -> APIRouter:
    router = APIRouter(tags=["things"])
    failures: dict[str, Exception] = {
        "full": StorageFull("/secret/folder/city.db: no space left on the disk"),
        "busy": Overloaded("5000 writes wait"),
        "broken": StorageError("/secret/folder/city.db is damaged"),
        "bug": ZeroDivisionError("/secret/folder"),
        "problem": Problem(409, "taken", "it is taken", by="someone"),
    }

    @router.post("/things", responses=problem_responses({409: ("taken", "it is taken")}))
    async def post(thing: Thing) -> Thing:
        return thing

    @router.get("/things/{name}")
    async def fail(name: str) -> None:
        raise failures[name]

    @router.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    return router


def own_token() -> APIRouter:
    router = APIRouter()

    @router.get("/ingest/v1/{lane}")
    async def ingest(lane: str) -> str:
        return lane

    return router


def application(health: Health, registry: CollectorRegistry) -> FastAPI:
    return build_api(
        admin_digest=token_digest(TOKEN),
        routers=[features(), metrics_routes(registry)],
        open_routers=[own_token(), health_routes(health)],
        title="citysense",
        version="1.2",
    )


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
async def http(health: Health) -> AsyncIterator[aiohttp.ClientSession]:
    registry = CollectorRegistry()
    Counter("frames", "Frames seen", registry=registry).inc(3)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(application(health, registry), log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.001)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{listening.getsockname()[1]}") as session:
            yield session
        server.should_exit = True
        await serving


async def ask(
    http: aiohttp.ClientSession, method: str, path: str, *, headers: dict[str, str] = BEARER, **body: Any
) -> tuple[int, Any]:
    async with http.request(method, path, headers=headers, **body) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/ingest/v1/safety"])
async def test_open_routes_need_no_token(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path) as response:
        assert response.status == 200


@pytest.mark.parametrize("path", ["/things/problem", "/metrics", "/nothing", "/redoc", "/ingest/v1", "/healthz/x"])
async def test_everything_else_does(http: aiohttp.ClientSession, path: str) -> None:
    wrong = ("", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \u00ff")
    for headers in ({}, *({"Authorization": value} for value in wrong)):
        async with http.get(path, headers=headers) as response:
            assert response.status == 401, headers
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="citysense"'
            assert response.content_type == "application/problem+json"
            assert (await response.json(content_type=None))["code"] == "unauthorised"


async def test_token_is_asked_for_before_the_body_is_looked_at(http: aiohttp.ClientSession) -> None:
    assert (await ask(http, "POST", "/things", headers={}, data="{"))[0] == 401


async def test_websockets_need_the_token_too(health: Health) -> None:
    api = application(health, CollectorRegistry())
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await api({"type": "websocket", "path": "/things", "headers": [], "query_string": b""}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_problem_carries_its_code_and_fields(http: aiohttp.ClientSession) -> None:
    assert await ask(http, "GET", "/things/problem") == (
        409,
        {
            "type": "about:blank",
            "title": "Conflict",
            "status": 409,
            "detail": "it is taken",
            "code": "taken",
            "by": "someone",
        },
    )


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("full", 503, "storage_full"),
        ("busy", 503, "overloaded"),
        ("broken", 503, "storage_failed"),
        ("bug", 500, "internal"),
    ],
)
async def test_failures_inside_say_what_to_do_and_nothing_of_the_inside(
    http: aiohttp.ClientSession, name: str, status: int, code: str
) -> None:
    async with http.get(f"/things/{name}", headers=BEARER) as response:
        text = await response.text()
        assert response.status == status
        assert response.content_type == "application/problem+json"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert ("Retry-After" in response.headers) == (status == 503)
    assert f'"code":"{code}"' in text
    assert "secret" not in text


async def test_routers_own_errors_are_problems(http: aiohttp.ClientSession) -> None:
    status, problem = await ask(http, "GET", "/nothing")
    assert (status, problem["code"], problem["type"]) == (404, "not_found", "about:blank")
    async with http.delete("/things", headers=BEARER) as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert (await response.json(content_type=None))["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"json": {"size": "hush-hush"}}, "size"),
        ({"json": {}}, "size"),
        ({"json": []}, ""),
        ({"data": b'{"size": '}, ""),
        ({"data": b""}, ""),
        ({"data": b'{"size": 1}', "headers": {**BEARER, "Content-Type": "text/plain"}}, ""),
    ],
)
async def test_invalid_bodies_name_the_field_and_do_not_echo(
    http: aiohttp.ClientSession, body: dict[str, Any], field: str
) -> None:
    if "data" in body:
        body.setdefault("headers", {**BEARER, "Content-Type": "application/json"})
    status, problem = await ask(http, "POST", "/things", **body)
    assert (status, problem["code"]) == (422, "invalid")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert "hush" not in str(problem)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"size": ' + b"9" * 5000 + b"}", b"\xff\xfe\x00"])
async def test_nasty_json_is_refused_not_crashed_on(http: aiohttp.ClientSession, body: bytes) -> None:
    status, problem = await ask(
        http, "POST", "/things", data=body, headers={**BEARER, "Content-Type": "application/json"}
    )
    assert status in (400, 422)
    assert problem["code"] in ("bad_request", "invalid")


@pytest.mark.parametrize("path", ["/things", "/raw"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large_bodies_are_refused(http: aiohttp.ClientSession, path: str, chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            yield bytes(65536)

    headers = {**BEARER, "Content-Type": "application/json"}
    body = chunks() if chunked else io.BytesIO(bytes(MAX_BODY_BYTES + 1))
    status, problem = await ask(http, "POST", path, data=body, headers=headers)
    assert (status, problem["code"]) == (413, "body_too_large")


async def test_body_of_exactly_the_limit_passes(http: aiohttp.ClientSession) -> None:
    assert await ask(http, "POST", "/raw", data=io.BytesIO(bytes(MAX_BODY_BYTES))) == (200, MAX_BODY_BYTES)


async def test_every_answer_has_the_security_headers(http: aiohttp.ClientSession) -> None:
    for path in ("/healthz", "/openapi.json", "/things/problem", "/nothing", "/metrics"):
        async with http.get(path, headers=BEARER) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert "default-src 'self'" in response.headers["Content-Security-Policy"]
            assert response.headers["Cache-Control"] == "no-store"


async def test_part_that_makes_no_progress_makes_the_process_not_ready(
    http: aiohttp.ClientSession, health: Health
) -> None:
    ages: list[float | None] = [None]
    health.check("rules", lambda: ages[-1], limit=10)
    health.check("store", lambda: 0.0, limit=10)
    assert (await ask(http, "GET", "/readyz", headers={}))[1]["failing"] == ["rules"]
    ages.append(10.0)
    status, state = await ask(http, "GET", "/readyz", headers={})
    assert (status, state["status"]) == (200, "ready")
    assert state["checks"][0] == {"name": "rules", "age": 10.0, "limit": 10, "ok": True}
    ages.append(10.001)
    status, state = await ask(http, "GET", "/readyz", headers={})
    assert (status, state["code"], state["failing"]) == (503, "not_ready", ["rules"])
    assert (await ask(http, "GET", "/healthz", headers={}))[0] == 200


def test_two_checks_of_one_name_are_a_mistake(health: Health) -> None:
    health.check("rules", lambda: 0.0, limit=1)
    with pytest.raises(ValueError, match="rules"):
        health.check("rules", lambda: 0.0, limit=1)


async def test_metrics_are_prometheus_text(http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics", headers=BEARER) as response:
        assert response.content_type == "text/plain"
        assert "frames_total 3.0" in await response.text()


async def test_docs_page_asks_nothing_from_outside_and_its_policy_fits(http: aiohttp.ClientSession) -> None:
    async with http.get("/docs") as response:
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    assert response.content_type == "text/html"
    assert not re.search(r"(https?:)?//[a-z]", text.replace("// Text", ""))
    assert "innerHTML" not in text
    for element in ("script", "style"):
        [inline] = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert not re.search(r"\son[a-z]+=|\sstyle=", text)


async def test_openapi_declares_token_and_refusals(http: aiohttp.ClientSession) -> None:
    _, document = await ask(http, "GET", "/openapi.json", headers={})
    assert document["info"] == {"title": "citysense", "version": "1.2"}
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    post = document["paths"]["/things"]["post"]
    assert post["security"] == [{"bearer": []}]
    assert sorted(post["responses"]) == ["200", "401", "409", "422"]
    for status in ("401", "409", "422"):
        content = post["responses"][status]["content"]["application/problem+json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert content["example"]["status"] == int(status)
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "401" not in document["paths"]["/healthz"]["get"]["responses"]
    assert {"type", "title", "status", "detail", "code"} <= set(
        document["components"]["schemas"]["Problem"]["required"]
    )
    text = str(document)
    names = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert names <= document["components"]["schemas"].keys()
    assert "HTTPValidationError" not in text


def test_page_says_whether_there_is_more() -> None:
    assert page([1, 2, 3], 2, str) == {"items": [1, 2], "next": "2"}
    assert page([1, 2], 2, str) == {"items": [1, 2], "next": None}
    assert page([], 2, str) == {"items": [], "next": None}
