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
    message: str = ""
    """What the channel said of the frame besides its bytes, so that it can be read again once its profile is mended."""
    content: int = -1
    identity: str = ""
    via: str = ""


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
    """One uplink request: records of one lane of one spool, in order of their offsets.

    A lane is sent on two chains of requests when it is long: oldest first, and newest first. `settled`: nothing of the
    lane up to this offset will be sent again. `after`: nothing between this offset and the first item will be, either;
    the lanes of a spool share their offsets, so only the gateway knows which gaps are other lanes'. Both are -1 in
    batches of gateways that send a lane strictly in order: then all before the first item is settled.
    """

    spool: str
    items: list[tuple[int, bytes]]
    settled: int = -1
    after: int = -1


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
    fingerprint: bytes = b""
    """SHA-256 of the device's certificate in DER."""
    psk: bytes = b""
    """Key of DTLS with pre-shared keys; the identity is the device's id."""
    oscore: Oscore | None = None
    concentrator: str = ""
    """The device that may speak for this one; empty where it speaks for itself only."""


class Oscore(msgspec.Struct, frozen=True, kw_only=True):
    """Input of an OSCORE context (RFC 8613 section 3.2), as the gateway sees it: `sender` is the gateway's own id."""

    secret: bytes
    salt: bytes
    sender: bytes
    recipient: bytes
    context: bytes


class Roster(msgspec.Struct, frozen=True):
    """All devices of a gateway; revoked ones are simply absent. `version` grows with every change.

    `authority` is the certificate (PEM) that signs devices' certificates; empty where there is none.
    """

    version: int
    devices: list[RosterDevice]
    authority: str = ""


class Downlink(msgspec.Struct, tag="down", frozen=True, kw_only=True):
    """A message for a device. `number` grows over all orders of a gateway; `id` names it to people, and never changes.

    `values` are by metric in vocabulary units, as the device's profile encodes them. A higher `priority` goes first. An
    undelivered older message of the same device with the same `supersedes` (not empty) is dropped for this one. `once`:
    handed to the device at most once, and its outcome may then be unknown; else repeated until the device confirms it or
    `expires` (ms) has passed.
    """

    number: int
    id: str
    device: str
    message: str
    values: dict[str, Value]
    expires: int
    priority: int = 0
    supersedes: str = ""
    once: bool = False


class Reprocess(msgspec.Struct, tag="again", frozen=True, kw_only=True):
    """A dead letter to be read again, after its profile was mended."""

    number: int
    id: str
    letter: DeadLetter


Order = Downlink | Reprocess


class Orders(msgspec.Struct, frozen=True):
    """What a gateway is asked to do, in order of `number`; one that comes again is known by it."""

    orders: list[Order]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an order, at `time` (ms).

    `state`: waiting, sent, delivered, expired, superseded, unknown (handed over once, never confirmed) or refused for a
    downlink; stored, duplicate, rejected for a letter read again. `detail` is for a person.
    """

    id: str
    state: str
    time: int
    detail: str = ""


class Outcomes(msgspec.Struct, frozen=True):
    """Outcomes, oldest first. 2xx means that they are on record."""

    outcomes: list[Outcome]


class Heartbeat(msgspec.Struct, frozen=True):
    """A gateway's sign of life, once a second, with its counters since its start."""

    gateway: str
    time: int
    counters: dict[str, float]
