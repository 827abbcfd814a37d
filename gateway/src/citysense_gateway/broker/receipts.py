"""Receipts on their way to devices: the newest of each device, joined, once a second, and again while a gap is open.

A receipt says all that the ones before it said, so under load one stands for many. It goes the way that the frame came: to
the device itself, or to the concentrator that spoke for it (`via`; empty for the device itself). Owns what waits, by
both; does no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable

from citysense_gateway.frame import Receipt, Verdict
from citysense_gateway.gaps import FIRST_S, Gaps
from citysense_gateway.mqtt.packets import Version, encode_publish
from citysense_gateway.mqtt.topics import ack_topic

EVERY_S = 1.0
"""At most; a device that was quiet gets its receipt within a tenth of that. Devices keep their messages a second longer, and the
broker carries no second message for each one."""


class Receipts:
    """`note` verdicts, `repeat` while gaps are open, `take` the packets."""

    def __init__(self, version: Version, *, first: float = FIRST_S) -> None:
        self._version = version
        self._first = first
        self._waiting: dict[tuple[str, str], Receipt] = {}
        self._gaps: dict[str, Gaps] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, device: str, via: str, verdict: Verdict, now: float) -> None:
        """Take the verdict on a frame of `device` at monotonic `now`. Without a receipt it says nothing."""
        if verdict.receipt is None:
            return
        self._waiting[via, device] = verdict.receipt
        gaps = self._gaps.get(via)
        if gaps is None:
            gaps = self._gaps[via] = Gaps(first=self._first)
        gaps.note(device, verdict, now)

    def repeat(self, now: float) -> int:
        """Have receipts that stand still over newer messages sent again, ever more rarely; how many."""
        again = 0
        for via, gaps in self._gaps.items():
            if len(gaps):
                told = gaps.due(now)
                again += len(told)
                self._waiting.update(((via, device), receipt) for device, receipt in told)
        return again

    def take(self) -> bytes:
        """All that waits, as PUBLISH packets with QoS 0, never retained."""
        waiting, self._waiting = self._waiting, {}
        return b"".join(
            encode_publish(self._version, ack_topic(device, via), b'{"boot":%d,"seq":%d}' % (receipt.boot, receipt.seq))
            for (via, device), receipt in waiting.items()
        )

    def forget(self, devices: Iterable[str]) -> None:
        """They are no longer served: not themselves, nor those for whom they spoke."""
        gone = frozenset(devices)
        for device in gone:
            self._gaps.pop(device, None)
            for gaps in self._gaps.values():
                gaps.forget(device)
        self._waiting = {key: receipt for key, receipt in self._waiting.items() if gone.isdisjoint(key)}
