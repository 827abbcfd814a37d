"""The CoAP library's plumbing: sockets, message ids, and a guard around what it cannot parse.

Knows aiocoap 0.4 from inside (the version is pinned) and is the only place that does; what a request means is decided
elsewhere. A context that only serves: it never sends a request.

One address gets a plain asyncio datagram socket; any-address (0.0.0.0, ::) gets the library's udp6, because only that
answers from the address that was asked. Measured on 2 shared cores, Python 3.11, loopback, 20 client sockets with 4
requests each under way, 20,000 requests, two runs, a sink that answers at once:

    here, one address            11,200-11,600 req/s   p99 13 ms       30 MB
    here, any-address (udp6)      6,700-7,500 req/s    p99 21-24 ms    33 MB
    library's simplesocketserver  9,300 req/s          p99 101-106 ms  70 MB
    library's udp6                6,400-6,600 req/s    p99 75-122 ms   73 MB

The library's sockets are also opened with SO_REUSEPORT: a second gateway on the same port would silently get half of
the datagrams. Ours is exclusive, and refuses to start.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import socket
from collections import namedtuple
from dataclasses import dataclass
from typing import Any, cast

from aiocoap import Message, error, interfaces
from aiocoap.message import Direction
from aiocoap.messagemanager import MessageManager
from aiocoap.numbers.codes import EMPTY
from aiocoap.numbers.types import ACK, CON
from aiocoap.protocol import Context
from aiocoap.tokenmanager import TokenManager
from aiocoap.transports.generic_udp import GenericMessageInterface
from aiocoap.transports.udp6 import MessageInterfaceUDP6
from aiocoap.util import hostportjoin

from citysense.clock import Clock
from citysense_gateway.coap.recent import RecentRequests, Superseded

_RECEIVE_BUFFER = 4 * 1024 * 1024
"""Asked of the system, which may give less: the default of 208 kB holds a burst of about 200 datagrams."""
_LIBRARY_LOG = "citysense_gateway.coap.library"


@dataclass(slots=True, kw_only=True)
class DatagramCounters:
    """Totals since start."""

    malformed: int = 0
    repeats: int = 0
    """Requests seen before, by peer, message id and content."""
    unsent: int = 0
    """Replies dropped because the system took no more datagrams; the device repeats its request."""


class _Messages(MessageManager):  # type: ignore[misc]
    """The library's message layer with a bounded memory of what was answered."""

    def __init__(self, token_manager: TokenManager, clock: Clock, counters: DatagramCounters) -> None:
        super().__init__(token_manager)
        self._clock = clock
        self._counters = counters
        self._recent = RecentRequests()

    def _deduplicate_message(self, message: Message) -> bool:
        key = (message.remote, message.mid)
        known = self._recent.admit(key, content_digest(message), message.token, self._clock.monotonic())
        if known is None:
            return False
        if isinstance(known, Superseded):
            self._withhold_ack(message, known.token)
            return False
        self._counters.repeats += 1
        if message.mtype is CON and known:
            again = Message.decode(known, message.remote.as_response_address())
            again.direction = Direction.OUTGOING
            self._send_via_transport(again)
        return True

    def _withhold_ack(self, message: Message, older_token: bytes) -> None:
        """An older request under the same message id may be under way still: its reply gets an id of its own.

        As an ACK it would acknowledge the new request, to a device that looks at the message id only.
        """
        place = (message.remote, older_token)
        waiting = self._piggyback_opportunities.get(place)
        if waiting is not None and waiting[0] == message.mid:
            del self._piggyback_opportunities[place]
            waiting[1].cancel()

    def _store_response_for_duplicates(self, message: Message) -> None:
        # Only an ACK carries the request's message id; a separate response's id is our own and may collide with one.
        if message.mtype is not ACK:
            return
        key = (message.remote, message.mid)
        if message.code is EMPTY:
            self._recent.acknowledged(key, message.encode())
        else:
            self._recent.answered(key, message.token, message.encode())


def content_digest(message: Message) -> bytes:
    """Stands for what a request says: equal for a repeat, different for another request under the same message id."""
    head = bytes((int(message.code), len(message.token))) + message.token
    # The marker ends the options, as on the wire.
    return hashlib.blake2b(head + message.opt.encode() + b"\xff" + message.payload, digest_size=16).digest()


