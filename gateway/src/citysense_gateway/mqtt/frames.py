"""The frames that this door makes: of a PUBLISH, of a will, and of what it has to refuse.

Owns what stands in which field of `Frame`. Pure.
"""

from __future__ import annotations

from citysense_gateway.frame import Frame, Identity, Transport
from citysense_gateway.mqtt.topics import Origin

# An MQTT name may have 65,535 bytes; what a dead letter shows of a foreign one is enough to see the mistake.
_SHOWN_TOPIC = 256


def frame_of(
    origin: Origin, topic: str, payload: bytes, *, source: str, now_ms: int, delivery: bytes | None = None
) -> Frame:
    """A message on a topic of the device's own, or of a device for which it speaks."""
    return Frame(
        transport=Transport.MQTT,
        channel=topic,
        device=origin.device,
        identity=Identity.CONCENTRATOR if origin.via else Identity.CREDENTIAL,
        source=source,
        received_at=now_ms,
        payload=payload,
        message=origin.message,
        delivery=delivery,
        via=origin.via or None,
    )


def refused_frame(device: str, topic: str, payload: bytes, *, source: str, now_ms: int) -> Frame:
    """A message of a device that cannot be used: the topic is not its own, or what came was no packet."""
    return Frame(
        transport=Transport.MQTT,
        channel=topic[:_SHOWN_TOPIC],
        device=device,
        identity=Identity.CREDENTIAL,
        source=source,
        received_at=now_ms,
        payload=payload,
    )


def stranger_frame(device: str | None, *, source: str, now_ms: int) -> Frame:
    """The trace of a bad credential. It has no payload, so no password can get into a dead letter."""
    return Frame(
        transport=Transport.MQTT,
        channel="CONNECT",
        device=device,
        identity=Identity.ASSERTED,
        source=source,
        received_at=now_ms,
    )
