"""One connection to the broker: a paho client of its own, driven by the event loop.

Owns socket, handshake and the way out of every failure; a new connection is a new `Link`, so that nothing paho kept in
memory is sent a second time behind the mailbox's back. Messages are read beside paho, and what is done with them happens
outside of it: an exception in its callback would end its work without a word.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from citysense.errors import UpstreamError
from citysense_gateway.broker.inbound import BadPacket, Inbound
from citysense_gateway.broker.options import Account
from citysense_gateway.broker.pipe import Pipe
from citysense_gateway.defects import DEFECTS, Defects

KEEPALIVE_S = 10
CONNECT_S = 5.0
"""Each for TCP and for TLS."""
ANSWER_S = 10.0
"""CONNACK and SUBACK; a broker that restores a large session needs some seconds."""
SESSION_S = 7 * 24 * 3600
"""How long the broker keeps our session without us. After a week nobody would believe its readings to be complete."""
MAX_PACKET = 262_144
"""Told to an MQTT 5 broker; the same as at the front door."""
OFTEN_S = 0.004
GATHER_S = 0.020
"""Above 250 messages a second they are taken together, 10 ms late in the middle, and cost a third less. Below that every message
is read as it comes. A broker in between adds more than that by itself; where milliseconds count, devices speak to the
gateway's own door."""
_BROKEN_INPUT = (MQTTException, struct.error, ValueError, LookupError, TypeError, AttributeError)
"""What paho's decoders raise on a packet that is none."""


class LinkLost(UpstreamError):
    """The connection could not be made or has ended."""


class LinkRefused(LinkLost):
    """The broker said no: to the credentials, or to a subscription."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """`durable` asks for a session that outlives the connection. `receive` bounds un-acknowledged messages (MQTT 5)."""

    host: str
    port: int
    client_id: str
    account: Account | None
    tls: ssl.SSLContext | None
    protocol: int
    durable: bool
    receive: int = 1000


class _BufferedClient(Client):
    """paho, on a `Pipe`. It offers no public way to bring a socket of one's own."""

    pipe: Pipe
    tls: ssl.SSLContext | None = None

    def read(self) -> None:
        """Let paho read what is there, which is no whole PUBLISH unless it was in the middle of one."""
        self.loop_read()
        self.pipe.mid_packet = self._in_packet["command"] != 0

    def _create_socket(self) -> Any:
        """Blocks, for the name, the connection and the TLS handshake. (paho leaves a socket open whose handshake fails.)"""
        sock = socket.create_connection((self.host, self.port), timeout=CONNECT_S)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise
        self.pipe = Pipe(sock)
        return self.pipe


