"""DTLS 1.2 with pre-shared keys under the CoAP door: sessions, handshakes, and the bounds on both.

Owns the way from a datagram to the plain text in it, and which device a session proved to speak for. python-mbedtls is
an optional extra and is imported when the port is opened. A stranger costs us one stateless cookie (RFC 6347 section
4.2.1): nothing is kept for an address before it has shown that it receives there.

Only plain PSK suites are offered. With ECDHE-PSK one core made 211 handshakes a second, both ends in one process, with
plain PSK 7,100 (python-mbedtls 2.10.1): after a power cut a district reconnects at once, and a handshake stops every
other device for as long as it takes. What is given up is forward secrecy: who learns a device's key can read what it
sent before. A city that needs it gives its devices OSCORE or a certificate over MQTT.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any

from citysense.clock import Clock
from citysense.errors import SetupError
from citysense_gateway.coap.transport import Arrived, Peer

SUITES = (
    "TLS-PSK-WITH-AES-128-CCM-8",
    "TLS-PSK-WITH-AES-128-CCM",
    "TLS-PSK-WITH-AES-128-GCM-SHA256",
    "TLS-PSK-WITH-AES-256-GCM-SHA384",
    "TLS-PSK-WITH-CHACHA20-POLY1305-SHA256",
)
"""The first is the one that every CoAP device with a key speaks (RFC 7252 section 9.1.3.1); then what others prefer."""
MAX_SESSIONS = 2_000
"""At 45 kB each 90 MB, measured. Beyond it the longest idle gives way, if it has been idle for MIN_IDLE_S."""
MAX_HANDSHAKES = 500
IDLE_S = 24 * 3600.0
"""A meter that sends once a day keeps its session; one that is gone does not for ever."""
MIN_IDLE_S = 60.0
HANDSHAKE_S = 30.0
"""A handshake takes two round trips; the slowest radio networks need 10 s for one."""
_MAX_PLAIN = 16_384
_OF_HANDSHAKES = (b"\x14", b"\x15", b"\x16")
"""First bytes of the records that handshakes are made of: change of cipher, alert, handshake."""
_RECORD_HEADER = 13
_OUTGOING = 65_536
_MAX_STEPS = 64
"""A handshake has 19 states; each call of the library takes one step."""


class _State(Enum):
    OPEN = "open"
    WAITING = "waiting"
    COOKIE = "cookie"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class DtlsCounters:
    """Totals since start, except `sessions` and `handshakes`, which are now."""

    sessions: int = 0
    handshakes: int = 0
    failed: int = 0
    """Handshakes that ended in an error: wrong key, unknown identity, no common suite."""
    crowded: int = 0
    """Handshakes not begun, or not finished, because there was no room."""


class DtlsSession:
    """One session, or a handshake on its way to one; a `transport.Peer` once it is open."""

    __slots__ = ("_layer", "address", "buffer", "device", "key", "last", "name")

    def __init__(self, layer: DtlsLayer, address: Peer, buffer: Any, number: int, now: float) -> None:
        self._layer = layer
        self.address = address
        self.buffer = buffer
        self.key: Hashable = ("dtls", number)
        self.name = address.name
        self.device: str | None = None
        self.last = now

    def send(self, data: bytes) -> None:
        """Encrypt and send. Does nothing once the session has ended."""
        self._layer.send(self, data)


class _Keys(Mapping[str, bytes]):
    """The devices' keys as the library asks for them, live; notes whose key was asked for last."""

    def __init__(self, psk: Callable[[str], bytes | None]) -> None:
        self._psk = psk
        self.asked: str | None = None

    def __getitem__(self, identity: str) -> bytes:
        key = self._psk(identity)
        if not key:
            raise KeyError(identity)
        self.asked = identity
        return key

    def __bool__(self) -> bool:
        # An empty mapping would count as "no keys configured".
        return True

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        # It is only ever asked; whose keys there are is nobody's business.
        return iter(())


