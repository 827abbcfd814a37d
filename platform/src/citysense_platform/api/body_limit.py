"""Refuses bodies that are too large, as a problem like all others (the framework's own limit answers in plain text).

What is too large is read and dropped, up to a bound, before the answer: a server that answers and closes while the sender
is still sending resets the connection, and the sender sees that instead of the answer.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from citysense_platform.api.problems import Problem, answer

_CODE = "body_too_large"
MAX_DIGITS = 18
"""No body is that long, and a number of thousands of digits takes long to read."""
DROP_BYTES = 64 << 20
"""Read and dropped of one body at most; whoever sends more has to live with the reset."""
DROP_S = 10.0
"""And for so long at most: a slow sender must not hold the connection."""


class BodyLimit:
    """ASGI middleware: 413 for more than `limit` bytes."""

    def __init__(self, app: ASGIApp, *, limit: int, drop_bytes: int = DROP_BYTES, drop_s: float = DROP_S) -> None:
        self._app = app
        self._limit = limit
        self._drop_bytes = drop_bytes
        self._drop_s = drop_s
        self._detail = f"the body is larger than {limit} bytes; send it in parts"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what is read of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and (len(declared) > MAX_DIGITS or int(declared) > self._limit):
            # Who waits for our go-ahead has sent nothing yet, and reading would be the go-ahead.
            if headers.get("expect", "").lower() != "100-continue":
                await self._drop(receive)
            await answer(413, _CODE, self._detail)(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                if message.get("more_body", False):
                    await self._drop(receive)
                # Raised in the route that reads; the application renders it.
                raise Problem(413, _CODE, self._detail)
            return message

        await self._app(scope, counted, send)

    async def _drop(self, receive: Receive) -> None:
        """Read on to the end of the body, or to the bound."""
        dropped = 0
        try:
            async with asyncio.timeout(self._drop_s):
                while dropped <= self._drop_bytes:
                    message = await receive()
                    dropped += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return  # the sender is too slow; the answer goes out all the same
