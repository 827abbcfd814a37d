"""Requests seen lately, and what was answered: so that a repeated datagram is answered, not processed, again.

A message id alone does not make a repeat: a device that restarts begins with the same ids, and an address may pass to
another device. The content decides. Bounded in time and in number. The library keeps whole message objects and a timer
for each request, 2.3 kB for 247 s; this keeps a digest and the reply's bytes. It only saves work: what survives a
restart is the spool's own de-duplication.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class _Seen:
    since: float
    digest: Hashable
    token: bytes
    reply: bytes = b""


@dataclass(frozen=True, slots=True)
class Superseded:
    """The request is new, though its key was in use: by a request with this token, which is forgotten now."""

    token: bytes


class RecentRequests:
    """Requests with the replies to repeat. `lifetime` in seconds; at most `limit` keys, the oldest leaves."""

    def __init__(self, *, lifetime: float = 60.0, limit: int = 100_000) -> None:
        # A sender repeats itself for at most 45 s (MAX_TRANSMIT_SPAN of RFC 7252); the rest is for the network.
        self._lifetime = lifetime
        self._limit = limit
        self._seen: OrderedDict[Hashable, _Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def admit(self, key: Hashable, digest: Hashable, token: bytes, now: float) -> bytes | Superseded | None:
        """The reply to repeat, empty where none was given yet; anything else: the request is new and remembered.

        `digest` stands for everything the request says, `token` included. A known key with another digest is
        `Superseded`; None is a key not seen lately.
        """
        self.tidy(now)
        known = self._seen.get(key)
        if known is not None:
            if known.digest == digest:
                return known.reply
            del self._seen[key]
        elif len(self._seen) >= self._limit:
            self._seen.popitem(last=False)
        self._seen[key] = _Seen(now, digest, token)
        return None if known is None else Superseded(known.token)

    def acknowledged(self, key: Hashable, empty: bytes) -> None:
        """Remember an empty acknowledgement, which carries no token; a reply given already stays."""
        known = self._seen.get(key)
        if known is not None and not known.reply:
            known.reply = empty

    def answered(self, key: Hashable, token: bytes, reply: bytes) -> None:
        """Remember the reply to the request with `token`, if it is that request that the key still stands for."""
        known = self._seen.get(key)
        if known is not None and known.token == token:
            known.reply = reply

    def tidy(self, now: float) -> None:
        """Forget what is older than its lifetime."""
        while self._seen:
            oldest = next(iter(self._seen))
            if now - self._seen[oldest].since < self._lifetime:
                return
            del self._seen[oldest]
