"""Bounds of the MQTT door and what it counts.

Owns the numbers only; the session and the connection enforce them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """Sizes in bytes, times in seconds."""

    max_connections: int = 10_000
    """A connection counts until its socket is closed and the pipeline has answered for all its frames."""
    max_strangers: int = 256
    """Connections of one address on which no device has proved who it is yet; the next one is closed at once."""
    max_packet: int = 262_144
    max_connect_packet: int = 16_384
    """Before CONNECT we know nobody, so a stranger may make us keep less."""
    receive_maximum: int = 256
    """Publishes of one connection without a verdict; then its socket is not read (1..65535)."""
    max_in_flight_bytes: int = 1_048_576
    """The same bound in payload bytes: 256 packets of full size would be 64 MB for one device."""
    max_subscriptions: int = 32
    max_client_id: int = 128
    packets_per_turn: int = 64
    """Packets of one connection in one turn of the loop; then the others have theirs. The smallest packets come
    131,072 to one read of the socket."""
    output_limit: int = 262_144
    """Bytes waiting for a peer that does not read; above it the connection is cut."""
    connect_timeout: float = 10.0
    """From the first byte of TCP (or TLS) to a whole CONNECT."""
    packet_timeout: float = 60.0
    """From the first byte of a packet to its last; slow radio needs 30 s for a packet of full size."""
    linger: float = 2.0
    """How long a closed peer may take to read our last packet and hang up."""
    stop_grace: float = 5.0
    """How long stop() waits for verdicts before it gives up on them."""
    sweep_every: float = 1.0
    """How often timeouts are looked at; one pass costs about 1 us a connection."""


@dataclass(slots=True, kw_only=True)
class MqttCounters:
    """Totals since start, except `connections`, which is now."""

    connections: int = 0
    connections_accepted: int = 0
    sessions_opened: int = 0
    publishes: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Frames by the reason of their verdict; `unavailable` where nothing could be stored."""
    denied_subscriptions: int = 0
    closed: Counter[str] = field(default_factory=Counter)
    """Connections by `CloseReason` or `Fault`."""
