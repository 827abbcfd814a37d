"""Devices whose receipt stands still although newer messages came: when to tell them the receipt again.

Pure; the clock is the caller's. A gap shows without looking into the payload: a message is new, and the receipt is the one
of before, so it was not the next number. A receipt that was sent with QoS 0 may be lost, and so may the message that is
missing; the same receipt again tells a native device from where to send (docs/native.md, "What the device keeps").
"""

from __future__ import annotations

from dataclasses import dataclass

from citysense_gateway.frame import Kind, Receipt, Verdict

FIRST_S = 5.0
"""Messages that merely overtook each other have been put right by then."""
LONGEST_S = 300.0
MOST_REPEATS = 20
"""After more than an hour of telling, the device has heard it or is gone; the next message that does not fit begins anew."""


@dataclass(slots=True, kw_only=True)
class _Gap:
    since: float
    next_at: float
    repeats: int = 0


class Gaps:
    """Feed every verdict with a receipt to `note`; ask `due` about once a second and send what it gives."""

    def __init__(self, *, first: float = FIRST_S, longest: float = LONGEST_S) -> None:
        self._first, self._longest = first, longest
        self._last: dict[str, Receipt] = {}  # only registered devices get receipts, which bounds it
        self._open: dict[str, _Gap] = {}

    def __len__(self) -> int:
        """Devices with an open gap."""
        return len(self._open)

    def note(self, device: str, verdict: Verdict, now: float) -> None:
        """Take the verdict on a message of `device` at monotonic `now`. Without a receipt it says nothing."""
        receipt = verdict.receipt
        if receipt is None:
            return
        last = self._last.get(device)
        if last is None or last.seq != receipt.seq or last.boot != receipt.boot:
            self._last[device] = receipt
            if self._open:
                self._open.pop(device, None)
        elif verdict.kind is Kind.STORED and device not in self._open:
            self._open[device] = _Gap(since=now, next_at=now + self._first)

    def since(self, device: str) -> float | None:
        """Since when the device's gap is open (monotonic); None where none is known."""
        gap = self._open.get(device)
        return None if gap is None else gap.since

    def due(self, now: float) -> list[tuple[str, Receipt]]:
        """The receipts to send again now, by device; each after twice the time of before."""
        told: list[tuple[str, Receipt]] = []
        for device, gap in list(self._open.items()):
            if now < gap.next_at:
                continue
            told.append((device, self._last[device]))
            gap.repeats += 1
            gap.next_at = now + min(self._first * 2.0**gap.repeats, self._longest)
            if gap.repeats >= MOST_REPEATS:
                del self._open[device]
        return told

    def forget(self, device: str) -> None:
        """The device is no longer served."""
        self._last.pop(device, None)
        self._open.pop(device, None)
