"""The message layer of CoAP (RFC 7252 section 4): acknowledgements, repeats, retransmission, message ids.

Owns what happens between a datagram and a request, and between a reply and a datagram; must not know what a request
means. Takes the place of the library's message and token managers, which make a task, several closures and two timers
of each request; messages themselves are parsed and written by the library. A server only: it never sends a request.

Measured on 2 shared cores, Python 3.11, loopback: see `citysense bench coap`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from enum import Enum
from random import Random
from typing import Any

from aiocoap import Message, error
from aiocoap.numbers.codes import EMPTY
from aiocoap.numbers.types import ACK, CON, NON, RST, Type

from citysense.clock import Clock
from citysense_gateway.coap.amplification import FACTOR
from citysense_gateway.coap.recent import RecentRequests, Superseded
from citysense_gateway.coap.transport import DatagramCounters, Peer

EMPTY_ACK_DELAY = 0.1
"""Seconds until a request is acknowledged without a reply; the sender would repeat it after 2 s."""
ACK_TIMEOUT = 2.0
ACK_RANDOM_FACTOR = 1.5
MAX_RETRANSMIT = 4
"""RFC 7252 section 4.8."""
MAX_CONFIRMABLE = 10_000
"""Confirmable messages without their acknowledgement. A stranger who never acknowledges could make us keep one for 93 s
with each request; beyond the bound replies go out once, as for a request that asks for no confirmation."""

USUAL_SIZE = 1_500
"""Bytes of a datagram whose options are not counted beforehand: the library reads the worst of them in 2 ms."""
MAX_OPTIONS = 64
"""Options of a larger datagram. 65,000 bytes can hold as many empty options, which the library takes 90 ms to read."""

_PAYLOAD_MARKER = 0xFF
_EXTENDED = {13: 1, 14: 2}
"""Bytes that follow an option's head for a delta or length of that value (RFC 7252 section 3.1)."""
_SUCCESS, _CLIENT_ERROR, _SERVER_ERROR = 2, 4, 5


class End(Enum):
    """What became of a confirmable message of ours."""

    ACKNOWLEDGED = "acknowledged"
    RESET = "reset"
    """The peer has no use for it (any more)."""
    UNANSWERED = "unanswered"


Ended = Callable[[End], None]
"""Told the end of a confirmable message, once, in the event loop. Must not raise."""


class Request:
    """One request that waits for its reply."""

    __slots__ = ("_layer", "acknowledged", "answered", "due", "key", "message", "peer", "size", "verified")

    def __init__(self, layer: Exchanges, message: Message, peer: Peer, key: Hashable, size: int, due: float) -> None:
        self._layer = layer
        self.message = message
        self.peer = peer
        self.key = key
        self.size = size
        """Bytes of the datagram that brought it."""
        self.due = due
        self.acknowledged = message.mtype is not CON
        self.answered = False
        self.verified = False
        """Whether the peer has shown that it receives where it says; else repeats count against what it may draw."""

    def reply(self, response: Message | None) -> None:
        """Answer it, once; None says nothing but that it came (RFC 7967)."""
        if not self.answered:
            self.answered = True
            self._layer.answer(self, response)


Serve = Callable[[Request], None]
Handle = Hashable
"""Names a confirmable message that is under way."""


class _Confirmable:
    """A message of ours that is repeated until the peer acknowledges it."""

    __slots__ = ("attempt", "data", "ended", "key", "peer", "repeats", "timeout", "timer", "until")

    def __init__(
        self, data: bytes, peer: Peer, key: Hashable, timeout: float, until: float, ended: Ended | None, repeats: int
    ) -> None:
        self.repeats = repeats
        self.data = data
        self.peer = peer
        self.key = key
        self.timeout = timeout
        self.until = until
        self.ended = ended
        self.attempt = 0
        self.timer: asyncio.TimerHandle | None = None


