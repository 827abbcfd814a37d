"""What SUBSCRIBE and UNSUBSCRIBE are answered, filter by filter.

Owns the reason codes of SUBACK and UNSUBACK; the rights themselves are `topics`' business.
"""

from __future__ import annotations

from citysense_gateway.mqtt.actions import QUOTA_EXCEEDED
from citysense_gateway.mqtt.limits import MqttCounters
from citysense_gateway.mqtt.packets import Subscribe, Unsubscribe, Version, encode_suback, encode_unsuback
from citysense_gateway.mqtt.session import Session
from citysense_gateway.mqtt.topics import SpeaksFor, granted_qos, is_valid

_FAILURE = 0x80
_NOT_AUTHORIZED = 0x87
_INVALID_FILTER = 0x8F
_NO_SHARED = 0x9E
_NO_SUBSCRIPTION = 0x11


def subscribe(
    session: Session, packet: Subscribe, version: Version, speaks_for: SpeaksFor, most: int, counters: MqttCounters
) -> bytes:
    """Take the subscriptions that the device may have, `most` in all; the SUBACK."""
    codes = bytearray()
    for topic_filter, wanted in packet.filters:
        granted = granted_qos(session.device, topic_filter, wanted, speaks_for)
        if granted is None:
            counters.denied_subscriptions += 1
            codes.append(_denial(topic_filter) if version is Version.V5 else _FAILURE)
        elif topic_filter not in session.subscriptions and len(session.subscriptions) >= most:
            codes.append(QUOTA_EXCEEDED if version is Version.V5 else _FAILURE)
        else:
            session.subscribe(topic_filter, granted)
            codes.append(granted)
    return encode_suback(version, packet.packet_id, bytes(codes))


def unsubscribe(session: Session, packet: Unsubscribe, version: Version) -> bytes:
    """Drop subscriptions; the UNSUBACK."""
    codes = bytes(0 if session.unsubscribe(wanted) else _NO_SUBSCRIPTION for wanted in packet.filters)
    return encode_unsuback(version, packet.packet_id, codes)


def _denial(topic_filter: str) -> int:
    if topic_filter.startswith("$share/"):
        return _NO_SHARED
    return _NOT_AUTHORIZED if is_valid(topic_filter) else _INVALID_FILTER
