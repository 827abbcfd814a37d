"""The gateway's own small HTTP server, on loopback only: alive, ready, figures, and what the last reload changed.

Owns the socket and the routes; what they say comes from elsewhere. Without a token: nobody but this machine can reach
it, and nothing personal is said. It takes no orders: whoever may signal the process reloads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from citysense.errors import SetupError
from citysense_gateway.readiness import Check, ready
from citysense_gateway.reload import Reloaded

HOST = "127.0.0.1"
GRACE_S = 0.5


class StatusServer:
    """Serves /livez, /readyz, /metrics and /reloads."""

    def __init__(
        self,
        *,
        checks: Callable[[], list[Check]],
        metrics: Callable[[], bytes],
        reloads: Callable[[], Sequence[Reloaded]],
    ) -> None:
        self._checks = checks
        self._metrics = metrics
        self._reloads = reloads
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> int:
        """Listen; the port, which is a free one for 0. Raises SetupError."""
        app = web.Application()
        app.router.add_get("/livez", self._alive)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._figures)
        app.router.add_get("/reloads", self._reloaded)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, port).start()
        except OSError as e:
            await self.stop()
            raise SetupError(
                f"the status server cannot listen on {HOST} port {port}: {e.strerror or e};"
                " choose another with --status-port"
            ) from e
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _alive(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _ready(self, _: web.Request) -> web.Response:
        found = self._checks()
        good = ready(found)
        body = {"status": "ready" if good else "not ready", "checks": [asdict(check) for check in found]}
        return web.json_response(body, status=200 if good else 503)

    async def _figures(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _reloaded(self, _: web.Request) -> web.Response:
        return web.json_response({"items": [asdict(reloaded) for reloaded in self._reloads()]})
