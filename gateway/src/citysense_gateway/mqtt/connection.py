"""One socket of the MQTT door: moves bytes between the transport, the parser, the conversation and the pipeline.

Owns reading, writing, pausing and hanging up. Decides nothing: the conversation does.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from citysense.clock import Clock
from citysense_gateway.frame import FrameSink, Receipt, Verdict
from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.actions import Action, Close, CloseReason, Delivery, Signal
from citysense_gateway.mqtt.conversation import Conversation
from citysense_gateway.mqtt.credentials import Certificate, common_name
from citysense_gateway.mqtt.fields import Fault, ProtocolViolation
from citysense_gateway.mqtt.parser import PacketParser
from citysense_gateway.mqtt.session import Session
from citysense_gateway.mqtt.sessions import Opened
from citysense_gateway.mqtt.surroundings import Surroundings

_log = logging.getLogger(__name__)
_ABRUPT = (CloseReason.SLOW_READER, CloseReason.SHUTTING_DOWN_BEFORE_CONNECT)
"""Endings on which no time is spent: the peer does not read, or there is nothing to say."""
READ_BYTES = 65_536
"""Read at once. One buffer serves all connections: what it holds is taken out before the next one reads."""


class Host(Protocol):
    """What a connection tells the door."""

    def connection_made(self, connection: Connection) -> bool:
        """A socket opened; false when the door is closing."""
        ...

    def proven(self, connection: Connection) -> None:
        """A device has proved on it who it is."""
        ...

    def session_opened(self, connection: Connection, opened: Opened) -> None:
        """The device has its session; whoever has to make room hangs up now."""
        ...

    def session_ended(self, connection: Connection, session: Session, reason: CloseReason | Fault) -> None:
        """The connection takes nothing more, though its socket may stay open a moment."""
        ...

    def attend(self, connection: Connection) -> None:
        """There may be mail for its device, or an outcome to report."""
        ...

    def watch(self, connection: Connection, due: float | None) -> None:
        """`check_deadlines` is wanted at `due` (monotonic seconds), or not at all."""
        ...

    def flush_soon(self, connection: Connection) -> None:
        """`flush` is wanted in the next turn of the loop."""
        ...

    def settled_all(self, connection: Connection) -> None:
        """It was told to drain, and all its frames have their verdict."""
        ...

    def connection_done(self, connection: Connection) -> None:
        """The socket is closed and all its frames have their verdict. Called once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What all connections of a door share. `buffer` is where all of them read into."""

    host: Host
    sink: FrameSink
    clock: Clock
    around: Surroundings
    buffer: memoryview


class Connection(asyncio.BufferedProtocol):
    """Protocol object of one connection. `address` is the peer's without its port, `source` with it."""

    __slots__ = (
        "_closing_since",
        "_common",
        "_conversation",
        "_done",
        "_draining",
        "_flush_due",
        "_last_packet",
        "_lost",
        "_opened_at",
        "_out",
        "_parser",
        "_partial_since",
        "_reading_paused",
        "_source",
        "_transport",
        "_turn_due",
        "_write_paused",
        "address",
        "stranger",
    )

    _conversation: Conversation
    _transport: asyncio.Transport

    def __init__(self, common: Common, *, address: str, source: str) -> None:
        self._common = common
        self._source = source
        self._parser = PacketParser(max_packet=common.around.settings.max_connect_packet)
        self._out: list[bytes] = []
        self._flush_due = False
        self._write_paused = False
        self._reading_paused = False
        self._turn_due = False
        self._draining = False
        self._lost = False
        self._done = False
        self._closing_since: float | None = None
        self._partial_since: float | None = None
        self._opened_at = self._last_packet = 0.0
        self.address = address
        self.stranger = True
        """No device has proved on it who it is. The door's account."""

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._conversation = Conversation(
            self._common.around, source=self._source, holder=self, certificate=_certificate_of(transport)
        )
        self._opened_at = self._last_packet = self._common.clock.monotonic()
        if self._common.host.connection_made(self):
            self._watch()
        else:
            self._apply(self._conversation.end(CloseReason.SHUTTING_DOWN_BEFORE_CONNECT))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._common.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.take(bytes(self._common.buffer[:nbytes]))

    def take(self, data: bytes) -> None:
        """What the peer sent."""
        if self._closing_since is not None:
            return
        self._parser.feed(data)
        if not self._turn_due:
            self._pull()
            self.flush()

    def eof_received(self) -> None:
        """Half-open connections are not served: the transport closes when this returns nothing."""

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._common.around.budget.forget(self._pull_soon)
        self._apply(self._conversation.end(CloseReason.PEER_LOST))
        self._report_done()

    # Called by the door

    @property
    def session(self) -> Session | None:
        """The device's session, once it has one."""
        return self._conversation.session

    @property
    def idle(self) -> bool:
        """True when every frame has its verdict."""
        return self._conversation.idle

    def finish(self, reason: CloseReason) -> None:
        """Send what is due, say why where the protocol can, and hang up."""
        self.flush()
        self._apply(self._conversation.end(reason))

    def drain(self) -> None:
        """Read no further; frames under way still get their answer."""
        self._draining = True
        self._conversation.drain()
        self._steer_reading()

    def abort(self) -> None:
        """Drop the socket at once, and wait for no verdict."""
        self._common.around.budget.forget(self._pull_soon)
        self._conversation.abandon()
        self._transport.abort()
        if self._lost:
            self._report_done()

    def next_mail(self, waiting: Sequence[Mail]) -> Mail | None:
        """What of `waiting` the device is to get next; None for nothing, or nothing at this moment."""
        # What is written to a peer that does not read would count as sent.
        return None if self._write_paused or self._lost else self._conversation.next_mail(waiting)

    def send_mail(self, mail: Mail) -> bool:
        """Send it; false if the device cannot have it now."""
        actions = self._conversation.send(mail, self._common.clock.now_ms())
        self._apply(actions)
        if actions:
            self._flush_soon()
        return bool(actions)

    def repeat_receipt(self, device: str, receipt: Receipt) -> None:
        """Tell a device, or one behind it, once more up to where its messages are there without a gap."""
        self._conversation.owe_receipt(device, receipt)
        self._flush_soon()

    def check_deadlines(self, now: float) -> None:
        """Hang up if a deadline of the conversation, or of hanging up itself, has passed. Monotonic seconds."""
        if self._closing_since is not None:
            if now - self._closing_since >= self._common.around.settings.linger:
                self._transport.abort()
                return
        elif self._reading_paused:
            # It is us who do not read, so silence is not the peer's.
            self._last_packet = now
            self._partial_since = None
        else:
            overdue = self._conversation.overdue(
                now, opened=self._opened_at, last_packet=self._last_packet, partial_since=self._partial_since
            )
            if overdue is not None:
                self.finish(overdue)
        self._watch()

    def flush(self) -> None:
        """Write what is due."""
        self._flush_due = False
        if self._lost or self._closing_since is not None:
            return
        out = self._out
        if not self._write_paused:
            receipts = self._conversation.take_receipts()
            if receipts:
                out.append(receipts)
        if not out:
            return
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        if self._write_paused and self._transport.get_write_buffer_size() > self._common.around.settings.output_limit:
            self._apply(self._conversation.end(CloseReason.SLOW_READER))

    # In

    def _pull(self) -> None:
        """Give the conversation what the parser has, as far as it wants it and one turn of the loop allows."""
        conversation, parser, clock = self._conversation, self._parser, self._common.clock
        budget = self._common.around.budget
        most = self._common.around.settings.packets_per_turn
        now_ms = clock.now_ms()
        taken = 0
        # While the socket is read, packets are wanted, unless the other connections have taken all the room.
        wanted = not budget.full and (not self._reading_paused or conversation.wants_packets)
        try:
            while wanted and taken < most:
                packet = parser.next_packet()
                if packet is None:
                    break
                taken += 1
                self._apply(conversation.receive(packet, now_ms))
                wanted = conversation.wants_packets and not budget.full
        except ProtocolViolation as violation:
            _log.debug("MQTT peer broke the protocol: %s", violation)
            self._apply(conversation.unreadable(violation, now_ms))
            return
        now = clock.monotonic()
        if taken:
            self._last_packet = now
            self._partial_since = None
        pending = parser.pending
        if not pending:
            self._partial_since = None
        elif self._partial_since is None:
            self._partial_since = now
            self._watch()
        if budget.full:
            budget.call_when_free(self._pull_soon)
        elif taken == most and pending:
            self._pull_soon()
        if self._turn_due or wanted is self._reading_paused:
            self._steer_reading()

    def _pull_soon(self) -> None:
        """Go on with what the parser has when the other connections have had their turn."""
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn_due = False
        if self._lost or self._closing_since is not None:
            return
        self._pull()
        self.flush()

    def _steer_reading(self) -> None:
        wanted = self._conversation.wants_packets and not self._turn_due and not self._common.around.budget.full
        reading = not self._reading_paused
        if wanted == reading or self._closing_since is not None or self._lost:
            return
        self._reading_paused = not wanted
        if wanted:
            self._last_packet = self._common.clock.monotonic()
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # Through the pipeline

    def _start(self, delivery: Delivery) -> None:
        delivery.settler = self
        if delivery.frame is None:
            return
        if delivery.reason is None:
            self._common.sink.deliver(delivery.frame, delivery.told)
        else:
            self._common.sink.deliver(delivery.frame, delivery.told, reason=delivery.reason, detail=delivery.detail)

    def settled(self, delivery: Delivery, verdict: Verdict) -> None:
        """See `actions.Settler`."""
        self._apply(self._conversation.settle(delivery, verdict))
        if self._lost:
            self._report_done()
        else:
            if self._reading_paused and self._conversation.wants_packets:
                self._pull_soon()
            # Verdicts of one commit arrive in one turn of the loop; their answers leave in one write.
            self._flush_soon()
        if self._draining and self._conversation.idle:
            self._common.host.settled_all(self)

    def _report_done(self) -> None:
        if not self._done and self._conversation.idle:
            self._done = True
            self._common.host.connection_done(self)

    # Out

    def _apply(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if type(action) is bytes:
                self._out.append(action)
            elif type(action) is Delivery:
                self._start(action)
            elif isinstance(action, Close):
                self._hang_up(action)
            elif isinstance(action, Signal):
                self._signal(action)

    def _signal(self, signal: Signal) -> None:
        host = self._common.host
        match signal:
            case Signal.PROVEN:
                host.proven(self)
            case Signal.OPENED:
                self._parser.max_packet = self._common.around.settings.max_packet
                host.session_opened(self, self._conversation.take_opened())
                self._watch()
            case Signal.ATTEND:
                host.attend(self)

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._common.host.flush_soon(self)

    def _watch(self) -> None:
        """Have the deadlines looked at when the next one may have passed."""
        due: float | None
        if self._lost:
            due = None
        elif self._closing_since is not None:
            due = self._closing_since + self._common.around.settings.linger
        else:
            due = self._conversation.deadline(
                opened=self._opened_at, last_packet=self._last_packet, partial_since=self._partial_since
            )
        self._common.host.watch(self, due)

    def _hang_up(self, close: Close) -> None:
        """End the connection; a peer that we told why gets `linger` seconds to read it.

        Closing with unread bytes resets the connection and would take our last packet along, so the writing half is
        closed first and what still comes in is thrown away.
        """
        self._common.around.counters.closed[close.reason] += 1
        session = self._conversation.session
        if session is not None:
            self._common.host.session_ended(self, session, close.reason)
        if self._lost:
            return
        last_words = bool(self._out)
        self.flush()
        self._closing_since = self._common.clock.monotonic()
        self._watch()
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


def _certificate_of(transport: asyncio.Transport) -> Certificate | None:
    """What the peer showed in the TLS handshake; None without TLS or where it showed nothing."""
    tls = transport.get_extra_info("ssl_object")
    if not isinstance(tls, ssl.SSLObject):
        return None
    der = tls.getpeercert(binary_form=True)
    return None if der is None else Certificate(der, common_name(tls.getpeercert() or {}))
