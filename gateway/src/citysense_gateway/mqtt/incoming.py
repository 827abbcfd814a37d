"""Publishes of one connection between their packet and their answer: order, bounds and QoS 2.

Owns which frames are under way and in which order they are answered (MQTT-4.6.0-2, -3), and that a QoS 2 message makes
one frame however often it is sent (method of MQTT 5.0 section 4.3.3: it is taken with PUBLISH, its packet id is free
again with PUBREL). Knows no topic and no verdict's meaning.
"""

from __future__ import annotations

from citysense_gateway.frame import Verdict
from citysense_gateway.mqtt.actions import Delivery
from citysense_gateway.mqtt.session import Session


class Incoming:
    """Deliveries under way. `session` is set when there is one."""

    __slots__ = ("_bytes", "_under_way", "session")

    def __init__(self) -> None:
        # A list, not a deque: an empty deque takes 620 bytes, and 20,000 idle connections have one each.
        self._under_way: list[Delivery] = []
        self._bytes = 0
        self.session: Session | None = None

    @property
    def idle(self) -> bool:
        """True when everything has its verdict."""
        return not self._under_way

    def is_full(self, most: int, most_bytes: int) -> bool:
        """True while the peer has to wait."""
        return len(self._under_way) >= most or self._bytes >= most_bytes

    def add(self, delivery: Delivery) -> None:
        """`delivery` goes to the pipeline now."""
        self._under_way.append(delivery)
        self._bytes += delivery.size
        if delivery.qos == 2 and self.session is not None and delivery.packet_id is not None:
            self.session.unreleased[delivery.packet_id] = delivery

    def repeat(self, packet_id: int) -> Delivery | None:
        """The place in the order for a QoS 2 message that was begun before; None if it is a new one.

        Whether the sender set DUP does not matter (MQTT-4.3.3-10): the id is its own until PUBREL. A place that has its
        verdict already is to be settled with it at once.
        """
        assert self.session is not None
        unreleased = self.session.unreleased
        if packet_id not in unreleased:
            return None
        place = Delivery(None, packet_id, 2)
        first = unreleased[packet_id]
        if first is not None:
            while first.follower is not None:
                first = first.follower
            first.follower = place
        self._under_way.append(place)
        return place

    def settle(self, delivery: Delivery, verdict: Verdict) -> list[Delivery]:
        """Note the verdict; what can be answered now, in the order of the publishes."""
        delivery.verdict = verdict
        under_way = self._under_way
        if not under_way or under_way[0].verdict is None:
            return []
        if len(under_way) == 1:
            under_way.clear()
            self._bytes = 0
            return [delivery]
        count = 1
        while count < len(under_way) and under_way[count].verdict is not None:
            count += 1
        due = under_way[:count]
        del under_way[:count]
        for done in due:
            self._bytes -= done.size
        return due

    def unreleased_full(self, most: int) -> bool:
        """True if no further QoS 2 message may be begun."""
        return self.session is not None and len(self.session.unreleased) >= most

    def judged(self, delivery: Delivery, *, taken: bool) -> None:
        """A QoS 2 message has its verdict: taken, so that what comes under its id before PUBREL is a repeat, or not."""
        if self.session is None or delivery.packet_id is None:
            return
        unreleased = self.session.unreleased
        if unreleased.get(delivery.packet_id) is not delivery:
            # Released before its verdict, by a sender that did not wait for PUBREC.
            return
        if taken:
            unreleased[delivery.packet_id] = None
        else:
            del unreleased[delivery.packet_id]

    def release(self, packet_id: int) -> bool:
        """The id is free again; false if it was."""
        if self.session is None or packet_id not in self.session.unreleased:
            return False
        del self.session.unreleased[packet_id]
        return True
