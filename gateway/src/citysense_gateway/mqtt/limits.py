"""Bounds of the MQTT door and what it counts.

Owns the numbers only; the session and the connection enforce them.
"""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass, field

from citysense_gateway.gaps import FIRST_S

FILES_KEPT_BACK = 200
"""Open files for everything else: spool, uplink, Modbus lines, CoAP, status, and new connections on their way."""
MOST_CONNECTIONS = 25_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """Sizes in bytes, times in seconds."""

    max_connections: int = MOST_CONNECTIONS
    """A connection counts until its socket is closed and the pipeline has answered for all its frames."""
    max_strangers: int = 2_048
    """Connections of one address on which no device has proved who it is yet, and how many it may open at once; the next
    one is closed. As many as a burst of `connect_burst` brings from one address."""
    stranger_rate: float = 20.0
    """Connections in a second that an address may open beyond that without ever proving anything."""
    connect_rate: float = 1_000.0
    """CONNECTs in a second that are accepted for long. One costs the door 0.05 ms of CPU in the clear and 0.6 ms with TLS,
    so that no core is full even then, and the readings of those that are back come through; 20,000 devices are back
    after half a minute."""
    connect_burst: int = 2_000
    """CONNECTs that are accepted at once."""
    max_handshakes: int = 256
    """TLS handshakes under way; then no more is accepted until one is done or has stalled for two seconds. One address may
    hold a quarter of them."""
    max_packet: int = 262_144
    max_connect_packet: int = 16_384
    """Before CONNECT we know nobody, so a stranger may make us keep less."""
    receive_maximum: int = 256
    """Publishes of one connection without a verdict; then its socket is not read (1..65535)."""
    max_in_flight_bytes: int = 1_048_576
    """The same bound in payload bytes: 256 packets of full size would be 64 MB for one device."""
    max_held_bytes: int = 67_108_864
    """Bytes of frames that all connections may have under way together, with what a frame takes beside its payload
    (`budget`); above it no socket is read. A storm of 20,000 devices with one reading each holds 45 MB."""
    max_unreleased: int = 4_096
    """QoS 2 messages of an MQTT 3.1.1 client between PUBLISH and PUBREL; it cannot be told of `receive_maximum`."""
    max_subscriptions: int = 32
    max_client_id: int = 128
    packets_per_turn: int = 64
    """Packets of one connection in one turn of the loop; then the others have theirs. The smallest packets come
    131,072 to one read of the socket."""
    repeat_receipt_after: float = FIRST_S
    """Seconds for which a gap in a device's numbers may stand open before it hears its receipt again."""
    output_limit: int = 262_144
    """Bytes waiting for a peer that does not read; above it the connection is cut."""
    max_sessions: int = 4
    """Sessions of one device, each under its own client id; the oldest goes when one more is opened."""
    max_session_expiry: int = 7 * 24 * 3600
    """How long a session waits for its device at most; as long for an MQTT 3.1.1 client that keeps its session, which
    cannot say how long. A week covers the repair of a device."""
    max_keep_alive: int = 3_600
    """The longest keep-alive for MQTT 5, and what those are given who ask for none: a device that vanished may pass for
    connected, and its downlinks wait for nobody, for an hour and a half at most. MQTT 3.1.1 cannot be told."""
    will_after_restart: int = 120
    """How long a device may take to come back after our own restart before its will is published."""
    max_downlinks: int = 16
    """Downlinks of one session that are sent and not confirmed; less where the client's Receive Maximum says so."""
    connect_timeout: float = 10.0
    """From the first byte of TCP (or TLS) to a whole CONNECT."""
    packet_timeout: float = 60.0
    """From the first byte of a packet to its last; slow radio needs 30 s for a packet of full size."""
    linger: float = 2.0
    """How long a closed peer may take to read our last packet and hang up."""
    stop_grace: float = 5.0
    """How long stop() waits for verdicts before it gives up on them."""
    sweep_every: float = 1.0
    """How often timeouts are looked at; only connections whose time has come are touched."""
    sweep_chunk: int = 500
    """Connections that are looked at in one turn of the loop: about 1 ms."""


@dataclass(slots=True, kw_only=True)
class MqttCounters:
    """Totals since start, except the first five, which are now."""

    connections: int = 0
    handshakes: int = 0
    """Accepted and not yet at the door; without TLS none for long."""
    sessions_kept: int = 0
    """Sessions that wait for their device, or for the moment of its will."""
    held_bytes: int = 0
    """Of frames under way; see `MqttSettings.max_held_bytes`."""
    held_up: int = 0
    """Connections that are not read until there is room."""
    connections_accepted: int = 0
    sessions_opened: int = 0
    sessions_resumed: int = 0
    put_off: int = 0
    """CONNECTs that were asked to come back later."""
    publishes: int = 0
    downlinks: int = 0
    """Messages written to devices, repeats included."""
    wills: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Frames by the reason of their verdict; `unavailable` where nothing could be stored."""
    denied_subscriptions: int = 0
    closed: Counter[str] = field(default_factory=Counter)
    """Connections by `CloseReason` or `Fault`."""


def connections_allowed() -> int:
    """How many connections this process can hold: `MqttSettings`' own bound, or what its limit of open files leaves."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MOST_CONNECTIONS, soft - FILES_KEPT_BACK))
