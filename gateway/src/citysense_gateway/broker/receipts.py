"""Receipts on their way to devices: the newest of each device, joined, once a second.

A receipt says all that the ones before it said, so under load one stands for many. Owns what waits; does no I/O.
"""

from __future__ import annotations

from citysense_gateway.frame import Receipt
from citysense_gateway.mqtt.packets import Version, encode_publish
from citysense_gateway.mqtt.topics import ack_topic

EVERY_S = 1.0
"""At most; a device that was quiet gets its receipt within a tenth of that. Devices keep their messages a second longer, and the
broker carries no second message for each one."""


class Receipts:
    """`add` them, `take` the packets."""

    def __init__(self, version: Version) -> None:
        self._version = version
        self._waiting: dict[str, Receipt] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, device: str, receipt: Receipt) -> None:
        """The device's newest receipt."""
        self._waiting[device] = receipt

    def take(self) -> bytes:
        """All that waits, as PUBLISH packets with QoS 0, never retained."""
        waiting, self._waiting = self._waiting, {}
        return b"".join(
            encode_publish(self._version, ack_topic(device), b'{"boot":%d,"seq":%d}' % (receipt.boot, receipt.seq))
            for device, receipt in waiting.items()
        )
