"""Which gateway a bearer token belongs to. Owns the digests, never keeps a token."""

from __future__ import annotations

import hmac

from citysense.clock import Clock
from citysense.keys import token_digest
from citysense_platform.city.database import City
from citysense_platform.registry import rows


class Gateways:
    """The gateways that may submit."""

    def __init__(self, city: City, clock: Clock) -> None:
        self._city = city
        self._clock = clock
        self._digests: dict[str, bytes] = {}

    async def ensure_gateway(self, gateway_id: str, token: str) -> None:
        """Let `token` speak for that gateway from now on, in place of an earlier token; loads all others too."""
        digest, now = token_digest(token), self._clock.now_ms()
        known = await self._city.read(rows.gateway_digests)
        if known.get(gateway_id) != digest:
            await self._city.write(lambda connection: rows.keep_gateway(connection, gateway_id, digest, now=now))
        self._digests = {**known, gateway_id: digest}

    def gateway_of(self, token: str) -> str | None:
        """The gateway that `token` belongs to. Takes the same time whichever it is, and for none."""
        digest = token_digest(token)
        found: str | None = None
        for gateway_id, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = gateway_id
        return found
