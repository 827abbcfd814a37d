"""Assembles the HTTP application out of the features' routers. Owns what surrounds them all; knows no feature."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from starlette.routing import BaseRoute

from citysense_platform.api.access import Gate
from citysense_platform.api.body_limit import BodyLimit
from citysense_platform.api.headers import SecurityHeaders
from citysense_platform.api.openapi import complete
from citysense_platform.api.problems import render_problems

MAX_BODY_BYTES = 4 << 20
"""A full uplink batch is well below; more is a mistake or an attack."""
OPENAPI_URL = "/openapi.json"
_DOCS = Path(__file__).with_name("docs.html")


class Api(FastAPI):
    """FastAPI whose document names the token and our refusals. `open_paths` need no token."""

    def __init__(self, *, open_paths: Collection[str], **settings: Any) -> None:
        self._open_paths = open_paths
        super().__init__(**settings)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = complete(super().openapi(), self._open_paths)
        return self.openapi_schema


def build_api(
    *,
    admin_digest: bytes,
    routers: Sequence[APIRouter],
    open_routers: Sequence[APIRouter],
    title: str,
    version: str,
) -> FastAPI:
    """The application: `routers` behind the admin token, `open_routers` (health; those with a token of their own) not.

    `admin_digest` is `citysense.keys.token_digest` of the token. /docs and /openapi.json are served here, to anyone.
    """
    docs = docs_routes()
    open_routes = [route for router in (docs, *open_routers) for route in router.routes]
    open_paths = {path for route in open_routes if (path := getattr(route, "path", None))}
    api = Api(
        open_paths=open_paths,
        title=title,
        version=version,
        openapi_url=OPENAPI_URL,
        # The usual pages load their scripts from a CDN, which a city's network does not reach.
        docs_url=None,
        redoc_url=None,
    )
    api_route = next(route for route in api.router.routes if getattr(route, "path", None) == OPENAPI_URL)
    gate_open: list[BaseRoute] = [api_route, *open_routes]
    for router in (docs, *open_routers, *routers):
        api.include_router(router)
    render_problems(api)
    # The last one added is the outermost.
    api.add_middleware(BodyLimit, limit=MAX_BODY_BYTES)
    api.add_middleware(Gate, admin_digest=admin_digest, open_routes=gate_open)
    api.add_middleware(SecurityHeaders)
    return api


def docs_routes() -> APIRouter:
    """/docs: one page of ours that renders the OpenAPI document and asks nothing from outside."""
    page = _DOCS.read_text(encoding="utf-8")
    policy = "; ".join(
        (
            "default-src 'none'",
            "connect-src 'self'",
            f"script-src {_inline_hash(page, 'script')}",
            f"style-src {_inline_hash(page, 'style')}",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    )
    router = APIRouter()

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    return router


def _inline_hash(page: str, element: str) -> str:
    """The CSP source that allows exactly the one inline `element` of the page."""
    inline = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    assert inline is not None
    digest = base64.b64encode(hashlib.sha256(inline[1].encode()).digest()).decode()
    return f"'sha256-{digest}'"
