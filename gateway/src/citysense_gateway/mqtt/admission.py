"""How many may come in at once: the rate of accepted CONNECTs, and what strangers of one address may hold.

Owns both accounts and the moment for which a device is asked to come back. Knows no socket and reads no clock: times
are monotonic seconds of the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address

_LONGEST_HINT_S = 120.0
"""Who comes back two minutes later finds out anew; a longer promise would be a guess."""
_JITTER_S = 2.0
"""Hints are whole seconds, and a fleet's clocks agree: without it all devices of one second come in one moment."""


class ConnectRate:
    """A bucket of tokens, one for each accepted CONNECT, and appointments for those who found it empty.

    Appointments are given out at the same rate, so that a fleet that heeds them is in again as fast as the rate allows
    and without a second storm.
    """

    def __init__(self, *, rate: float, burst: int, random: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._random = random
        self._tokens = self._burst
        self._counted_at = 0.0
        self._last_appointment = 0.0

    def ask(self, now: float, *, told: bool = True) -> int | None:
        """None: come in. Else in how many whole seconds (1 or more) to come back.

        Who cannot be `told` gets no appointment: it would stand empty while others wait behind it.
        """
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._counted_at) * self._rate)
        self._counted_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        if not told:
            return 1
        self._last_appointment = max(self._last_appointment, now) + 1 / self._rate
        wait = self._last_appointment - now
        if wait > _LONGEST_HINT_S:
            self._last_appointment = now + _LONGEST_HINT_S
            wait = _LONGEST_HINT_S * (0.5 + self._random() / 2)
        return max(1, math.ceil(wait + self._random() * _JITTER_S))


@dataclass(slots=True)
class _Account:
    held: int
    tokens: float
    counted_at: float


class Strangers:
    """Connections on which no device has proved who it is yet, by address.

    An address may hold `most` of them, and open that many at once, then `rate` more in a second. Each one that proves
    itself gives its token back: a whole district behind one address comes in, while a scanner or a slowloris is left
    with the rate. An IPv6 address counts as its /64, of which one subscriber has all.
    """

    def __init__(self, *, most: int, rate: float) -> None:
        self._most = most
        self._rate = rate
        self._accounts: dict[str, _Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def admit(self, address: str, now: float) -> bool:
        """Count a new connection; false when there is no room for it."""
        key = _key(address)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(0, float(self._most), now)
        self._refill(account, now)
        if account.tokens < 1 or account.held >= self._most:
            return False
        account.tokens -= 1
        account.held += 1
        return True

    def proven(self, address: str) -> None:
        """A device proved who it is on one of them."""
        account = self._accounts[_key(address)]
        account.held -= 1
        account.tokens = min(float(self._most), account.tokens + 1)

    def gone(self, address: str) -> None:
        """One of them ended without that."""
        self._accounts[_key(address)].held -= 1

    def tidy(self, now: float) -> None:
        """Forget who holds nothing and would get everything again."""
        idle = []
        for key, account in self._accounts.items():
            self._refill(account, now)
            if not account.held and account.tokens >= self._most:
                idle.append(key)
        for key in idle:
            del self._accounts[key]

    def _refill(self, account: _Account, now: float) -> None:
        account.tokens = min(float(self._most), account.tokens + (now - account.counted_at) * self._rate)
        account.counted_at = now


def _key(address: str) -> str:
    if ":" not in address:
        return address
    packed = IPv6Address(address.partition("%")[0]).packed
    if packed[:12] == bytes(10) + b"\xff\xff":
        # IPv4 on a socket for both: the /64 would hold everybody.
        return ".".join(str(byte) for byte in packed[12:])
    return packed[:8].hex()
