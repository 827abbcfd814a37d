"""What the routes of events, dead letters and tombstones answer. Owns the JSON; a sealed raw frame is never in it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from citysense import wire
from citysense.clock import rfc3339
from citysense_platform.downlinks.order import Order, State
from citysense_platform.events.dead_letters import DeadLetter
from citysense_platform.events.event_store import Event
from citysense_platform.events.rows import short_names
from citysense_platform.store.points import END_OF_TIME, Value
from citysense_profiles.reading import ReadingClass

_CLASSES = frozenset(str(cls) for cls in ReadingClass)


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class EventBody(BaseModel):
    """Something that happened at a device."""

    model_config = _example(
        time="2026-11-20T16:08:54.423Z",
        kind="tag.seen",
        values={"antenna": 1, "rssi": -52.3},
        tag="5b1f0c2a9d3e4f60718293a4b5c6d7e8",
    )

    time: str
    kind: str
    values: dict[str, Value] = Field(description="In the vocabulary's units, by name without the kind's first word.")
    tag: str | None = Field(description="HMAC of a personal id; the id itself is kept nowhere.")


class ReadAgainBody(BaseModel):
    """The newest attempt to read a dead letter again."""

    order: str
    state: State = Field(description="waiting, then stored, duplicate, rejected, or refused by its gateway.")
    detail: str
    changed: str


class DeadLetterBody(BaseModel):
    """A frame that was not usable, with the reason."""

    model_config = _example(
        id="20777.1795190934423.1",
        received="2026-11-20T16:08:54.423Z",
        transport="coap",
        source="192.0.2.17:5683",
        device="gauge-001",
        reason="undecodable",
        detail="field t at offset 3 is no number",
        size=2,
        raw="01ff",
        channel="/v1/gauge-001/report",
        profile="vendor/model",
        gateway="gateway-1",
        reprocessed={"order": "r1795190999000", "state": "stored", "detail": "", "changed": "2026-11-20T16:10:00.000Z"},
    )

    id: str
    received: str
    transport: str
    source: str
    device: str | None
    reason: str
    detail: str
    size: int = Field(description="Bytes of the frame.")
    raw: str | None = Field(description="The frame in hex; null where it is kept sealed because it is personal.")
    channel: str = Field(description="Topic, path or register block.")
    profile: str | None
    gateway: str | None
    reprocessed: ReadAgainBody | None = Field(description="Null where nobody has asked for it to be read again.")


class ReasonCountBody(BaseModel):
    """Dead letters of one reason: those kept, and those `beyond` the bounds, which were only counted."""

    model_config = _example(reason="undecodable", kept=12, beyond=0)

    reason: str
    kept: int
    beyond: int


class TombstoneBody(BaseModel):
    """Readings of a device and class that were acknowledged and had to be given up: how many, and of what time."""

    model_config = _example(
        **{"class": "bulk"},
        device="lock-1",
        reason="disk_full",
        first="2026-11-20T16:08:54.423Z",
        last="2026-11-20T16:09:12.001Z",
        count=18,
    )

    device: str | None = Field(description="Null where it is not known, as for a damaged record.")
    cls: ReadingClass | None = Field(alias="class", description="Null where it is none that is known.")
    reason: str
    first: str
    last: str
    count: int


def event_body(event: Event) -> dict[str, Any]:
    """The fields of an EventBody."""
    return {
        "time": rfc3339(event.time),
        "kind": event.kind,
        "values": short_names(event.kind, event.values),
        "tag": event.tag or None,
    }


def dead_letter_body(one: DeadLetter, again: Order | None) -> dict[str, Any]:
    """The fields of a DeadLetterBody; `again` is the newest order to read it again."""
    letter = one.letter
    return {
        "id": one.id,
        "received": _moment(letter.received),
        "transport": letter.transport,
        "source": letter.source,
        "device": letter.device or None,
        "reason": letter.reason,
        "detail": letter.detail,
        "size": letter.size,
        "raw": None if letter.seal else letter.raw.hex(),
        "channel": letter.channel,
        "profile": letter.profile or None,
        "gateway": letter.gateway or None,
        "reprocessed": again
        and {"order": again.id, "state": again.state, "detail": again.detail, "changed": _moment(again.changed)},
    }


def tombstone_body(stone: wire.Tombstone) -> dict[str, Any]:
    """The fields of a TombstoneBody."""
    return {
        "device": stone.device or None,
        "class": stone.cls if stone.cls in _CLASSES else None,
        "reason": stone.reason,
        "first": _moment(stone.first),
        "last": _moment(stone.last),
        "count": stone.count,
    }


def _moment(ms: int) -> str:
    """What another process said, as a time that can be written."""
    return rfc3339(min(max(ms, 0), END_OF_TIME - 1))
