"""Who may ask: the admin's bearer token, checked before anything of a request is read.

Owns the gate in front of the application. Everything needs the token unless its route was declared open; a path that
does not exist is no exception, so a route forgotten later is closed, not open.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from citysense.keys import token_digest
from citysense_platform.api.problems import answer


def bearer_of(authorization: str | None) -> str | None:
    """The token of an Authorization header's value, None if it carries none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


class Gate:
    """ASGI middleware that lets through the bearer of the admin token, and anyone to `open_routes`."""

    def __init__(self, app: ASGIApp, *, admin_digest: bytes, open_routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._digest = admin_digest
        self._open = tuple(open_routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "lifespan" or self._is_open(scope) or self._is_admin(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            refusal = answer(
                401,
                "unauthorised",
                "this needs the admin token: Authorization: Bearer <the text in the data folder's admin-token>",
                headers={"WWW-Authenticate": 'Bearer realm="citysense"'},
            )
            await refusal(scope, receive, send)
        else:
            # 1008: policy violation; before the handshake is accepted, servers make it a plain 403.
            await send({"type": "websocket.close", "code": 1008})

    def _is_open(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._open)

    def _is_admin(self, scope: Scope) -> bool:
        token = bearer_of(Headers(scope=scope).get("authorization"))
        return token is not None and hmac.compare_digest(token_digest(token), self._digest)