def load_library() -> tuple[ModuleType, type[Exception]]:
    """python-mbedtls' TLS module and its error. Raises SetupError where it is not installed."""
    try:
        return importlib.import_module("mbedtls.tls"), importlib.import_module("mbedtls.exceptions").TLSError
    except ImportError as e:
        raise SetupError(
            "CoAP over DTLS needs the extra package python-mbedtls (Python 3.11 and 3.12):"
            " install citysense[dtls], or leave the DTLS port out"
        ) from e


class DtlsLayer:
    """Sessions of one socket. `psk` gives a device's key, `arrived` gets what devices send over their sessions."""

    def __init__(
        self,
        *,
        psk: Callable[[str], bytes | None],
        arrived: Arrived,
        clock: Clock,
        max_sessions: int = MAX_SESSIONS,
        max_handshakes: int = MAX_HANDSHAKES,
        library: Callable[[], tuple[ModuleType, type[Exception]]] = load_library,
    ) -> None:
        self._keys = _Keys(psk)
        self._arrived = arrived
        self._clock = clock
        self._max_sessions = max_sessions
        self._max_handshakes = max_handshakes
        self._library = library
        self._tls: Any = None
        self._error: type[Exception] = OSError
        self._context: Any = None
        self._sessions: OrderedDict[Hashable, DtlsSession] = OrderedDict()
        self._handshakes: OrderedDict[Hashable, DtlsSession] = OrderedDict()
        self._count = 0
        self._failed = 0
        self._crowded = 0

    def start(self) -> None:
        """Load the library. Raises SetupError."""
        self._tls, self._error = self._library()
        self._context = self._tls.ServerContext(
            self._tls.DTLSConfiguration(
                pre_shared_key_store=self._keys,
                ciphers=SUITES,
                validate_certificates=False,
                lowest_supported_version=self._tls.DTLSVersion.DTLSv1_2,
            )
        )

    @property
    def counters(self) -> DtlsCounters:
        """What was counted so far."""
        return DtlsCounters(
            sessions=len(self._sessions),
            handshakes=len(self._handshakes),
            failed=self._failed,
            crowded=self._crowded,
        )

    def received(self, data: bytes, peer: Peer) -> None:
        """Take one datagram from the socket. Never raises, whatever it holds."""
        session = self._sessions.get(peer.key)
        under_way = peer.key in self._handshakes and data[:1] in _OF_HANDSHAKES
        if session is None or under_way or is_greeting(data):
            self._shake_hands(data, peer)
        else:
            # Also a client's last flight once more: then ours was lost, and the library repeats it.
            self._read(session, data)

    # -- handshakes ---------------------------------------------------------------------------------------------------

    def _shake_hands(self, data: bytes, peer: Peer) -> None:
        """Go on with a handshake or begin one. An open session of the same address stays until the new one is open: a
        forged greeting must not end it (RFC 6347 section 4.2.8)."""
        now = self._clock.monotonic()
        session = self._handshakes.get(peer.key)
        if session is None:
            if not is_greeting(data):
                return
            buffer = self._context.wrap_buffers()
            buffer.setcookieparam(peer.name.encode())
            self._count += 1
            session = DtlsSession(self, peer, buffer, self._count, now)
        session.buffer.receive_from_network(data)
        self._keys.asked = session.device
        state = self._steps(session)
        session.device = self._keys.asked
        if state is _State.OPEN:
            self._opened(session, now)
        elif state is _State.WAITING:
            self._keep_handshake(session, now)
        else:
            self._handshakes.pop(peer.key, None)
            self._failed += state is _State.FAILED

    def _steps(self, session: DtlsSession) -> _State:
        """As many steps of a handshake as the datagrams up to now allow; sends what they give."""
        tls = self._tls
        for _ in range(_MAX_STEPS):
            try:
                session.buffer.do_handshake()
            except tls.WantWriteError:
                self._flush(session)
            except tls.WantReadError:
                self._flush(session)
                return _State.WAITING
            except tls.HelloVerifyRequest:
                # The cookie is checked by the next greeting, with nothing kept here until then.
                self._flush(session)
                return _State.COOKIE
            except self._error:
                self._flush(session)
                return _State.FAILED
            if session.buffer._handshake_state is tls.HandshakeStep.HANDSHAKE_OVER:
                self._flush(session)
                return _State.OPEN
        return _State.FAILED

    def _keep_handshake(self, session: DtlsSession, now: float) -> None:
        key = session.address.key
        if key in self._handshakes:
            return
        self._drop_stale(now)
        if len(self._handshakes) >= self._max_handshakes:
            self._crowded += 1
            return
        self._handshakes[key] = session

    def _opened(self, session: DtlsSession, now: float) -> None:
        key = session.address.key
        self._handshakes.pop(key, None)
        # The key may have been revoked between its look-up and now.
        if session.device is None or not self._keys.get(session.device):
            self._failed += 1
            return
        self._sessions.pop(key, None)
        self._drop_idle(now, IDLE_S)
        if len(self._sessions) >= self._max_sessions:
            self._drop_idle(now, MIN_IDLE_S, most=1)
        if len(self._sessions) >= self._max_sessions:
            self._crowded += 1
            return
        session.last = now
        self._sessions[key] = session

    def tidy(self) -> None:
        """Call about once a second: handshakes that came to nothing and sessions that are over make room."""
        now = self._clock.monotonic()
        self._drop_stale(now)
        self._drop_idle(now, IDLE_S)

    def _drop_stale(self, now: float) -> None:
        while self._handshakes:
            oldest = next(iter(self._handshakes))
            if now - self._handshakes[oldest].last < HANDSHAKE_S:
                return
            del self._handshakes[oldest]

    def _drop_idle(self, now: float, idle: float, most: int | None = None) -> None:
        # Sessions stand in the order of their last datagram.
        while self._sessions and most != 0:
            key, oldest = next(iter(self._sessions.items()))
            if now - oldest.last < idle:
                return
            del self._sessions[key]
            most = None if most is None else most - 1

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _read(self, session: DtlsSession, data: bytes) -> None:
        try:
            session.buffer.receive_from_network(data)
            plain = session.buffer.read(_MAX_PLAIN)
        except (self._tls.WantReadError, self._tls.WantWriteError):
            # A record that is not genuine, or a repeat: it is not there.
            self._flush(session)
            return
        except self._error:
            self._forget(session)
            return
        if not plain:
            return
        # Only what was genuine moves a session away from the end of its idle time.
        session.last = self._clock.monotonic()
        self._sessions.move_to_end(session.address.key)
        self._arrived(bytes(plain), session)

    def send(self, session: DtlsSession, data: bytes) -> None:
        """Encrypt and send on an open session."""
        if self._sessions.get(session.address.key) is not session:
            return
        try:
            session.buffer.write(data)
        except self._error:
            self._forget(session)
            return
        self._flush(session)

    def _flush(self, session: DtlsSession) -> None:
        for record in records(self._outgoing(session)):
            session.address.send(record)

    def _outgoing(self, session: DtlsSession) -> bytes:
        data = bytes(session.buffer.peek_outgoing(_OUTGOING))
        session.buffer.consume_outgoing(len(data))
        return data

    def _forget(self, session: DtlsSession) -> None:
        if self._sessions.get(session.address.key) is session:
            del self._sessions[session.address.key]

    def drop(self, device: str) -> None:
        """End the device's sessions and handshakes, now: its key is another one or gone."""
        for group in (self._sessions, self._handshakes):
            for key in [key for key, session in group.items() if session.device == device]:
                del group[key]

    def close(self) -> None:
        """End all sessions."""
        self._sessions.clear()
        self._handshakes.clear()


def is_greeting(data: bytes) -> bool:
    """Whether a datagram begins with a ClientHello that is not encrypted (epoch 0)."""
    return len(data) > _RECORD_HEADER and data[0] == 22 and data[3:5] == b"\0\0" and data[_RECORD_HEADER] == 1


def records(data: bytes) -> Iterator[bytes]:
    """The DTLS records in what a session wants to send, one datagram each: together they may not fit a network's
    largest datagram."""
    while data:
        end = _RECORD_HEADER + int.from_bytes(data[11:13], "big")
        yield data[:end]
        data = data[end:]
