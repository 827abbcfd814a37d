"""The gateways of the city: enrolled, listed, revoked; and which of them a bearer token belongs to.

Owns the digests of their tokens, never keeps a token.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from citysense.clock import Clock
from citysense.keys import token_digest
from citysense_platform.city.database import City
from citysense_platform.registry import rows
from citysense_platform.registry.device import Gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """A gateway just enrolled, with its token in clear."""

    gateway: Gateway
    token: str


class Gateways:
    """The gateways that may submit. `new_token` makes their tokens."""

    def __init__(self, city: City, clock: Clock, *, new_token: Callable[[], str]) -> None:
        self._city = city
        self._clock = clock
        self._new_token = new_token
        self._digests: dict[str, bytes] = {}

    async def ensure_gateway(self, gateway_id: str, token: str) -> None:
        """Let `token` speak for that gateway from now on, in place of an earlier token; loads all others too.

        One that was revoked stays so.
        """
        digest, now = token_digest(token), self._clock.now_ms()

        def work(connection: Connection) -> dict[str, bytes]:
            known = rows.find_gateway(connection, gateway_id)
            if known is None or known.revoked is None:
                rows.keep_gateway(connection, gateway_id, digest, now=now)
            return rows.gateway_digests(connection)

        held = await self._city.read(rows.gateway_digests)
        # A start on a full disk must not need a write for what stands there already.
        self._digests = held if held.get(gateway_id) == digest else await self._city.write(work)

    async def enrol(self, gateway_id: str) -> Enrolled | None:
        """Enrol a gateway; its token is in the result and nowhere else. None if the id was given out before."""
        token, now = self._new_token(), self._clock.now_ms()
        digest = token_digest(token)

        def work(connection: Connection) -> Gateway | None:
            if rows.find_gateway(connection, gateway_id) is not None:
                return None
            rows.keep_gateway(connection, gateway_id, digest, now=now)
            return rows.find_gateway(connection, gateway_id)

        gateway = await self._city.write(work)
        if gateway is None:
            return None
        self._digests = {**self._digests, gateway_id: digest}
        return Enrolled(gateway=gateway, token=token)

    async def revoke(self, gateway_id: str) -> Gateway | None:
        """End a gateway's token for good; None if there is no such gateway."""
        now = self._clock.now_ms()

        def work(connection: Connection) -> Gateway | None:
            gateway = rows.find_gateway(connection, gateway_id)
            if gateway is None or gateway.revoked is not None:
                return gateway
            rows.revoke_gateway(connection, gateway_id, now=now)
            return rows.find_gateway(connection, gateway_id)

        gateway = await self._city.write(work)
        self._digests = {known: digest for known, digest in self._digests.items() if known != gateway_id}
        return gateway

    async def gateway(self, gateway_id: str) -> Gateway | None:
        """The gateway of that id, revoked or not."""
        return await self._city.read(lambda connection: rows.find_gateway(connection, gateway_id))

    async def gateways(self, *, after: str | None, limit: int) -> list[Gateway]:
        """Gateways by id, those after `after`, revoked ones too; at most `limit`."""
        return await self._city.read(lambda connection: rows.list_gateways(connection, after=after, limit=limit))

    def gateway_of(self, token: str) -> str | None:
        """The gateway that `token` belongs to. Takes the same time whichever it is, and for none."""
        digest = token_digest(token)
        found: str | None = None
        for gateway_id, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = gateway_id
        return found