class Exchanges:
    """The exchanges of one door, over any number of sockets. `serve` gets each new request."""

    def __init__(self, *, serve: Serve, clock: Clock, random: Random, counters: DatagramCounters) -> None:
        self._serve = serve
        self._clock = clock
        self._random = random
        self._counters = counters
        self._recent = RecentRequests()
        self._open: dict[Hashable, Request] = {}
        self._unacknowledged: deque[Request] = deque()
        self._acks: asyncio.TimerHandle | None = None
        self._confirmable: dict[Hashable, _Confirmable] = {}
        self._next_id = random.randrange(0x10000)
        self._closed = False

    # -- in -----------------------------------------------------------------------------------------------------------

    def received(self, data: bytes, peer: Peer) -> None:
        """Take one datagram. Never raises, whatever it holds."""
        if len(data) > USUAL_SIZE and not few_options(data):
            self._counters.malformed += 1
            return
        try:
            message = Message.decode(data)
        except (error.UnparsableMessage, ValueError):
            # ValueError: text options that are not UTF-8, which the library lets through.
            self._counters.malformed += 1
            return
        if not well_formed(message):
            self._counters.malformed += 1
        elif message.mtype is ACK or message.mtype is RST:
            self._settled((peer.key, message.mid), End.RESET if message.mtype is RST else End.ACKNOWLEDGED)
        elif message.code.is_request():
            self._requested(data, message, peer)
        elif message.mtype is CON:
            # A ping, or a reply to a request that we never sent.
            self._reset(message, peer)

    def _requested(self, data: bytes, message: Message, peer: Peer) -> None:
        key = (peer.key, message.mid)
        now = self._clock.monotonic()
        known = self._recent.admit(key, hash(data), message.token, now)
        if isinstance(known, Superseded):
            older = self._open.get(key)
            if older is not None:
                # Its reply gets a message id of its own: as an acknowledgement it would stand for the newer request,
                # to a device that looks at the message id only.
                older.acknowledged = True
        elif known is not None:
            self._counters.repeats += 1
            if known and message.mtype is CON:
                peer.send(known)
            return
        request = Request(self, message, peer, key, len(data), now + EMPTY_ACK_DELAY)
        self._open[key] = request
        if not request.acknowledged:
            self._unacknowledged.append(request)
            if self._acks is None:
                self._acks = asyncio.get_running_loop().call_later(EMPTY_ACK_DELAY, self._acknowledge_due)
        self._serve(request)

    def _reset(self, message: Message, peer: Peer) -> None:
        peer.send(_written(Message(code=EMPTY), RST, message.mid, b""))

    # -- replies ------------------------------------------------------------------------------------------------------

    def answer(self, request: Request, response: Message | None) -> None:
        """Send the reply to a request: with its acknowledgement where that is still to come."""
        if self._closed:
            return
        if self._open.get(request.key) is request:
            del self._open[request.key]
        token = request.message.token
        if response is None:
            self._acknowledge(request)
        elif not request.acknowledged:
            request.acknowledged = True
            data = _written(response, ACK, request.message.mid, token)
            self._recent.answered(request.key, token, data)
            request.peer.send(data)
        elif request.message.mtype is CON and len(self._confirmable) < MAX_CONFIRMABLE:
            data = _written(response, CON, 0, token)
            most = MAX_RETRANSMIT if request.verified else FACTOR * request.size // len(data) - 1
            repeats = max(0, min(MAX_RETRANSMIT, most))
            self.confirm(request.peer, response, token, until=float("inf"), ended=None, repeats=repeats)
        else:
            request.peer.send(_written(response, NON, self._new_id(request.peer), token))

    def _acknowledge(self, request: Request) -> None:
        if request.acknowledged:
            return
        request.acknowledged = True
        empty = _written(Message(code=EMPTY), ACK, request.message.mid, b"")
        self._recent.acknowledged(request.key, empty)
        request.peer.send(empty)

    def _acknowledge_due(self) -> None:
        self._acks = None
        now = self._clock.monotonic()
        waiting = self._unacknowledged
        while waiting and (waiting[0].acknowledged or waiting[0].due <= now):
            self._acknowledge(waiting.popleft())
        if waiting:
            delay = max(0.0, waiting[0].due - now)
            self._acks = asyncio.get_running_loop().call_later(delay, self._acknowledge_due)

    # -- confirmable messages of our own ------------------------------------------------------------------------------

    def confirm(
        self,
        peer: Peer,
        message: Message,
        token: bytes,
        *,
        until: float,
        ended: Ended | None,
        repeats: int = MAX_RETRANSMIT,
    ) -> Handle:
        """Send `message` and repeat it until the peer acknowledges it, `repeats` times at most, not after monotonic
        `until`."""
        message_id = self._new_id(peer)
        data = _written(message, CON, message_id, token)
        timeout = ACK_TIMEOUT * self._random.uniform(1.0, ACK_RANDOM_FACTOR)
        sent = _Confirmable(data, peer, (peer.key, message_id), timeout, until, ended, repeats)
        self._confirmable[sent.key] = sent
        self._again(sent)
        return sent.key

    def withdraw(self, handle: Handle) -> None:
        """Do not repeat that message any more, and tell nobody."""
        sent = self._confirmable.pop(handle, None)
        if sent is not None and sent.timer is not None:
            sent.timer.cancel()

    def _again(self, sent: _Confirmable) -> None:
        if sent.attempt > sent.repeats or (sent.attempt and self._clock.monotonic() >= sent.until):
            self._settled(sent.key, End.UNANSWERED)
            return
        sent.peer.send(sent.data)
        delay = sent.timeout * 2**sent.attempt
        sent.attempt += 1
        sent.timer = asyncio.get_running_loop().call_later(delay, self._again, sent)

    def _settled(self, key: Hashable, end: End) -> None:
        sent = self._confirmable.pop(key, None)
        if sent is None:
            return
        if sent.timer is not None:
            sent.timer.cancel()
        if sent.ended is not None:
            sent.ended(end)

    def _new_id(self, peer: Peer) -> int:
        while True:
            self._next_id = (self._next_id + 1) & 0xFFFF
            if (peer.key, self._next_id) not in self._confirmable:
                return self._next_id

    def tidy(self) -> None:
        """Call about once a second: replies that nobody asks for again any more are forgotten."""
        self._recent.tidy(self._clock.monotonic())

    def open(self) -> None:
        """Serve, again after `close`."""
        self._closed = False

    def close(self) -> None:
        """Forget everything; nothing is sent and nothing is told its end any more."""
        self._closed = True
        if self._acks is not None:
            self._acks.cancel()
            self._acks = None
        for sent in self._confirmable.values():
            if sent.timer is not None:
                sent.timer.cancel()
        self._confirmable.clear()
        self._unacknowledged.clear()
        self._open.clear()


