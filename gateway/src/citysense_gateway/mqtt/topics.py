"""Who may publish to which topic and subscribe to which filter.

Owns the native topics `cs/v1/{device}/...`; vendor topics come from the profiles through `TopicRights`. A device has
rights only on topics in which it stands itself. Does no I/O and keeps no state.
"""

from __future__ import annotations

import re
from typing import Protocol

DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MESSAGE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ROOT = "cs/v1/"


class TopicRights(Protocol):
    """Vendor topics of a device's profile; `{device}` is one whole segment of a template."""

    def __call__(self, device: str, topic: str) -> str | None:
        """Name of the message that the device sends on this topic; None when the topic is not its own."""
        ...


def ack_topic(device: str) -> str:
    """Where the device hears which of its sequence numbers are durable."""
    return f"{_ROOT}{device}/ack"


def own_message(device: str, topic: str, vendor_rights: TopicRights) -> str | None:
    """Message named by a topic on which the device may publish, or None."""
    prefix = f"{_ROOT}{device}/up/"
    if topic.startswith(prefix):
        message = topic[len(prefix) :]
        return message if _MESSAGE.fullmatch(message) else None
    if topic.startswith(_ROOT):
        # No vendor template reaches into the native tree, where each segment has a fixed meaning.
        return None
    return vendor_rights(device, topic)


def granted_qos(device: str, topic_filter: str, wanted: int) -> int | None:
    """QoS granted to a subscription, or None when the filter could match anything but the device's own downlink."""
    if topic_filter == ack_topic(device):
        return 0
    prefix = f"{_ROOT}{device}/down/"
    if not topic_filter.startswith(prefix):
        return None
    rest = topic_filter[len(prefix) :]
    if rest in ("+", "#") or _MESSAGE.fullmatch(rest):
        return min(wanted, 1)
    return None
