"""The HTTP side of ingest: /ingest/v1, spoken by gateways in MessagePack.

Owns authentication of gateways and status codes. Plain Starlette on purpose: these routes carry every reading,
and validation is msgspec's. 2xx means committed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec
from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from citysense import wire
from citysense.clock import Clock
from citysense_platform.api.access import bearer_of
from citysense_platform.api.problems import Problem
from citysense_platform.ingest.accept import BatchMalformed
from citysense_platform.ingest.gateways import GatewayStates
from citysense_platform.ingest.log import IngestLog
from citysense_profiles.reading import ReadingClass

T = TypeVar("T")

POLL_S = 25.0
"""How long a gateway's question for a newer roster waits; below the usual half minute of proxies."""
MOST_OUTCOMES = 1_000
"""Of one request: one transaction of city.db, of some tens of milliseconds."""
MEDIA_TYPE = "application/msgpack"

_encode = msgspec.msgpack.Encoder().encode
_batches = msgspec.msgpack.Decoder(wire.Batch)
_heartbeats = msgspec.msgpack.Decoder(wire.Heartbeat)
_outcomes = msgspec.msgpack.Decoder(wire.Outcomes)


class RosterPoll(Protocol):
    """Answers with the roster of a gateway once it is newer than a version, or None after the time is over."""

    def __call__(self, gateway: str, newer_than: int, timeout: float, /) -> Awaitable[wire.Roster | None]:
        """See above; `timeout` in seconds."""
        ...


class OrdersPoll(Protocol):
    """Answers with what a gateway is to do beyond a number, or None after the time is over."""

    def __call__(self, gateway: str, after: int, timeout: float, /) -> Awaitable[wire.Orders | None]:
        """See above; `timeout` in seconds."""
        ...


class OutcomesTaker(Protocol):
    """Takes down what became of a gateway's orders."""

    def __call__(self, gateway: str, said: wire.Outcomes, /) -> Awaitable[None]:
        """Returns after the commit."""
        ...


def ingest_routes(
    log: IngestLog,
    gateways: GatewayStates,
    *,
    gateway_of: Callable[[str], str | None],
    roster: RosterPoll,
    orders: OrdersPoll,
    outcomes: OutcomesTaker,
    clock: Clock,
) -> APIRouter:
    """Routes for gateways. They check the gateway's own token; the admin's has no business here."""

    def caller(request: Request) -> str:
        token = bearer_of(request.headers.get("authorization"))
        gateway = gateway_of(token) if token is not None else None
        if gateway is None:
            raise Problem(
                401,
                "gateway_unknown",
                "no gateway has this token: Authorization: Bearer <the text in the data folder's gateway-token>",
                headers={"WWW-Authenticate": 'Bearer realm="citysense ingest"'},
            )
        return gateway

    async def submit(request: Request) -> Response:
        gateway = caller(request)
        name = request.path_params["cls"]
        if name not in {str(cls) for cls in ReadingClass}:
            raise Problem(404, "no_such_lane", f"there is no lane {name!r}; lanes are safety, state and bulk")
        batch = _decoded(_batches, await _body(request))
        try:
            answer = await log.submit(gateway, ReadingClass(name), batch)
        except BatchMalformed as e:
            raise Problem(400, "malformed_batch", str(e)) from e
        return Response(_encode(answer), media_type=MEDIA_TYPE)

    async def heartbeat(request: Request) -> Response:
        gateway = caller(request)
        beat = _decoded(_heartbeats, await _body(request))
        if beat.gateway != gateway:
            raise Problem(403, "other_gateway", f"this token belongs to {gateway!r}, the heartbeat to {beat.gateway!r}")
        gateways.note(gateway, beat, arrived=clock.now_ms())
        return Response(status_code=204)

    async def poll_roster(request: Request) -> Response:
        gateway = caller(request)
        version = _number(request, "version", "is the whole number of the roster you have, 0 for none")
        newer = await roster(gateway, version, POLL_S)
        return Response(status_code=204) if newer is None else Response(_encode(newer), media_type=MEDIA_TYPE)

    async def poll_orders(request: Request) -> Response:
        gateway = caller(request)
        after = _number(request, "after", "is the number of the last order you have, 0 for none")
        wait = min(
            _number(request, "wait", "is a whole number of seconds, at most 25 are waited", other=POLL_S), POLL_S
        )
        found = await orders(gateway, after, wait)
        return Response(status_code=204) if found is None else Response(_encode(found), media_type=MEDIA_TYPE)

    async def take_outcomes(request: Request) -> Response:
        gateway = caller(request)
        said = _decoded(_outcomes, await _body(request))
        if len(said.outcomes) > MOST_OUTCOMES:
            raise Problem(413, "too_many_outcomes", f"at most {MOST_OUTCOMES} outcomes go into one request")
        await outcomes(gateway, said)
        return Response(status_code=204)

    router = APIRouter()
    # Before the lanes: the path of a lane would match it too.
    router.add_route("/ingest/v1/heartbeat", heartbeat, methods=["POST"], include_in_schema=False)
    router.add_route("/ingest/v1/roster", poll_roster, methods=["GET"], include_in_schema=False)
    router.add_route("/ingest/v1/orders", poll_orders, methods=["GET"], include_in_schema=False)
    router.add_route("/ingest/v1/outcomes", take_outcomes, methods=["POST"], include_in_schema=False)
    router.add_route("/ingest/v1/{cls}", submit, methods=["POST"], include_in_schema=False)
    return router


def _number(request: Request, name: str, meaning: str, *, other: float = 0) -> int:
    text = request.query_params.get(name, f"{other:.0f}")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Problem(400, f"malformed_{name}", f"{name} {meaning}")
    return int(text)


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except ValueError as e:
        raise Problem(400, "malformed_body", f"the body is not the MessagePack that belongs here: {e}") from e


async def _body(request: Request) -> bytes:
    """The whole body; how long it may be is the application's matter, see `api.body_limit`."""
    try:
        return await request.body()
    except ClientDisconnect as e:
        raise Problem(400, "body_cut_short", "the connection ended inside the body") from e
