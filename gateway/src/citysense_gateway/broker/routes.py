"""What a topic of the broker says: which device, which message, or something of our own.

Owns the filters to subscribe to and the reading of topics; whether the broker lets a device use its topic only is
`proof`'s question. Does no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import msgspec

from citysense.errors import SetupError
from citysense_gateway.mqtt.topics import DEVICE_ID, TopicRights

PROBE_MESSAGE = "acl-probe"
"""Message name of the probes; profiles cannot use it because no frame of it is ever taken."""
NATIVE = "cs/v1/{device}/up/+"
CHILD = "cs/v1/{device}/child/+/up/+"
MOST_ROUTES = 50_000
"""Topics remembered; 200 bytes each. A sender that makes up topics only costs their reading anew."""
_SHOWN_TOPIC = 256
_SHARE = "$share/"


class RouteKind(Enum):
    """What to do with a message."""

    FRAME = "frame"
    FOREIGN = "foreign"
    """No device of ours may publish there; kept as a dead letter."""
    PROBE = "probe"
    ECHO = "echo"


class Route(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A topic that was read. `message` is empty where a vendor's topic names none."""

    kind: RouteKind
    channel: str
    device: str | None = None
    message: str = ""
    via: str | None = None


def topic_filters(templates: Iterable[str]) -> list[str]:
    """The filters of all uplinks: native ones, children's, and each vendor template. Raises SetupError."""
    found = [NATIVE.replace("{device}", "+"), CHILD.replace("{device}", "+")]
    for template in sorted(set(templates)):
        if template.startswith(_SHARE):
            raise SetupError(
                f"the topic {template!r} is a shared subscription: when a member dies, its messages are lost or parked, so"
                " it is not used. Take it out of the profile; gateways divide devices by what is assigned to them"
            )
        found.append(template.replace("{device}", "+"))
    return found


class Router:
    """Reads topics, and remembers what it read until the devices change."""

    def __init__(self, *, rights: TopicRights, echo_topic: str, probes: Iterable[str]) -> None:
        self._rights = rights
        self._echo_topic = echo_topic
        self._probes = frozenset(probes)
        self._templates: tuple[tuple[str, ...], ...] = ()
        self._known: dict[bytes, Route] = {}

    def use(self, templates: Iterable[str]) -> None:
        """The vendor templates from now on; also call it when rights may have changed."""
        self._templates = tuple(tuple(template.split("/")) for template in templates)
        self._known.clear()

    def route(self, topic: bytes) -> Route:
        """What `topic` says."""
        found = self._known.get(topic)
        if found is None:
            try:
                found = self._read(topic.decode())
            except UnicodeDecodeError:
                # No broker may pass such a topic on (MQTT 5.0 section 1.5.4).
                found = Route(kind=RouteKind.FOREIGN, channel="(no UTF-8)")
            if len(self._known) >= MOST_ROUTES:
                self._known.clear()
            self._known[topic] = found
        return found

    def _read(self, topic: str) -> Route:
        if topic == self._echo_topic:
            return Route(kind=RouteKind.ECHO, channel=topic)
        parts = topic.split("/")
        if parts[:2] == ["cs", "v1"]:
            return self._native(topic, parts)
        for template in self._templates:
            device = _device_in(template, parts)
            if device is None:
                continue
            if device in self._probes:
                return Route(kind=RouteKind.PROBE, channel=topic)
            message = self._rights(device, topic)
            if message is not None:
                return Route(kind=RouteKind.FRAME, channel=topic, device=device, message=message)
        return Route(kind=RouteKind.FOREIGN, channel=topic[:_SHOWN_TOPIC])

    def _native(self, topic: str, parts: list[str]) -> Route:
        if len(parts) == 5 and parts[3] == "up":
            sender, device, message, via = parts[2], parts[2], parts[4], None
        elif len(parts) == 7 and parts[3] == "child" and parts[5] == "up":
            sender, device, message, via = parts[2], parts[4], parts[6], parts[2]
        else:
            return Route(kind=RouteKind.FOREIGN, channel=topic[:_SHOWN_TOPIC])
        if sender in self._probes and message == PROBE_MESSAGE:
            return Route(kind=RouteKind.PROBE, channel=topic)
        if not DEVICE_ID.fullmatch(sender) or not DEVICE_ID.fullmatch(device) or not message:
            return Route(kind=RouteKind.FOREIGN, channel=topic[:_SHOWN_TOPIC])
        return Route(kind=RouteKind.FRAME, channel=topic, device=device, message=message, via=via)


def _device_in(template: tuple[str, ...], parts: list[str]) -> str | None:
    """The device segment of a topic that fits the template."""
    if len(template) != len(parts):
        return None
    device: str | None = None
    for expected, found in zip(template, parts, strict=True):
        if expected == "{device}":
            device = found
        elif expected != found:
            return None
    return device if device is not None and DEVICE_ID.fullmatch(device) else None
