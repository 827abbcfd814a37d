"""UDP sockets of the CoAP doors: datagrams in with the peer they came from, datagrams out to that peer.

Knows the library's udp6 socket from inside (aiocoap 0.4, the version is pinned) and is the only place that does. One
address gets a plain asyncio datagram socket; any-address (0.0.0.0, ::) gets the library's udp6, because only that
answers from the address that was asked.

The library's sockets are also opened with SO_REUSEPORT: a second gateway on the same port would silently get half of
the datagrams. Ours is exclusive, and refuses to start.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from aiocoap.transports.udp6 import MessageInterfaceUDP6, UDP6EndpointAddress
from aiocoap.util import hostportjoin

_RECEIVE_BUFFER = 4 * 1024 * 1024
"""Asked of the system, which may give less: the default of 208 kB holds a burst of about 200 datagrams."""
_LIBRARY_LOG = "citysense_gateway.coap.library"
_PEERS = 10_000
"""Peers whose names are kept ready; making one costs a few microseconds."""


@dataclass(slots=True, kw_only=True)
class DatagramCounters:
    """Totals since start."""

    malformed: int = 0
    repeats: int = 0
    """Requests seen before, by peer, message id and content."""
    unsent: int = 0
    """Replies dropped because the system took no more datagrams; the device repeats its request."""


class Peer(Protocol):
    """The other end of datagrams, and the way back to it."""

    @property
    def key(self) -> Hashable:
        """Equal for datagrams of one peer: one address, or one DTLS session."""
        ...

    @property
    def name(self) -> str:
        """`host:port` for a person and for a frame's source; CoAP's own port is left out by some sockets."""
        ...

    @property
    def device(self) -> str | None:
        """The device that the channel proved to speak for; None on plain UDP."""
        ...

    def send(self, data: bytes) -> None:
        """Put one datagram on its way. Never raises for what the network does."""
        ...


Arrived = Callable[[bytes, Peer], None]
"""Told each datagram. Must not raise."""


class UdpSocket(Protocol):
    """A bound socket."""

    async def close(self) -> None:
        """Stop receiving, and close it."""
        ...


class _Peer:
    """An address behind a socket on one address."""

    __slots__ = ("_socket", "address", "key", "name")
    device = None

    def __init__(self, owner: _UnicastSocket, address: Any) -> None:
        self._socket = owner
        self.address = address
        self.key: Hashable = address
        self.name = str(hostportjoin(address[0], address[1]))

    def send(self, data: bytes) -> None:
        self._socket.send(data, self.address)


class _UnicastSocket(asyncio.DatagramProtocol):
    """One socket on one address."""

    def __init__(self, arrived: Arrived, counters: DatagramCounters) -> None:
        self._arrived: Arrived | None = arrived
        self._counters = counters
        self._transport: asyncio.DatagramTransport | None = None
        self._paused = False
        self._peers: dict[Any, _Peer] = {}
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not an assertion: the loop's own class does not derive from DatagramTransport before Python 3.12.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def error_received(self, exc: Exception) -> None:
        # A reply that could not be delivered; the device repeats its request or does not.
        self._counters.unsent += 1

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self._arrived is None:
            return
        peer = self._peers.get(addr)
        if peer is None:
            if len(self._peers) >= _PEERS:
                self._peers.clear()
            peer = self._peers[addr] = _Peer(self, addr)
        self._arrived(data, peer)

    def send(self, data: bytes, address: Any) -> None:
        if self._transport is None or self._paused or self._transport.is_closing():
            self._counters.unsent += 1
            return
        self._transport.sendto(data, address)

    async def close(self) -> None:
        self._arrived = None
        if self._transport is not None:
            self._transport.abort()
            await self._closed


class _AnyPeer:
    """An address behind an any-address socket, with the local address that it asked."""

    __slots__ = ("_socket", "key", "name", "remote")
    device = None

    def __init__(self, owner: _AnyAddressSocket, remote: UDP6EndpointAddress) -> None:
        self._socket = owner
        self.remote = remote
        self.key: Hashable = remote.sockaddr
        self.name = str(remote.hostinfo)

    def send(self, data: bytes) -> None:
        self._socket.send_to(data, self.remote)


class _AnyAddressSocket(MessageInterfaceUDP6):  # type: ignore[misc]
    """The library's udp6 socket, below its message layer."""

    arrived: Arrived | None = None
    counters: DatagramCounters

    def datagram_msg_received(self, data: bytes, ancdata: Any, flags: int, address: Any) -> None:
        asked = [value for level, kind, value in ancdata if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)]
        remote = UDP6EndpointAddress(address, self, pktinfo=asked[0] if asked else None)
        if self.arrived is not None:
            self.arrived(data, _AnyPeer(self, remote))

    def send_to(self, data: bytes, remote: UDP6EndpointAddress) -> None:
        asked = [] if remote.pktinfo is None else [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, remote.pktinfo)]
        if self.arrived is None:
            self.counters.unsent += 1
            return
        self.transport.sendmsg(data, asked, 0, remote.sockaddr)

    def error_received(self, exc: Exception) -> None:
        self.counters.unsent += 1

    def datagram_errqueue_received(self, data: bytes, ancdata: Any, flags: int, address: Any) -> None:
        # An ICMP error. It proves nothing, so nothing but the counter hears of it.
        self.counters.unsent += 1

    async def close(self) -> None:
        self.arrived = None
        await self.shutdown()


async def open_socket(host: str, port: int, arrived: Arrived, counters: DatagramCounters) -> tuple[UdpSocket, int]:
    """A socket on one address or any, and its port; port 0 takes a free one. OSError comes through as it is."""
    bound = await _bound_socket(host, port)
    own_port = int(bound.getsockname()[1])
    try:
        return await _served(bound, arrived, counters), own_port
    except BaseException:
        bound.close()
        raise


async def _served(bound: socket.socket, arrived: Arrived, counters: DatagramCounters) -> UdpSocket:
    loop = asyncio.get_running_loop()
    if is_any_address(bound.getsockname()[0]):
        log = logging.getLogger(_LIBRARY_LOG)
        # The library warns about datagrams, one line each: a stranger could fill a disk. They are counted instead.
        log.setLevel(logging.ERROR)
        any_socket = await _AnyAddressSocket._create_transport_endpoint(bound, None, log, loop)
        any_socket.counters = counters
        any_socket.arrived = arrived
        return cast(UdpSocket, any_socket)
    _, unicast = await loop.create_datagram_endpoint(lambda: _UnicastSocket(arrived, counters), sock=bound)
    return unicast


def is_any_address(address: str) -> bool:
    """Whether `address` stands for all addresses of the machine; also in the form that udp6 sockets report."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_unspecified


async def _bound_socket(host: str, port: int) -> socket.socket:
    """A bound socket of our own, without SO_REUSEPORT: two gateways on one port would silently share the datagrams."""
    found = await asyncio.get_running_loop().getaddrinfo(host or "::", port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    any_address = is_any_address(str(address[0]))
    if any_address:
        # udp6 speaks IPv4 through mapped addresses.
        mapped = "::ffff:0.0.0.0" if family == socket.AF_INET else "::"
        family, address = socket.AF_INET6, (mapped, port, 0, 0)
    bound = socket.socket(family, kind, protocol)
    try:
        if any_address:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        bound.setblocking(False)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
