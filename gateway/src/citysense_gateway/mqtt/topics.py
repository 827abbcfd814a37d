"""Who may publish to which topic and subscribe to which filter.

Owns the native topics `cs/v1/{device}/...`; vendor topics come from the profiles through `TopicRights`. A device has
rights only on topics in which it stands itself, and on those of the devices for which it speaks. Does no I/O and keeps
no state.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MESSAGE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ROOT = "cs/v1/"


class TopicRights(Protocol):
    """Vendor topics of a device's profile; `{device}` is one whole segment of a template."""

    def __call__(self, device: str, topic: str) -> str | None:
        """Name of the message that the device sends on this topic; None when the topic is not its own."""
        ...


class SpeaksFor(Protocol):
    """Which concentrator may speak for which device."""

    def __call__(self, concentrator: str, child: str) -> bool:
        """True if that concentrator may send frames of that device and take its mail."""
        ...


class Origin(NamedTuple):
    """What a topic says of a message: `message` of `device`, sent by the concentrator `via` where it is not empty."""

    device: str
    message: str
    via: str = ""


def ack_topic(device: str, via: str = "") -> str:
    """Where the device hears which of its sequence numbers are durable; of a child, through its concentrator."""
    return f"{_branch(device, via)}/ack"


def down_topic(device: str, message: str, via: str = "") -> str:
    """Where the device gets a message; a child through its concentrator."""
    return f"{_branch(device, via)}/down/{message}"


def _branch(device: str, via: str) -> str:
    return f"{_ROOT}{via}/child/{device}" if via else f"{_ROOT}{device}"


def origin_of(device: str, topic: str, vendor_rights: TopicRights, speaks_for: SpeaksFor) -> Origin | None:
    """Whose message it is that `device` publishes on `topic`; None where it may not."""
    prefix = f"{_ROOT}{device}/"
    if not topic.startswith(prefix):
        # No vendor template reaches into the native tree, where each segment has a fixed meaning.
        message = None if topic.startswith(_ROOT) else vendor_rights(device, topic)
        return None if message is None else Origin(device, message)
    match topic[len(prefix) :].split("/"):
        case ["up", message] if _MESSAGE.fullmatch(message):
            return Origin(device, message)
        case ["child", child, "up", message] if _MESSAGE.fullmatch(message) and _is_child(device, child, speaks_for):
            return Origin(child, message, device)
    return None


def granted_qos(device: str, topic_filter: str, wanted: int, speaks_for: SpeaksFor) -> int | None:
    """QoS granted to a subscription, or None when the filter could match anything but the device's own downlink."""
    prefix = f"{_ROOT}{device}/"
    if not topic_filter.startswith(prefix):
        return None
    match topic_filter[len(prefix) :].split("/"):
        case ["ack"]:
            return 0
        case ["down", message] if _is_message_filter(message):
            return min(wanted, 1)
        case ["child", child, "ack"] if child == "+" or _is_child(device, child, speaks_for):
            return 0
        case ["child", child, "down", message] if _is_message_filter(message) and (
            child == "+" or _is_child(device, child, speaks_for)
        ):
            return min(wanted, 1)
    return None


def is_valid(topic_filter: str) -> bool:
    """True where wildcards stand for whole levels and `#` for the last ones (MQTT-4.7.1-1, MQTT-4.7.1-2)."""
    *levels, last = topic_filter.split("/")
    return all("#" not in level and ("+" not in level or level == "+") for level in levels) and (
        last in ("#", "+") or ("#" not in last and "+" not in last)
    )


def matches(topic_filter: str, topic: str) -> bool:
    """True if the filter stands for the topic. Both valid; neither begins with `$`."""
    if topic_filter == topic:
        return True
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(one in ("+", level) for one, level in zip(wanted, levels, strict=True))


def _is_message_filter(text: str) -> bool:
    return text in ("+", "#") or _MESSAGE.fullmatch(text) is not None


def _is_child(device: str, child: str, speaks_for: SpeaksFor) -> bool:
    return DEVICE_ID.fullmatch(child) is not None and speaks_for(device, child)
