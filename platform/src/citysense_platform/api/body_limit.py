"""Refuses bodies that are too large, as a problem like all others (the framework's own limit answers in plain text)."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from citysense_platform.api.problems import Problem, answer

_CODE = "body_too_large"
MAX_DIGITS = 18
"""No body is that long, and a number of thousands of digits takes long to read."""


class BodyLimit:
    """ASGI middleware: 413 for more than `limit` bytes, at once where the length is declared, else when it is passed."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._detail = f"the body is larger than {limit} bytes; send it in parts"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what is read of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and (len(declared) > MAX_DIGITS or int(declared) > self._limit):
            await answer(413, _CODE, self._detail)(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                # Raised in the route that reads; the application renders it.
                raise Problem(413, _CODE, self._detail)
            return message

        await self._app(scope, counted, send)
