"""One socket of the MQTT door: moves bytes between the transport, the parser, the session and the pipeline.

Owns reading, writing, pausing and hanging up. Decides nothing: the session does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from citysense.clock import Clock
from citysense_gateway.frame import FrameSink, Kind, Verdict
from citysense_gateway.mqtt.actions import Action, Close, CloseReason, Delivery, Opened
from citysense_gateway.mqtt.fields import ProtocolViolation
from citysense_gateway.mqtt.limits import MqttCounters, MqttSettings
from citysense_gateway.mqtt.parser import PacketParser
from citysense_gateway.mqtt.session import Session

_log = logging.getLogger(__name__)
_ABRUPT = (CloseReason.SLOW_READER, CloseReason.TOO_MANY_CONNECTIONS, CloseReason.TOO_MANY_STRANGERS)
"""Endings on which no time is spent: the peer does not read, or there is no room to wait for it."""


class Host(Protocol):
    """What a connection tells the door."""

    def connection_made(self, connection: Connection) -> CloseReason | None:
        """A socket opened; the reason when there is no room for it."""
        ...

    def session_opened(self, connection: Connection) -> None:
        """`session_key` is set; an older session with the same key has to end now."""
        ...

    def session_ended(self, connection: Connection) -> None:
        """The connection takes nothing more, though its socket may stay open a moment."""
        ...

    def connection_done(self, connection: Connection) -> None:
        """The socket is closed and all its frames have their verdict. Called once."""
        ...


def source_of(transport: asyncio.BaseTransport) -> tuple[str, str]:
    """The peer's address, and address and port as `host:port`, with brackets for IPv6."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return "unknown", "unknown"
    host, port = peer[:2]
    return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Connection(asyncio.Protocol):
    """Protocol object of one connection; `new_session` is given the peer's address."""

    def __init__(
        self,
        *,
        host: Host,
        sink: FrameSink,
        new_session: Callable[[str], Session],
        clock: Clock,
        settings: MqttSettings,
        counters: MqttCounters,
    ) -> None:
        self._host = host
        self._sink = sink
        self._new_session = new_session
        self._clock = clock
        self._settings = settings
        self._counters = counters
        self._parser = PacketParser(max_packet=settings.max_connect_packet)
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._flush_due = False
        self._write_paused = False
        self._reading_paused = False
        self._turn_due = False
        self._admitted = False
        self._lost = False
        self._closing_since: float | None = None
        self._partial_since: float | None = None
        self._opened_at = self._last_packet = 0.0
        self._session: Session
        self._transport: asyncio.Transport
        self.session_key: tuple[str, str] | None = None
        """(device, client id) from CONNACK on."""
        self.with_will = False
        """The device left a will."""
        self.address = ""
        """The peer's, without its port; set when the socket opens."""
        self.deliveries: set[asyncio.Task[Verdict]] = set()

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.address, source = source_of(transport)
        self._session = self._new_session(source)
        self._opened_at = self._last_packet = self._clock.monotonic()
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # A device may switch keep-alive off; its vanishing must still free the socket one day.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        refusal = self._host.connection_made(self)
        self._admitted = refusal is None
        if refusal is not None:
            self._apply(self._session.end(refusal))

    def data_received(self, data: bytes) -> None:
        if self._closing_since is not None:
            return
        self._parser.feed(data)
        if not self._turn_due:
            self._pull()
            self._flush()

    def eof_received(self) -> None:
        """Half-open connections are not served: the transport closes when this returns nothing."""

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._apply(self._session.end(CloseReason.PEER_LOST))
        self._report_done()

    # Called by the door

    def finish(self, reason: CloseReason) -> None:
        """Send what is due, say why where the protocol can, and hang up."""
        self._flush()
        self._apply(self._session.end(reason))

    def drain(self) -> None:
        """Read no further; frames under way still get their answer."""
        self._session.drain()
        self._steer_reading()

    def abort(self) -> None:
        """Drop the socket at once."""
        self._transport.abort()

    def check_deadlines(self, now: float) -> None:
        """Hang up if a deadline of the session, or of hanging up itself, has passed. Monotonic seconds."""
        if self._closing_since is not None:
            if now - self._closing_since >= self._settings.linger:
                self._transport.abort()
            return
        if self._reading_paused:
            # It is us who do not read, so silence is not the peer's.
            self._last_packet = now
            self._partial_since = None
            return
        overdue = self._session.overdue(
            now, opened=self._opened_at, last_packet=self._last_packet, partial_since=self._partial_since
        )
        if overdue is not None:
            self.finish(overdue)

    # In

    def _pull(self) -> None:
        """Give the session what the parser has, as far as the session wants it and one turn of the loop allows."""
        now_ms = self._clock.now_ms()
        taken = 0
        try:
            while self._session.wants_packets and taken < self._settings.packets_per_turn:
                packet = self._parser.next_packet()
                if packet is None:
                    break
                taken += 1
                self._apply(self._session.receive(packet, now_ms))
        except ProtocolViolation as violation:
            _log.debug("MQTT peer broke the protocol: %s", violation)
            self._apply(self._session.unreadable(violation, now_ms))
            return
        now = self._clock.monotonic()
        if taken:
            self._last_packet = now
            self._partial_since = None
        if not self._parser.pending:
            self._partial_since = None
        elif self._partial_since is None:
            self._partial_since = now
        if taken == self._settings.packets_per_turn and self._parser.pending:
            self._pull_soon()
        self._steer_reading()

    def _pull_soon(self) -> None:
        """Go on with what the parser has when the other connections have had their turn."""
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn_due = False
        if self._lost or self._closing_since is not None:
            return
        self._pull()
        self._flush()

    def _steer_reading(self) -> None:
        wanted = self._session.wants_packets and not self._turn_due
        reading = not self._reading_paused
        if wanted == reading or self._closing_since is not None:
            return
        self._reading_paused = not wanted
        if wanted:
            self._last_packet = self._clock.monotonic()
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # Through the pipeline

    def _start(self, delivery: Delivery) -> None:
        if delivery.reason is None:
            task = self._loop.create_task(self._sink.accept(delivery.frame))
        else:
            task = self._loop.create_task(self._sink.refuse(delivery.frame, delivery.reason, delivery.detail))
        self.deliveries.add(task)
        task.add_done_callback(partial(self._settled, delivery))

    def _settled(self, delivery: Delivery, task: asyncio.Task[Verdict]) -> None:
        self.deliveries.discard(task)
        if task.cancelled():
            verdict = Verdict(kind=Kind.UNAVAILABLE)
        elif (error := task.exception()) is not None:
            _log.error("the pipeline failed on a frame of %s: not acknowledged", delivery.frame.device, exc_info=error)
            verdict = Verdict(kind=Kind.UNAVAILABLE)
        else:
            verdict = task.result()
        self._apply(self._session.settle(delivery, verdict))
        if self._lost:
            self._report_done()
            return
        if self._reading_paused and self._session.wants_packets:
            self._pull_soon()
        if not self._flush_due:
            # Verdicts of one commit arrive in one turn of the loop; their answers leave in one write.
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _report_done(self) -> None:
        if self._admitted and self._session.idle:
            self._host.connection_done(self)

    # Out

    def _apply(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if isinstance(action, Delivery):
                self._start(action)
            elif isinstance(action, bytes):
                self._out.append(action)
            elif isinstance(action, Opened):
                self._parser.max_packet = self._settings.max_packet
                self.session_key = (action.device, action.client_id)
                self.with_will = action.with_will
                self._host.session_opened(self)
            else:
                self._hang_up(action)

    def _flush(self) -> None:
        self._flush_due = False
        if self._lost or self._closing_since is not None:
            return
        if not self._write_paused:
            receipt = self._session.take_receipt()
            if receipt is not None:
                self._out.append(receipt)
        if not self._out:
            return
        self._transport.write(b"".join(self._out))
        self._out.clear()
        if self._transport.get_write_buffer_size() > self._settings.output_limit:
            self._apply(self._session.end(CloseReason.SLOW_READER))

    def _hang_up(self, close: Close) -> None:
        """End the connection; a peer that we told why gets `linger` seconds to read it.

        Closing with unread bytes resets the connection and would take our last packet along, so the writing half is
        closed first and what still comes in is thrown away.
        """
        self._counters.closed[close.reason] += 1
        if self.session_key is not None:
            self._host.session_ended(self)
        if self._lost:
            return
        last_words = bool(self._out)
        self._flush()
        self._closing_since = self._clock.monotonic()
        if close.reason in _ABRUPT:
            self._transport.abort()
        elif last_words and self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except OSError:
                # The peer reset the connection and the loop has not told us yet: nobody is left to read.
                self._transport.abort()
            else:
                self._transport.resume_reading()
        else:
            self._transport.close()
