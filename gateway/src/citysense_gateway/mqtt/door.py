"""The MQTT server: listens, admits connections, knows which device is on which of them, and cuts them off.

Owns the sockets as a whole; each one is a `Connection`, and every decision about it is its `Session`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections import Counter

from citysense.clock import Clock
from citysense_gateway.frame import FrameSink, PasswordCheck
from citysense_gateway.mqtt.actions import CloseReason
from citysense_gateway.mqtt.connection import Connection
from citysense_gateway.mqtt.limits import MqttCounters, MqttSettings
from citysense_gateway.mqtt.session import Session
from citysense_gateway.mqtt.topics import TopicRights

_log = logging.getLogger(__name__)


class MqttDoor:
    """Serves devices over MQTT 3.1.1 and 5.0. `counters` may be read at any time."""

    def __init__(
        self,
        *,
        sink: FrameSink,
        check_password: PasswordCheck,
        topic_rights: TopicRights,
        clock: Clock,
        settings: MqttSettings,
    ) -> None:
        self.counters = MqttCounters()
        self._sink = sink
        self._check_password = check_password
        self._topic_rights = topic_rights
        self._clock = clock
        self._settings = settings
        self._server: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._connections: set[Connection] = set()
        self._sessions: dict[str, dict[str, Connection]] = {}
        self._strangers: Counter[str] = Counter()
        # Holds names of registered devices only, so the register bounds it.
        self._wills_noted: set[str] = set()
        self._all_done = asyncio.Event()
        self._ids = itertools.count(1)
        self._id_prefix = ""

    @property
    def port(self) -> int:
        """The port it listens on; of several addresses the first one's."""
        if self._server is None or not self._server.sockets:
            raise RuntimeError("the MQTT door is not open: call start() first")
        number = self._server.sockets[0].getsockname()[1]
        assert isinstance(number, int)
        return number

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen; port 0 takes a free one. OSError comes through as it is: whoever configured the address words it."""
        loop = asyncio.get_running_loop()
        # Names that we give are never given twice, also not by the next process: they are part of delivery keys.
        self._id_prefix = f"auto-{self._clock.now_ms():x}"
        self._server = await loop.create_server(
            self._new_connection,
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=self._settings.connect_timeout if tls else None,
            # After a power cut a whole district connects at once.
            backlog=1024,
        )
        self._sweep_timer = loop.call_later(self._settings.sweep_every, self._sweep)

    async def stop(self) -> None:
        """Take nothing new, wait `stop_grace` for verdicts under way, answer them, and hang up on everybody."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in self._connections:
            connection.drain()
        await self._await_deliveries()
        for connection in tuple(self._connections):
            connection.finish(CloseReason.SHUTTING_DOWN)
        try:
            async with asyncio.timeout(self._settings.linger):
                await self._emptied()
        except TimeoutError:
            # Peers that would not hang up themselves.
            for connection in tuple(self._connections):
                connection.abort()
            await self._emptied()
        await server.wait_closed()

    def disconnect(self, device: str) -> int:
        """Cut all live sessions of a device whose rights have ended; returns how many.

        The password check must refuse the device already, or it is back at once.
        """
        sessions = self._sessions.pop(device, {})
        for connection in sessions.values():
            connection.finish(CloseReason.REVOKED)
        return len(sessions)

    # Called by connections

    def connection_made(self, connection: Connection) -> CloseReason | None:
        """See `connection.Host`."""
        self.counters.connections_accepted += 1
        if self._server is None or len(self._connections) >= self._settings.max_connections:
            return CloseReason.TOO_MANY_CONNECTIONS
        if self._strangers[connection.address] >= self._settings.max_strangers:
            return CloseReason.TOO_MANY_STRANGERS
        self._strangers[connection.address] += 1
        self._connections.add(connection)
        self.counters.connections = len(self._connections)
        return None

    def session_opened(self, connection: Connection) -> None:
        """See `connection.Host`."""
        assert connection.session_key is not None
        device, client_id = connection.session_key
        self.counters.sessions_opened += 1
        self._no_stranger(connection.address)
        if connection.with_will and device not in self._wills_noted:
            self._wills_noted.add(device)
            _log.info("%s connects with a will, which is accepted but never published", device)
        sessions = self._sessions.setdefault(device, {})
        older = sessions.get(client_id)
        sessions[client_id] = connection
        if older is not None:
            older.finish(CloseReason.TAKEN_OVER)

    def session_ended(self, connection: Connection) -> None:
        """See `connection.Host`."""
        assert connection.session_key is not None
        device, client_id = connection.session_key
        sessions = self._sessions.get(device)
        if sessions is not None and sessions.get(client_id) is connection:
            del sessions[client_id]
            if not sessions:
                del self._sessions[device]

    def connection_done(self, connection: Connection) -> None:
        """See `connection.Host`."""
        self._connections.discard(connection)
        if connection.session_key is None:
            self._no_stranger(connection.address)
        self.counters.connections = len(self._connections)
        if not self._connections:
            self._all_done.set()

    def _no_stranger(self, address: str) -> None:
        self._strangers[address] -= 1
        if not self._strangers[address]:
            del self._strangers[address]

    def _new_connection(self) -> Connection:
        return Connection(
            host=self,
            sink=self._sink,
            new_session=self._new_session,
            clock=self._clock,
            settings=self._settings,
            counters=self.counters,
        )

    def _new_session(self, source: str) -> Session:
        return Session(
            source=source,
            check_password=self._check_password,
            topic_rights=self._topic_rights,
            new_client_id=lambda: f"{self._id_prefix}-{next(self._ids):x}",
            settings=self._settings,
            counters=self.counters,
        )

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        for connection in tuple(self._connections):
            connection.check_deadlines(now)
        self._sweep_timer = asyncio.get_running_loop().call_later(self._settings.sweep_every, self._sweep)

    async def _await_deliveries(self) -> None:
        tasks = {task for connection in self._connections for task in connection.deliveries}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._settings.stop_grace)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _emptied(self) -> None:
        """Wait until no connection is left."""
        self._all_done.clear()
        if self._connections:
            await self._all_done.wait()
