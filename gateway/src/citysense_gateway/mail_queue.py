"""Which messages for devices still stand, and in which order they go.

Pure: what the mailbox decides, without its file. A message that goes always goes with a state and a reason, so that
whoever ordered it learns why.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from citysense import wire

EXPIRED = "expired"
SUPERSEDED = "superseded"
REFUSED = "refused"
UNKNOWN = "unknown"
DELIVERED = "delivered"
SENT = "sent"


@dataclass(slots=True, kw_only=True)
class Slot:
    """One message that waits. `handed` is when it was first handed over (ms), 0 before; `handing` while that is being
    made durable."""

    downlink: wire.Downlink
    handed: int = 0
    handing: bool = False

    @property
    def spent(self) -> bool:
        """True where it must not be handed over again."""
        return self.downlink.once and (self.handing or self.handed > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A message that goes, with the state that its outcome has."""

    slot: Slot
    state: str
    detail: str


def end(slot: Slot, state: str, detail: str) -> Ended:
    """`slot` ends in `state`; unless it was handed over once and may have been obeyed, which nobody can know then."""
    if slot.downlink.once and slot.handed and state != DELIVERED:
        return Ended(
            slot=slot, state=UNKNOWN, detail=f"handed over once and never confirmed; then {detail or 'refused'}"
        )
    return Ended(slot=slot, state=state, detail=detail)


def in_order(slots: Iterable[Slot]) -> list[Slot]:
    """The most urgent first, then the oldest."""
    return sorted(slots, key=lambda slot: (-slot.downlink.priority, slot.downlink.number))


def to_end(slots: Sequence[Slot], *, now: int, most: int) -> list[Ended]:
    """Which of one device's messages go: out of date, replaced by a newer one, or more than `most`.

    Of too many the least urgent go, the oldest of them first: a device that was away for long needs the newest word.
    """
    ended = [end(slot, EXPIRED, "its time ran out") for slot in slots if slot.downlink.expires <= now]
    left = [slot for slot in slots if slot.downlink.expires > now]
    newest: dict[str, int] = {}
    for slot in left:
        if slot.downlink.supersedes:
            key = slot.downlink.supersedes
            newest[key] = max(newest.get(key, 0), slot.downlink.number)
    standing = []
    for slot in left:
        latest = newest.get(slot.downlink.supersedes, 0)
        if slot.downlink.number < latest:
            ended.append(end(slot, SUPERSEDED, "a newer message takes its place"))
        else:
            standing.append(slot)
    return [*ended, *over(standing, most, f"more than {most} messages wait for the device")]


def over(slots: Iterable[Slot], most: int, detail: str) -> list[Ended]:
    """The least urgent of `slots` beyond `most`, the oldest first."""
    ranked = sorted(slots, key=lambda slot: (slot.downlink.priority, slot.downlink.number))
    return [end(slot, REFUSED, detail) for slot in ranked[: max(0, len(ranked) - most)]]
