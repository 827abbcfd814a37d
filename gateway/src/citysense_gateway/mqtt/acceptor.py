"""The listening socket of the MQTT door: accepts, does the TLS handshake, and stops accepting when that is too much.

Owns the socket and the handshakes under way. `asyncio`'s own server accepts whatever comes and starts a handshake for
each; here a storm waits in the kernel, where it costs nothing. Who may come in is asked of the door.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from citysense_gateway.mqtt.connection import Connection
from citysense_gateway.outage import Outage

_BACKLOG = 4_096
"""Connections that the kernel holds for us: after a power cut a whole district connects at once."""
_PER_TURN = 64
"""Connections accepted in one turn of the loop, so that those which are open have theirs."""
_TLS_READ_BYTES = 4_096
"""Read at once under TLS: more than nearly all packets have. It is set aside for each connection as long as that is open,
and with asyncio's own 256 KiB an idle connection takes 285 kB (measured), 20,000 of them 5.7 GB."""
_STALLED_S = 2.0
"""A handshake under way for so long makes room when there is none: on slow radio it takes one, and a stranger may hold a
place with an empty connection for as long as it likes."""
_LOOK_AGAIN_S = 0.2
"""When no handshake is done and none has stalled yet."""
_SHARE = 4
"""One address may hold that part of all handshakes."""
_PAUSE_S = 1.0
"""How long nothing is accepted when the process is out of file descriptors or memory."""


class Gate(Protocol):
    """What the acceptor asks and tells the door."""

    def admit(self, address: str, source: str) -> Connection | None:
        """A connection from `address` is there (`source` says its port too); None: it is closed at once."""
        ...

    def turned_away(self, connection: Connection) -> None:
        """Its handshake failed."""
        ...


class Acceptor:
    """Listens on one address. `tls` may be replaced at any time; connections that are open keep theirs."""

    def __init__(
        self,
        gate: Gate,
        *,
        max_handshakes: int,
        handshake_timeout: float,
        random: Callable[[], float],
    ) -> None:
        self._gate = gate
        self._max_handshakes = max_handshakes
        self._timeout = handshake_timeout
        self._socket: socket.socket | None = None
        self._accepting = False
        self._retry: asyncio.TimerHandle | None = None
        self._look_again: asyncio.TimerHandle | None = None
        self._opening: dict[asyncio.Task[None], tuple[str, float]] = {}
        """In the order in which they came: address, and since when by the loop's time."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._handshakes: Counter[str] = Counter()
        self._trouble = Outage("MQTT door: accepting connections", random)
        self.tls: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._socket is None:
            raise RuntimeError("the MQTT door is not open: call start() first")
        number = self._socket.getsockname()[1]
        assert isinstance(number, int)
        return number

    @property
    def opening(self) -> int:
        """Connections accepted that have not come to the door yet."""
        return len(self._opening)

    def open(self, host: str, port: int) -> None:
        """Bind and accept. Raises OSError."""
        # The only way to say so; it holds for all TLS of this process, where it does no harm.
        SSLProtocol.max_size = _TLS_READ_BYTES
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self._resume()

    async def close(self) -> None:
        """Accept nothing more; what has not come to the door yet is dropped."""
        for timer in (self._retry, self._look_again):
            if timer is not None:
                timer.cancel()
        self._pause()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for task in self._opening:
            task.cancel()
        ending = [*self._opening, *self._leaving]
        if ending:
            await asyncio.wait(ending)

    def _pause(self) -> None:
        if self._accepting and self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
        self._accepting = False

    def _resume(self) -> None:
        if not self._accepting and self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)
            self._accepting = True

    def _accept(self) -> None:
        assert self._socket is not None
        for _ in range(_PER_TURN):
            if self.tls is not None and len(self._opening) >= self._max_handshakes and not self._drop_stalled():
                self._pause()
                self._look_again = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._resume)
                return
            try:
                connected, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of file descriptors or memory: what is open is served on, and what waits in the kernel waits.
                self._trouble.failed(error)
                self._pause()
                self._retry = asyncio.get_running_loop().call_later(_PAUSE_S, self._resume)
                return
            self._trouble.worked()
            self._take(connected, str(peer[0]), int(peer[1]))

    def _drop_stalled(self) -> bool:
        """Make room: of the handshakes that have stalled, the oldest of the address that holds most of all goes."""
        before = asyncio.get_running_loop().time() - _STALLED_S
        stalled = [(task, address) for task, (address, since) in self._opening.items() if since <= before]
        if not stalled:
            return False
        task, _ = max(stalled, key=lambda one: self._handshakes[one[1]])
        del self._opening[task]
        self._leaving.add(task)
        task.cancel()
        return True

    def _take(self, connected: socket.socket, address: str, port: int) -> None:
        source = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        crowded = self.tls is not None and self._handshakes[address] >= max(1, self._max_handshakes // _SHARE)
        connection = None if crowded else self._gate.admit(address, source)
        if connection is None:
            connected.close()
            return
        connected.setblocking(False)
        # A device may switch keep-alive off; its vanishing must still free the socket one day.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._handshakes[address] += 1
        task = asyncio.get_running_loop().create_task(self._connect(connected, connection))
        self._opening[task] = (address, asyncio.get_running_loop().time())
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.pop(task, None)
        self._leaving.discard(task)
        if self._retry is None or self._retry.when() <= asyncio.get_running_loop().time():
            self._resume()

    async def _connect(self, connected: socket.socket, connection: Connection) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                connected,
                ssl=self.tls,
                ssl_handshake_timeout=self._timeout if self.tls is not None else None,
            )
        except OSError:
            # The peer gave up, or speaks no TLS, or too slowly.
            self._gate.turned_away(connection)
        except asyncio.CancelledError:
            self._gate.turned_away(connection)
            raise
        finally:
            self._handshakes[connection.address] -= 1
            if not self._handshakes[connection.address]:
                del self._handshakes[connection.address]
