"""Who has shown that it receives at its address, and how much anybody else may draw (RFC 9175 section 2.3).

Owns the Echo values of plain CoAP and the addresses that have answered one. A request with a forged source must not
turn a few bytes into many: a reply to an unverified address has at most three times the request's bytes. Does no I/O.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict

from citysense.clock import Clock

FACTOR = 3
"""Bytes of reply per byte of request."""
ECHO_BYTES = 8
_SLOT_S = 60.0
"""An Echo value is good for one to two of these."""
_VERIFIED_S = 600.0
"""NAT bindings of datagrams live for minutes; after that the address may be another's."""
_MOST = 10_000


class Addresses:
    """Addresses (`host:port`) that proved to be where they say. `secret` makes Echo values that nobody can guess."""

    def __init__(self, *, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def echo(self, name: str) -> bytes:
        """The value that whoever receives at `name` is to send back."""
        return self._value(name, self._slot())

    def answered(self, name: str, echo: bytes) -> bool:
        """Take an Echo that came from `name`; True, and the address is verified, if it is one of ours."""
        slot = self._slot()
        if not any(hmac.compare_digest(echo, self._value(name, made)) for made in (slot, slot - 1)):
            return False
        self._until.pop(name, None)
        if len(self._until) >= _MOST:
            self._until.popitem(last=False)
        self._until[name] = self._clock.monotonic() + _VERIFIED_S
        return True

    def verified(self, name: str) -> bool:
        """Whether `name` answered an Echo lately."""
        return self._until.get(name, 0.0) > self._clock.monotonic()

    def _slot(self) -> int:
        return int(self._clock.monotonic() // _SLOT_S)

    def _value(self, name: str, slot: int) -> bytes:
        return hmac.digest(self._secret, slot.to_bytes(8, "big", signed=True) + name.encode(), "sha256")[:ECHO_BYTES]


def most_for(request: int) -> int:
    """How many bytes may go to an unverified address that sent that many."""
    return FACTOR * request
