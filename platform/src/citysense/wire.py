"""What travels from gateway to platform and stands in the logs' bodies, in MessagePack.

Owns the structs and their order of fields (array-like: a field may be added at the end only). Pydantic never sees
these; they are decoded a few thousand times a second.
"""

from __future__ import annotations

import msgspec

Value = float | int | str | bool


class SampleBody(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """What one frame says of one moment. `time` is event time in ms since 1970 UTC; values are in vocabulary units."""

    time: int
    values: dict[str, Value]
    suspect: list[str] = []
    """Metrics whose value lies outside the vocabulary's plausible range: kept, flagged."""
    missing: list[str] = []
    """Metrics for which the frame says "no value". Missing is not zero."""
    event: str = ""
    """Kind of event (`tag.seen`); empty for plain telemetry."""
    tag: str = ""
    """HMAC of the personal id, in hex; never the id itself."""


class Readings(msgspec.Struct, tag="r", array_like=True, frozen=True, omit_defaults=True):
    """The readings of one class out of one frame."""

    device: str
    profile: str
    kind: str
    message: str
    received: int
    identity: str
    samples: list[SampleBody]
    boot: int = -1
    seq: int = -1
    site: str = ""
    """Resolved by the platform's ingest; empty on the way there."""
    gateway: str = ""


class DeadLetter(msgspec.Struct, tag="d", array_like=True, frozen=True, omit_defaults=True):
    """A frame that was not usable, kept with the reason. `seal` names the key that `raw` is sealed with, if any."""

    received: int
    transport: str
    source: str
    channel: str
    device: str
    profile: str
    reason: str
    detail: str
    size: int
    raw: bytes
    seal: str = ""
    gateway: str = ""


class Tombstone(msgspec.Struct, tag="t", array_like=True, frozen=True, omit_defaults=True):
    """Readings that were acknowledged and then given up, counted. Times in ms."""

    device: str
    cls: str
    reason: str
    first: int
    last: int
    count: int


class Tick(msgspec.Struct, tag="k", array_like=True, frozen=True):
    """A second has passed, as the platform saw it; timers of rules run on these, so that a replay gives the same."""

    time: int


Body = Readings | DeadLetter | Tombstone | Tick

encode = msgspec.msgpack.Encoder().encode
_body_decoder: msgspec.msgpack.Decoder[Body] = msgspec.msgpack.Decoder(Body)


def decode_body(data: bytes) -> Body:
    """The record in `data`. Raises ValueError (msgspec's errors are ValueErrors) for anything else."""
    return _body_decoder.decode(data)


class Batch(msgspec.Struct, frozen=True):
    """One uplink request: records of one lane of one spool, in order of their offsets."""

    spool: str
    items: list[tuple[int, bytes]]


class Answer(msgspec.Struct, frozen=True):
    """What became of each item of a batch. Every offset of the batch is in exactly one of the three."""

    accepted: list[tuple[int, int]]
    """Closed intervals of offsets that are durable on the platform, now or since before."""
    rejected: list[tuple[int, str]] = []
    """Offsets that will never be accepted, with the reason."""
    keep: list[int] = []
    """Offsets to send again later."""


class RosterDevice(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway needs to know of one device that is assigned to it."""

    id: str
    profile: str
    endpoint: str | None = None
    serial: str | None = None
    settings: dict[str, float | str] = {}
    """Numbers in the units of the profile, and the options that were chosen."""
    salt: bytes = b""
    digest: bytes = b""
    """SHA-256 of salt and password. The password is 160 random bits that we made, so a slow hash would add nothing."""


class Roster(msgspec.Struct, frozen=True):
    """All devices of a gateway; revoked ones are simply absent. `version` grows with every change."""

    version: int
    devices: list[RosterDevice]


class Heartbeat(msgspec.Struct, frozen=True):
    """A gateway's sign of life, once a second, with its counters since its start."""

    gateway: str
    time: int
    counters: dict[str, float]
