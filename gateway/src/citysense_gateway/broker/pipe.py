"""The socket that paho reads and writes: buffered on both sides, so that a packet costs no system call of its own.

paho takes a packet in three reads of the socket (type, length, body) and writes each acknowledgement by itself. Behind this
the event loop fills and empties the buffers, some hundreds of packets at a time, and what is not to be read yet simply stays.
Messages are taken out beside paho (`inbound`); it sees every other packet.
"""

from __future__ import annotations

import socket
import ssl

from citysense_gateway.broker.inbound import PUBLISH, Inbound, take_publishes

FILL = 65_536
MOST_PACKET = 4 << 20
"""Larger packets end the connection: paho would gather up to 256 MB of one. A broker told of a limit (MQTT 5) does not send
any; under 3.1.1 it is the broker's own limit that has to be lower."""
MOST_WAITING = 4 << 20
"""Bytes that the broker does not take from us; then the connection is given up."""


class Pipe:
    """A connected socket, as paho wants one (its `SocketLike`). Never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._in = b""
        self._at = 0
        self._out = bytearray()
        self._ended = False
        self.mid_packet = False
        """paho has taken a part of a packet and wants the rest. Whoever lets it read sets this."""
        self.more = False
        """After `fill`: the socket has more than that."""
        self.fault = ""
        """Why this end gave up, for a person; empty while all is well."""

    @property
    def readable(self) -> bool:
        """Something is there for paho: a packet that is no PUBLISH, or the peer's end, which it has to see too."""
        if self._at < len(self._in):
            return self.mid_packet or self._in[self._at] & 0xF0 != PUBLISH
        return self._ended

    def messages(self, *, v5: bool) -> list[Inbound]:
        """The messages that have come whole, up to the next packet for paho. Raises BadPacket."""
        if self.mid_packet or self._at >= len(self._in):
            return []
        found, self._at = take_publishes(self._in, self._at, v5=v5, largest=MOST_PACKET)
        return found

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer."""
        return len(self._out)

    def fill(self) -> int:
        """Take what the socket has, at most `FILL` bytes; how many. Raises OSError."""
        self.more = False
        try:
            data = self._sock.recv(FILL)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        if not data:
            self._ended = True
            return 0
        self._in, self._at = (self._in[self._at :] + data if self._at < len(self._in) else data), 0
        # TLS hands out one record at a time and may hold another that no poll will tell of.
        self.more = len(data) == FILL or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0)
        return len(data)

    def flush(self) -> None:
        """Give the socket what it takes. Raises OSError."""
        while self._out:
            try:
                gone = self._sock.send(self._out)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            del self._out[:gone]

    # What paho calls

    def recv(self, buffer_size: int) -> bytes:
        """Buffered bytes, at most `buffer_size`; none at the peer's end. Raises BlockingIOError when there are none yet."""
        if buffer_size > MOST_PACKET:
            self.fault = f"it sends a packet of {buffer_size} bytes; set its limit of packets to at most {MOST_PACKET}"
            raise ConnectionError(self.fault)
        at = self._at
        data = self._in[at : at + buffer_size]
        if not data:
            if self._ended:
                return b""
            raise BlockingIOError
        self._at = at + len(data)
        return data

    def send(self, buffer: bytes | bytearray) -> int:
        """Take everything into the buffer. Raises ConnectionError when the peer has not read for too long."""
        if len(self._out) > MOST_WAITING:
            self.fault = f"it has not taken {len(self._out)} bytes from us"
            raise ConnectionError(self.fault)
        self._out += buffer
        return len(buffer)

    def fileno(self) -> int:
        """The socket's."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """As the socket."""
        self._sock.setblocking(flag)

    def close(self) -> None:
        """Send what goes without waiting (a DISCONNECT, as a rule), then close."""
        try:
            self.flush()
        except OSError:
            pass  # the peer has gone already; there is nobody to tell
        self._sock.close()