def well_formed(message: Message) -> bool:
    """Whether a parsed message may go on: token lengths 9 to 15 are a format error that the library overlooks, and an
    empty message holds nothing but its id (RFC 7252 sections 3 and 4.1)."""
    if len(message.token) > 8:
        return False
    return message.code is not EMPTY or not (message.token or message.payload or list(message.opt.option_list()))


def few_options(data: bytes) -> bool:
    """Whether a datagram has at most MAX_OPTIONS options before its payload; looks at no more than these."""
    at = 4 + (data[0] & 0x0F)
    for _ in range(MAX_OPTIONS + 1):
        if at >= len(data) or data[at] == _PAYLOAD_MARKER:
            return True
        head = data[at]
        delta, length = head >> 4, head & 0x0F
        at += 1 + _EXTENDED.get(delta, 0)
        if length in _EXTENDED:
            width = _EXTENDED[length]
            extended = int.from_bytes(data[at : at + width], "big")
            at += width
            length = extended + (13 if width == 1 else 269)
        at += length
    return False


def wanted(message: Message, no_response: Any) -> bool:
    """Whether the client wants to hear of a reply of this class (RFC 7967, No-Response)."""
    ignored = int(no_response or 0)
    kind = int(message.code) >> 5
    return not (
        (kind == _SUCCESS and ignored & 2)
        or (kind == _CLIENT_ERROR and ignored & 8)
        or (kind == _SERVER_ERROR and ignored & 16)
    )


def _written(message: Message, kind: Type, message_id: int, token: bytes) -> bytes:
    message.mtype = kind
    message.mid = message_id
    message.token = token
    return bytes(message.encode())
