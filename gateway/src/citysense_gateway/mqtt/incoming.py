"""Publishes of one connection between their packet and their answer: order, bounds and QoS 2.

Owns which frames are under way and in which order they are answered (MQTT-4.6.0-2, -3), and that a QoS 2 message makes
one frame however often it is sent (method of MQTT 5.0 section 4.3.3: it is taken with PUBLISH, its packet id is free
again with PUBREL). Knows no topic and no verdict's meaning.

A packet id alone does not make a repeat. A client that restarts without a memory of its own and resumes its session
counts its packet ids from 1 again; its first readings come under ids that it never released, and would be acknowledged
and thrown away. So what the message says decides too.
"""

from __future__ import annotations

import hashlib

from citysense_gateway.frame import Verdict
from citysense_gateway.mqtt.actions import Delivery
from citysense_gateway.mqtt.budget import Budget
from citysense_gateway.mqtt.session import Session

_DIGEST_BYTES = 16


def digest_of(topic: str, payload: bytes) -> bytes:
    """What stands for a QoS 2 message from its verdict to its PUBREL."""
    digest = hashlib.blake2b(payload, digest_size=_DIGEST_BYTES)
    # Neither can flow into the other: a topic holds no NUL (MQTT-1.5.4-2), and the last one separates them.
    digest.update(b"\0" + topic.encode())
    return digest.digest()


class Incoming:
    """Deliveries under way. `session` is set when there is one; `budget` is all connections' together."""

    __slots__ = ("_budget", "_bytes", "_under_way", "session")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
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
        size = delivery.size
        self._under_way.append(delivery)
        self._bytes += size
        self._budget.take(size)
        if delivery.qos == 2 and self.session is not None and delivery.packet_id is not None:
            self.session.unreleased[delivery.packet_id] = delivery

    def repeat(self, packet_id: int, digest: bytes) -> Delivery | None:
        """The place in the order for a QoS 2 message that was begun before; None if it is a new one, which takes the id
        over.

        Whether the sender set DUP does not matter (MQTT-4.3.3-10): the message is the same until PUBREL. A place whose
        message has its verdict already is to be settled at once; see `taken`.
        """
        first = self._begun(packet_id)
        if first is None or digest != (first if isinstance(first, bytes) else first.digest):
            return None
        place = Delivery(None, packet_id, 2)
        if isinstance(first, Delivery):
            while first.follower is not None:
                first = first.follower
            first.follower = place
        self._under_way.append(place)
        self._budget.take(0)
        return place

    def taken(self, packet_id: int) -> bool:
        """True if the message under that id has its verdict, and was taken."""
        return isinstance(self._begun(packet_id), bytes)

    def _begun(self, packet_id: int) -> Delivery | bytes | None:
        return None if self.session is None else self.session.unreleased.get(packet_id)

    def settle(self, delivery: Delivery, verdict: Verdict) -> list[Delivery]:
        """Note the verdict; what can be answered now, in the order of the publishes."""
        delivery.verdict = verdict
        under_way = self._under_way
        if not under_way or under_way[0].verdict is None:
            return []
        if len(under_way) == 1:
            under_way.clear()
            self._bytes = 0
            self._budget.give_back(delivery.size)
            return [delivery]
        count = 1
        while count < len(under_way) and under_way[count].verdict is not None:
            count += 1
        due = under_way[:count]
        del under_way[:count]
        for done in due:
            size = done.size
            self._bytes -= size
            self._budget.give_back(size)
        return due

    def abandon(self) -> None:
        """Wait for no verdict any more; those that come all the same answer nobody."""
        for waiting in self._under_way:
            self._budget.give_back(waiting.size)
        self._under_way, self._bytes, self.session = [], 0, None

    def may_begin(self, packet_id: int, most: int) -> bool:
        """False if no further QoS 2 message may be begun; one that takes over an id is no further one."""
        unreleased = {} if self.session is None else self.session.unreleased
        return len(unreleased) < most or packet_id in unreleased

    def judged(self, delivery: Delivery, *, taken: bool) -> None:
        """A QoS 2 message has its verdict: taken, so that what comes under its id before PUBREL is a repeat, or not."""
        if self.session is None or delivery.packet_id is None:
            return
        unreleased = self.session.unreleased
        if unreleased.get(delivery.packet_id) is not delivery:
            # Released before its verdict, by a sender that did not wait for PUBREC.
            return
        if taken:
            unreleased[delivery.packet_id] = delivery.digest
        else:
            del unreleased[delivery.packet_id]

    def release(self, packet_id: int) -> bool:
        """The id is free again; false if it was."""
        if self.session is None or packet_id not in self.session.unreleased:
            return False
        del self.session.unreleased[packet_id]
        return True
