"""A device's CoAP way: one confirmable POST at a time, the oldest message first, until it is answered.

Owns the order of sending and the waiting between attempts; retransmission of a datagram is aiocoap's.
"""

from __future__ import annotations

import asyncio
import logging

import aiocoap
from aiocoap.error import LibraryShutdown, NetworkError
from aiocoap.numbers import Code

from citysense_sim.backlog import BOUND, Backlog
from citysense_sim.link import Fate, OnFate

ANSWER_S = 10.0
"""An answer may follow the empty ACK at its leisure, and no answer at all follows one if the gateway dies in between."""
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_REFUSED = frozenset({Code.BAD_REQUEST, Code.NOT_FOUND, Code.REQUEST_ENTITY_TOO_LARGE, Code.UNSUPPORTED_CONTENT_FORMAT})
"""Answers that stay the same however often one asks. 4.01 is not among them: the device may be registered a moment later."""
_MAX_AGE_DEFAULT_S = 60

_log = logging.getLogger(__name__)


class CoapLink:
    """Posts one device's messages to `coap://host:port/v1/{device}/{message}`.

    The context may be shared; but a context has one open request per server (NSTART), so devices that must not wait for
    each other need contexts of their own, as they have sockets of their own in the field.
    """

    def __init__(
        self, context: aiocoap.Context, *, uri: str, content: int, on_fate: OnFate, bound: int = BOUND
    ) -> None:
        self._context = context
        self._uri = uri
        self._content = content
        self._on_fate = on_fate
        self._backlog = Backlog(bound)
        self._more = asyncio.Event()

    @property
    def unacked(self) -> int:
        """Messages without a final answer."""
        return len(self._backlog)

    @property
    def ready(self) -> bool:
        """Always: the gateway says with each answer what it thinks of the device."""
        return True

    def base(self, following: int) -> int:
        """Lowest number not yet acknowledged."""
        return self._backlog.base(following)

    def push(self, number: int, payload: bytes) -> None:
        """Queue one message; with a full memory the oldest goes."""
        lost = self._backlog.add(number, payload)
        if lost is not None:
            self._on_fate(lost, Fate.DROPPED)
        self._more.set()

    async def run(self) -> None:
        """Send what waits, oldest first. Ends only by cancellation."""
        failures = 0
        while True:
            waiting = self._backlog.oldest()
            if waiting is None:
                self._more.clear()
                await self._more.wait()
                continue
            number, payload = waiting
            pause = await self._attempt(number, payload, failures)
            failures = 0 if pause is None else failures + 1
            if pause is not None:
                await asyncio.sleep(pause)

    async def _attempt(self, number: int, payload: bytes, failures: int) -> float | None:
        """Send once. None when the message's fate is known, else seconds to wait before the next attempt."""
        retry = RETRY_S[min(failures, len(RETRY_S) - 1)]
        request = aiocoap.Message(code=Code.POST, uri=self._uri, payload=payload, content_format=self._content)
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._context.request(request).response
        except (NetworkError, TimeoutError, LibraryShutdown) as e:
            if failures == 0:
                _log.info("%s: no answer (%s: %s)", self._uri, type(e).__name__, e)
            return retry
        if answer.code == Code.CHANGED:
            fate = Fate.ACKED
        elif answer.code in _REFUSED:
            fate = Fate.REFUSED
            _log.warning(
                "%s refused message %d: %s %s",
                self._uri,
                number,
                answer.code,
                answer.payload.decode("utf-8", "replace"),
            )
        elif answer.code == Code.SERVICE_UNAVAILABLE:
            return float(answer.opt.max_age if answer.opt.max_age is not None else _MAX_AGE_DEFAULT_S)
        else:
            if failures == 0:
                _log.info("%s: %s, trying again", self._uri, answer.code)
            return retry
        # The memory may have overflowed meanwhile; then this message's fate has been told already.
        if self._backlog.acked(number):
            self._on_fate(number, fate)
        return None
