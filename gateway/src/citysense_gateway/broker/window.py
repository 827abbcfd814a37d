"""Messages of one connection that the broker has sent and we have not acknowledged.

Pure. Acknowledgements go out in the order in which the messages came (MQTT 5.0 and 3.1.1, section 4.6), joined into one
write; a message that cannot be stored for now steps aside, so that it holds up no other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Held:
    """One message without an acknowledgement."""

    packet_id: int
    size: int
    done: bool = False
    aside: bool = False


class Window:
    """Bounded by messages and by payload bytes; `full` says when to stop reading."""

    def __init__(self, *, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._order: deque[Held] = deque()
        self._count = 0
        self._bytes = 0
        self._due = bytearray()

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """True while no more may be taken."""
        return self._count >= self._most or self._bytes >= self._most_bytes

    @property
    def roomy(self) -> bool:
        """True once half of it is free again: reading is not switched on and off with every message."""
        return self._count <= self._most // 2 and self._bytes <= self._most_bytes // 2

    def hold(self, packet_id: int, size: int) -> Held:
        """A message came."""
        held = Held(packet_id, size)
        self._order.append(held)
        self._count += 1
        self._bytes += size
        return held

    def step_aside(self, held: Held) -> None:
        """Let those behind it be acknowledged first. It stays in the bounds."""
        if not held.aside:
            held.aside = True
            self._release()

    def settle(self, held: Held) -> None:
        """The message's fate is durable; its acknowledgement is due when all before it are."""
        held.done = True
        self._count -= 1
        self._bytes -= held.size
        if held.aside:
            self._due += puback(held.packet_id)
        else:
            self._release()

    def take_due(self) -> bytes:
        """The PUBACKs to send now; each is given once."""
        due = bytes(self._due)
        self._due.clear()
        return due

    def _release(self) -> None:
        order = self._order
        while order and (order[0].done or order[0].aside):
            held = order.popleft()
            if not held.aside:
                self._due += puback(held.packet_id)


def puback(packet_id: int) -> bytes:
    """PUBACK with success, the same in both versions of the protocol (MQTT 5.0 section 3.4.2.1)."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")