class Link:
    """`open`, `subscribe`, then `on_messages` is called with what came, in its order, until `lost` is set."""

    def __init__(self, options: LinkOptions, on_messages: Callable[[list[Inbound]], None]) -> None:
        self._options = options
        self._on_messages = on_messages
        self._inbox: list[Inbound] = []
        self.lost = asyncio.Event()
        self.why = "closed"
        """Why it was lost, for a person."""
        self.session_present = False
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[ReasonCode] = self._loop.create_future()
        self._granted: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._published: dict[int, asyncio.Future[ReasonCode]] = {}
        self._client = self._new_client()
        self._defects = Defects()
        self._pipe: Pipe | None = None
        self._fd: int | None = None
        self._watched_for_write = False
        self._closing = ""
        self._flush_due = False
        self._paused = False
        self._watched = False
        self._woken_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def _new_client(self) -> _BufferedClient:
        options = self._options
        v5 = options.protocol == MQTTProtocolVersion.MQTTv5
        client = _BufferedClient(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            clean_session=None if v5 else not options.durable,
            protocol=MQTTProtocolVersion(options.protocol),
            reconnect_on_failure=False,
            manual_ack=True,
        )
        if options.account is not None:
            client.username_pw_set(options.account.user, options.account.password or None)
        client.tls = options.tls
        # All of them before connect(): the broker sends queued messages right behind CONNACK.
        client.on_message = self._on_message
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_socket_close = self._on_socket_close
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        return client

    # --- from outside

    async def open(self) -> None:
        """Connect, and wait for CONNACK. Raises LinkLost, LinkRefused."""
        try:
            async with asyncio.timeout(CONNECT_S + ANSWER_S):
                await self._connect()
                self._pipe = self._client.pipe
                self._fd = self._pipe.fileno()
                self._go_on(0, gather=False)
                self._flush()
                reason = await self._connected
        except TimeoutError as e:
            self.close("no answer to CONNECT")
            raise LinkLost(f"no answer within {CONNECT_S + ANSWER_S:.0f} s") from e
        except (OSError, ValueError) as e:
            self.close("no connection")
            raise LinkLost(str(e) or type(e).__name__) from e
        except asyncio.CancelledError:
            self.close("cancelled")
            raise
        if reason.is_failure:
            self.close("refused")
            raise LinkRefused(f"it refuses {self._who()}: {reason}")

    def _who(self) -> str:
        return "a client without a name" if self._options.account is None else self._options.account.user

    async def _connect(self) -> None:
        """Resolving, connecting and the TLS handshake block, so a thread does them."""
        extra: dict[str, Any] = {}
        if self._options.protocol == MQTTProtocolVersion.MQTTv5:
            properties = _properties(PacketTypes.CONNECT)
            properties.ReceiveMaximum = self._options.receive
            properties.MaximumPacketSize = MAX_PACKET
            if self._options.durable:
                properties.SessionExpiryInterval = SESSION_S
            extra = {"clean_start": not self._options.durable, "properties": properties}
        options = self._options
        connecting = asyncio.ensure_future(
            asyncio.to_thread(self._client.connect, options.host, options.port, KEEPALIVE_S, **extra)
        )
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # A thread cannot be stopped, and the socket that it may still open has to be closed.
            await asyncio.wait({connecting})
            if not connecting.cancelled():
                connecting.exception()  # told to nobody: we are leaving anyway
            raise

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe with QoS 1, without retained messages where the protocol can say so. Raises LinkLost, LinkRefused."""
        self._must_stand()
        v5 = self._options.protocol == MQTTProtocolVersion.MQTTv5
        wanted: list[Any] = [
            (one, SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND) if v5 else 1)
            for one in filters
        ]
        code, number = self._client.subscribe(wanted)
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or number is None:
            raise LinkLost(self.why)
        answer = self._granted[number] = self._loop.create_future()
        self._flush()
        codes = await self._answer(answer, "SUBSCRIBE")
        refused = [one for one, reason in zip(filters, codes, strict=True) if reason.is_failure]
        if refused:
            raise LinkRefused(
                f"it does not let {self._who()} subscribe to {', '.join(refused)}; allow it to read these topics"
            )

    async def publish(self, topic: str, payload: bytes, *, expiry_s: int | None = None) -> ReasonCode:
        """Publish with QoS 1, never retained; the broker's answer, always success under 3.1.1. Raises LinkLost."""
        self._must_stand()
        properties = None
        if expiry_s is not None and self._options.protocol == MQTTProtocolVersion.MQTTv5:
            properties = _properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = expiry_s
        info = self._client.publish(topic, payload, qos=1, properties=properties)
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_QUEUE_SIZE):
            raise LinkLost(self.why)
        answer = self._published[info.mid] = self._loop.create_future()
        self._flush()
        reason: ReasonCode = await self._answer(answer, "PUBLISH")
        return reason

    def _must_stand(self) -> None:
        # paho does not know of an end that we made, and would have us wait for an answer that nobody gives.
        if self.lost.is_set():
            raise LinkLost(self.why)

    async def _answer(self, answer: asyncio.Future[Any], to: str) -> Any:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError as e:
            self._lose(f"no answer to {to} within {ANSWER_S:.0f} s")
            raise LinkLost(self.why) from e

    def send(self, packets: bytes) -> None:
        """Send whole packets that were made elsewhere; they go out together at the end of this turn of the loop."""
        if self._pipe is None or self.lost.is_set():
            return
        try:
            self._pipe.send(packets)
        except OSError:
            self._lose(self._pipe.fault)
            return
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def pause(self) -> None:
        """Read no more from the socket; the broker then keeps what it has."""
        if not self._paused:
            self._paused = True
            self._stop_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            if self._fd is not None:
                self._look_in(0)

    @property
    def paused(self) -> bool:
        """True while nothing is read."""
        return self._paused

    def tick(self) -> None:
        """Call about once a second: paho's keep-alive."""
        if not self.lost.is_set() and not self._paused:
            self._client.loop_misc()
            self._flush()

    def close(self, why: str = "closed") -> None:
        """Say DISCONNECT where that still goes, and close. The session stays with the broker if it is durable."""
        if self._connected.done() and not self.lost.is_set():
            self._closing = why
            self._client.disconnect()
        self._lose(why)

    # --- the socket, under the loop's eyes

    def _readable(self) -> None:
        """The socket has something. When that happens often, it is looked after by a timer instead: what came in between
        costs one wake-up, where it would have cost one a message."""
        now = self._loop.time()
        often = now - self._woken_at < OFTEN_S
        self._woken_at = now
        self._go_on(self._read(), gather=often)

    def _look(self) -> None:
        self._timer = None
        self._go_on(self._read(), gather=True)

    def _go_on(self, came: int, *, gather: bool) -> None:
        if self._fd is None or self._paused:
            return
        if self._pipe is not None and self._pipe.more:
            self._look_in(0)
        elif came and gather:
            self._look_in(GATHER_S)
        elif not self._watched:
            self._watched = True
            self._loop.add_reader(self._fd, self._readable)

    def _look_in(self, wait: float) -> None:
        self._stop_reading()
        self._timer = self._loop.call_later(wait, self._look)

    def _stop_reading(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watched and self._fd is not None:
            self._watched = False
            self._loop.remove_reader(self._fd)

    def _read(self) -> int:
        """Take what is there, at most one buffer full; the number of bytes."""
        assert self._pipe is not None
        try:
            came = self._pipe.fill()
        except OSError as e:
            self._lose(str(e))
            return 0
        self._turn()
        return came

    def _turn(self) -> None:
        """Let paho take what is buffered, and hand on what it found."""
        pipe, client = self._pipe, self._client
        assert pipe is not None
        v5 = self._options.protocol == MQTTProtocolVersion.MQTTv5
        try:
            self._inbox += pipe.messages(v5=v5)
            while pipe.readable and not self.lost.is_set():
                client.read()
                self._inbox += pipe.messages(v5=v5)
        except BadPacket as e:
            self._lose(str(e))
        except _BROKEN_INPUT as e:
            self._lose(f"it sent what is no MQTT packet ({type(e).__name__})")
        if self._inbox:
            self._hand_on()
        if client.want_write():
            self._flush()

    def _hand_on(self) -> None:
        messages, self._inbox = self._inbox, []
        try:
            self._on_messages(messages)
        except DEFECTS as e:
            # With a new connection the broker sends again what was not acknowledged.
            self._lose(f"a defect of the gateway stopped the reading ({self._defects.tell(e, may_quote=False)})")

    def _flush(self) -> None:
        self._flush_due = False
        pipe = self._pipe
        if pipe is None or self.lost.is_set():
            return
        try:
            if self._client.want_write():
                self._client.loop_write()
            pipe.flush()
        except OSError as e:
            self._lose(str(e))
        if self._fd is not None and bool(pipe.unsent) != self._watched_for_write:
            self._watched_for_write = bool(pipe.unsent)
            if self._watched_for_write:
                self._loop.add_writer(self._fd, self._flush)
            else:
                self._loop.remove_writer(self._fd)

    def _unwatch(self) -> None:
        """Before the socket is closed: the selector would take the next socket of that number for it."""
        self._stop_reading()
        fd, self._fd = self._fd, None
        if fd is not None:
            self._loop.remove_writer(fd)

    def _lose(self, why: str) -> None:
        """The one end of a connection, from whatever side. paho's own socket is this pipe, so nothing of it stays open."""
        if self.lost.is_set():
            return
        pipe = self._pipe if self._pipe is not None else getattr(self._client, "pipe", None)
        self.why = (pipe.fault if pipe is not None else "") or why
        self.lost.set()
        self._unwatch()
        if pipe is not None:
            pipe.close()
        waiting: list[asyncio.Future[Any]] = [self._connected, *self._granted.values(), *self._published.values()]
        for answer in waiting:
            if not answer.done():
                answer.set_exception(LinkLost(self.why))
                answer.exception()  # whoever still waits is told; nobody else has to be
        self._granted.clear()
        self._published.clear()

    # --- paho's callbacks: they note, and never raise

    def _on_message(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        # Only what paho had begun to read before it was ours to take.
        try:
            topic = message.topic.encode()
        except UnicodeDecodeError:
            topic = b"\xff"
        self._inbox.append(
            Inbound(topic, bytes(message.payload), message.mid if message.qos else 0, message.dup, message.retain)
        )

    def _on_connect(self, _c: Client, _u: Any, flags: ConnectFlags, reason: ReasonCode, _p: Properties | None) -> None:
        self.session_present = flags.session_present
        if not self._connected.done():
            self._connected.set_result(reason)

    def _on_disconnect(
        self, _c: Client, _u: Any, _f: DisconnectFlags, reason: ReasonCode, _p: Properties | None
    ) -> None:
        if self._connected.done():
            self._lose(self._closing or f"it ended the connection: {reason}")
        else:
            self._lose("it ended the connection before CONNACK")

    def _on_socket_close(self, _c: Client, _u: Any, _sock: Any) -> None:
        self._unwatch()

    def _on_subscribe(self, _c: Client, _u: Any, mid: int, reasons: list[ReasonCode], _p: Properties | None) -> None:
        answer = self._granted.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result(reasons)

    def _on_publish(self, _c: Client, _u: Any, mid: int, reason: ReasonCode, _p: Properties) -> None:
        answer = self._published.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result(reason)


def _properties(kind: int) -> Properties:
    return Properties(kind)  # type: ignore[no-untyped-call]  # the one class of paho without annotations
