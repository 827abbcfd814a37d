"""A body beyond the limit gets its answer, whole: the connection is not reset under a sender that is still sending."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from citysense_platform.api.body_limit import BodyLimit

LIMIT = 100_000
LARGE = 24 << 20
"""More than the buffers of both ends of a loopback connection hold."""


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads the body."""
    body = await Request(scope, receive).body()
    await Response(str(len(body)))(scope, receive, send)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        app = BodyLimit(read_all, limit=LIMIT)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.001)
        yield listening.getsockname()[1]
        server.should_exit = True
        await serving


async def ask(port: int, head: str, body: bytes) -> bytes:
    """What comes back to a sender that sends everything before it looks, and closes only then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n".encode() + body)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_declared_length_beyond_the_limit(port: int) -> None:
    answer = await ask(port, f"Content-Length: {LARGE}\r\n", bytes(LARGE))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in answer


async def test_chunks_that_grow_beyond_the_limit_raise_after_the_last_one() -> None:
    """As the application sees it: the refusal comes once nothing is left to be sent."""
    left = 50

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": bytes(LIMIT // 2), "more_body": left > 0}

    async def send(_: Message) -> None:
        raise AssertionError("the application answers, not the limit")

    limited = BodyLimit(read_all, limit=LIMIT)
    with pytest.raises(Exception, match="body_too_large"):
        await limited({"type": "http", "headers": [], "method": "POST", "path": "/"}, receive, send)
    assert left == 0


async def test_who_waits_for_a_go_ahead_is_refused_at_once(port: int) -> None:
    answer = await ask(port, f"Content-Length: {LARGE}\r\nExpect: 100-continue\r\n", b"")
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(("bytes_bound", "seconds", "endless"), [(1_000_000, 60.0, True), (1 << 40, 0.05, False)])
async def test_what_is_dropped_has_a_bound_in_bytes_and_in_time(
    bytes_bound: int, seconds: float, endless: bool
) -> None:
    """`endless`: a body without an end; else a sender that has fallen silent."""
    dropped = 0
    said: list[Message] = []

    async def receive() -> Message:
        nonlocal dropped
        if not endless:
            await asyncio.Event().wait()
        dropped += 65_536
        return {"type": "http.request", "body": bytes(65_536), "more_body": True}

    async def send(message: Message) -> None:
        said.append(message)

    limited = BodyLimit(read_all, limit=LIMIT, drop_bytes=bytes_bound, drop_s=seconds)
    scope: Scope = {"type": "http", "headers": [(b"content-length", b"999999999")], "method": "POST", "path": "/"}
    await asyncio.wait_for(limited(scope, receive, send), 30)
    assert said[0]["status"] == 413
    assert dropped <= bytes_bound + 65_536