class _Peer(namedtuple("_Peer", ["transport", "address"]), interfaces.EndpointAddress):  # type: ignore[misc]
    """The other end of a datagram, as the library wants it."""

    scheme = "coap"
    is_multicast = False
    is_multicast_locally = False
    maximum_block_size_exp = 6

    @property
    def hostinfo(self) -> str:
        return str(hostportjoin(self.address[0], self.address[1]))

    @property
    def hostinfo_local(self) -> str:
        return str(hostportjoin(*self.transport.get_extra_info("sockname")[:2]))

    @property
    def uri_base(self) -> str:
        return f"coap://{self.hostinfo}"

    @property
    def uri_base_local(self) -> str:
        return f"coap://{self.hostinfo_local}"

    @property
    def blockwise_key(self) -> Any:
        return self.address


class _UnicastInterface(GenericMessageInterface, asyncio.DatagramProtocol):  # type: ignore[misc]
    """One socket on one address."""

    def __init__(self, messages: MessageManager, log: logging.Logger, counters: DatagramCounters) -> None:
        super().__init__(messages, log, asyncio.get_running_loop())
        self._counters = counters
        self._transport: asyncio.DatagramTransport | None = None
        self._paused = False
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
        if self._mman is None:
            return
        try:
            message = Message.decode(data, remote=_Peer(self._transport, addr))
        except (error.UnparsableMessage, ValueError):
            # ValueError: text options that are not UTF-8, which the library lets through.
            self._counters.malformed += 1
            return
        if not well_formed(message):
            self._counters.malformed += 1
            return
        self._mman.dispatch_message(message)

    def send(self, message: Message) -> None:
        if self._transport is None or self._paused or self._transport.is_closing():
            self._counters.unsent += 1
            return
        self._transport.sendto(message.encode(), message.remote.address)

    async def recognize_remote(self, remote: Any) -> bool:
        return isinstance(remote, _Peer) and remote.transport is self._transport

    async def shutdown(self) -> None:
        self._mman = None
        if self._transport is not None:
            self._transport.abort()
            await self._closed


class _AnyAddressInterface(MessageInterfaceUDP6):  # type: ignore[misc]
    """The library's udp6 socket, with the same guard."""

    counters: DatagramCounters

    def datagram_msg_received(self, data: bytes, ancdata: Any, flags: int, address: Any) -> None:
        try:
            parsable = well_formed(Message.decode(data))
        except (error.UnparsableMessage, ValueError):
            parsable = False
        if parsable:
            super().datagram_msg_received(data, ancdata, flags, address)
        else:
            self.counters.malformed += 1


def well_formed(message: Message) -> bool:
    """Whether a parsed message may go on: token lengths 9 to 15 are a format error that the library overlooks."""
    return len(message.token) <= 8


class ServingContext(Context):  # type: ignore[misc]
    """A library context around one bound socket, serving `site`."""

    def __init__(self, site: interfaces.Resource, clock: Clock) -> None:
        super().__init__(loop=asyncio.get_running_loop(), serversite=site, loggername=_LIBRARY_LOG)
        # The library warns about datagrams, one line each: a stranger could fill a disk. They are counted instead.
        self.log.setLevel(logging.ERROR)
        self.counters = DatagramCounters()
        self.port = 0
        self._clock = clock

    async def bind(self, host: str, port: int) -> None:
        """Bind one address or any; port 0 takes a free one. OSError comes through as it is."""
        tokens = TokenManager(self)
        messages = _Messages(tokens, self._clock, self.counters)
        bound = await _bound_socket(host, port)
        self.port = bound.getsockname()[1]
        try:
            messages.message_interface = await self._interface(messages, bound)
        except BaseException:
            bound.close()
            raise
        tokens.token_interface = messages
        self.request_interfaces.append(tokens)

    async def _interface(self, messages: MessageManager, bound: socket.socket) -> Any:
        if is_any_address(bound.getsockname()[0]):
            interface = await _AnyAddressInterface._create_transport_endpoint(bound, messages, self.log, self.loop)
            interface.counters = self.counters
            return interface
        _, interface = await self.loop.create_datagram_endpoint(
            lambda: _UnicastInterface(messages, self.log, self.counters), sock=bound
        )
        return interface


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
