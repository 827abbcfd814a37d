"""A device's MQTT connection: paho driven by the asyncio loop, without a thread per device.

Owns connecting, connecting again and the count of open messages. Repeats with DUP after a reconnect are paho's own. A
thousand of these share one loop, which is why no library layer lies between: one object, one socket, no tasks but `run`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from citysense_sim.backlog import BOUND, Backlog
from citysense_sim.link import Fate, OnFate

KEEPALIVE_S = 60
HOUSEKEEPING_S = 5.0
"""paho looks at its keep-alive when asked; often enough for 60 s, rarely enough for a thousand links."""
RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Waiting before the n-th attempt in a row. A gateway is back within a second or two; nobody should wait much longer."""
INFLIGHT = 100
"""Messages on the wire before the first PUBACK must arrive: a device with a full memory empties it in a few rounds."""

_log = logging.getLogger(__name__)


class MqttLink:
    """Publishes one device's messages to one topic with QoS 1."""

    def __init__(
        self, *, device: str, secret: str, topic: str, host: str, port: int, on_fate: OnFate, bound: int = BOUND
    ) -> None:
        self._topic, self._host, self._port = topic, host, port
        self._device = device
        self._on_fate = on_fate
        self._backlog = Backlog(bound)
        self._bound = bound
        self._numbers: dict[int, int] = {}  # packet id -> number
        self._lost = asyncio.Event()
        self._ready = False
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=MQTTProtocolVersion.MQTTv311)
        self._client.username_pw_set(device, secret)
        self._client.max_inflight_messages_set(INFLIGHT)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_socket_open = self._on_socket_open
        self._client.on_socket_close = self._on_socket_close
        self._client.on_socket_register_write = self._on_register_write
        self._client.on_socket_unregister_write = self._on_unregister_write
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    @property
    def unacked(self) -> int:
        """Messages without a PUBACK."""
        return len(self._backlog)

    @property
    def ready(self) -> bool:
        """CONNACK said yes and the connection stands."""
        return self._ready

    def base(self, following: int) -> int:
        """Lowest number not yet acknowledged."""
        return self._backlog.base(following)

    def push(self, number: int, payload: bytes) -> None:
        """Publish now, or as soon as there is a connection. With a full memory the new message is the one that is dropped:
        paho gives nothing back that it has taken."""
        if len(self._backlog) >= self._bound:
            self._on_fate(number, Fate.DROPPED)
            return
        self._backlog.add(number, b"")  # paho keeps the bytes
        info = self._client.publish(self._topic, payload, qos=1)
        self._numbers[info.mid] = number

    async def run(self) -> None:
        """Keep the connection up. Ends only by cancellation."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        failures = 0
        try:
            while True:
                self._lost.clear()
                try:
                    await self._connect()
                except OSError as e:
                    if failures == 0:
                        _log.info("%s: no connection to %s:%s (%s)", self._device, self._host, self._port, e)
                    failures += 1
                else:
                    failures = 0 if await self._until_lost() else failures + 1
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
        finally:
            self._ready = False
            self._client.disconnect()
            # Sends DISCONNECT if that could not be written at once; the loop turns no more for this link.
            self._client.loop_misc()

    async def _connect(self) -> None:
        """Resolving and connecting block, so a thread does it; everything after the CONNECT packet is driven by the loop."""
        connecting = asyncio.ensure_future(asyncio.to_thread(self._client.connect, self._host, self._port, KEEPALIVE_S))
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # A thread cannot be stopped, and a socket that it opens later would have no loop to belong to.
            await asyncio.wait({connecting})
            if not connecting.cancelled():
                connecting.exception()  # told to nobody: we are leaving anyway
            raise

    async def _until_lost(self) -> bool:
        """True if the gateway had let us in before the connection went."""
        was_ready = False
        while not self._lost.is_set():
            try:
                await asyncio.wait_for(self._lost.wait(), HOUSEKEEPING_S)
            except TimeoutError:
                self._client.loop_misc()
            was_ready = was_ready or self._ready
        self._ready = False
        return was_ready

    def _on_connect(self, _c: Client, _u: Any, _f: ConnectFlags, reason: ReasonCode, _p: Properties | None) -> None:
        self._ready = not reason.is_failure
        if reason.is_failure:
            _log.info("%s: the gateway refused the connection: %s", self._device, reason)

    def _on_disconnect(self, _c: Client, _u: Any, _f: DisconnectFlags, _r: ReasonCode, _p: Properties | None) -> None:
        self._in_loop(self._lost.set)

    def _on_publish(self, _c: Client, _u: Any, mid: int, _r: ReasonCode, _p: Properties) -> None:
        number = self._numbers.pop(mid, None)
        if number is not None and self._backlog.acked(number):
            self._on_fate(number, Fate.ACKED)

    # --- the socket, under the loop's eyes

    def _in_loop(self, action: Any, *arguments: Any) -> None:
        """Do it here if this is the loop's thread: a socket must leave the selector before paho closes it."""
        assert self._loop is not None
        if threading.get_ident() == self._thread:
            action(*arguments)
        else:
            self._loop.call_soon_threadsafe(action, *arguments)

    def _on_socket_open(self, _c: Client, _u: Any, sock: Any) -> None:
        assert self._loop is not None
        if isinstance(sock, socket.socket):
            # A frame is one small packet; waiting to join it with the next would only delay it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in_loop(self._loop.add_reader, sock, self._read)

    def _on_socket_close(self, _c: Client, _u: Any, sock: Any) -> None:
        assert self._loop is not None
        self._in_loop(self._loop.remove_reader, sock)

    def _on_register_write(self, _c: Client, _u: Any, sock: Any) -> None:
        assert self._loop is not None
        self._in_loop(self._loop.add_writer, sock, self._write)

    def _on_unregister_write(self, _c: Client, _u: Any, sock: Any) -> None:
        assert self._loop is not None
        self._in_loop(self._loop.remove_writer, sock)

    def _read(self) -> None:
        if self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._lost.set()

    def _write(self) -> None:
        if self._client.loop_write() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._lost.set()
