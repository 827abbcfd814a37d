"""What becomes of each item of a gateway's batch. Pure.

Owns the examination of items (readable? from a device of this gateway?), the memory of what a spool has submitted, and
the answer. A refused item is not remembered: the gateway keeps it as a dead letter, which comes here like any record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from citysense import wire
from citysense.durable_log import Entry
from citysense_platform.ingest.intervals import Interval, covers, union
from citysense_platform.ingest.soundness import sound_loss, sound_readings
from citysense_platform.registry.roster import Assigned
from citysense_profiles.reading import ReadingClass

Assignment = Callable[[str, str], Assigned | None]
"""What a device is, for (gateway, device); None if that gateway may not speak for it. With `until`, only for what it
received before."""
Foreign = Callable[[str, str], bool]
"""True, for (gateway, device), where the device is registered and neither is nor was last that gateway's."""

MAX_INTERVALS = 1_024
"""Intervals remembered per lane of a spool. An honest gateway needs a few: its batches say which gaps will never be
filled. Only refused items of batches ahead of the lane's order leave others, and those close when its order gets there.
Beyond the bound such a batch is to be sent again later; a gap that may still be filled is never closed."""


MAX_OFFSET = 2**63 - 1
"""What the database can count; at 10,000 records a second a spool gets there in thirty million years."""
MAX_SPOOL_NAME = 64


class BatchMalformed(ValueError):
    """The batch breaks the protocol; the text says how."""


class Reason(StrEnum):
    """Why an item is refused, for ever."""

    UNDECODABLE = "undecodable"
    NOT_ASSIGNED = "not_assigned"
    """The gateway may not speak for the device, or not any more."""
    NOT_FOR_GATEWAYS = "not_for_gateways"
    """A kind of record that only the platform makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """One item: what will be appended to the log if it is new, or why it is refused."""

    offset: int
    outcome: Entry | Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer, what to append, and which offsets are done with from now on: accepted, or never sent again."""

    answer: wire.Answer
    entries: Sequence[Entry]
    seen: Sequence[Interval]
    duplicates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a batch stands in its lane; see `wire.Batch`."""

    settled: int
    after: int


def examine(
    batch: wire.Batch, cls: ReadingClass, gateway: str, assignment: Assignment, foreign: Foreign
) -> list[Examined]:
    """Look at every item. Raises BatchMalformed when offsets do not rise."""
    if not 1 <= len(batch.spool) <= MAX_SPOOL_NAME or not batch.spool.isprintable():
        raise BatchMalformed(f"a spool's name is 1 to {MAX_SPOOL_NAME} printable characters")
    previous = 0
    for offset, _ in batch.items:
        if offset > MAX_OFFSET:
            raise BatchMalformed(f"offset {offset} is larger than {MAX_OFFSET}")
        if offset <= previous:
            raise BatchMalformed(f"offset {offset} after {previous}: the items of a batch come in rising order, from 1")
        previous = offset
    return [
        Examined(offset=offset, outcome=_examine(body, cls, gateway, assignment, foreign))
        for offset, body in batch.items
    ]


def place(batch: wire.Batch) -> Place:
    """Where `batch` stands. Raises BatchMalformed when it says that its own items will never be sent."""
    before = batch.items[0][0] - 1 if batch.items else 0
    settled = before if batch.settled < 0 else batch.settled
    after = settled if batch.after < 0 else batch.after
    if batch.items and not settled <= after <= before:
        raise BatchMalformed(
            f"settled {settled} and after {after}: they rise in this order and are below the first item's {before + 1}"
        )
    return Place(settled=settled, after=after) if batch.items else Place(settled=0, after=0)


def decide(items: Sequence[Examined], seen: Sequence[Interval], at: Place) -> Decision:
    """Sort items into new, known and refused; see `Answer`, where every offset stands exactly once.

    `seen` holds what was done with before. What was accepted once stays accepted, also from a device that has left.
    What lies between two neighbours of a batch belongs to other lanes of the spool, or is done with; a run of accepted
    items is therefore remembered, and answered, as one interval.
    """
    never_sent = [(1, at.settled)] if at.settled else []
    if items and at.after + 1 < items[0].offset:
        never_sent.append((at.after + 1, items[0].offset - 1))
    entries: list[Entry] = []
    refused: list[tuple[int, str]] = []
    accepted: list[Interval] = []
    duplicates = 0
    in_run = False
    for item in items:
        known = covers(seen, item.offset)
        if isinstance(item.outcome, Reason) and not known:
            refused.append((item.offset, str(item.outcome)))
            in_run = False
            continue
        if isinstance(item.outcome, Entry) and not known:
            entries.append(item.outcome)
        duplicates += known
        low = accepted.pop()[0] if in_run else item.offset
        accepted.append((low, item.offset))
        in_run = True
    after = union([*seen, *never_sent, *accepted])
    # In order, a batch may add one interval per item until the next one settles them: that must never be held up.
    if len(after) > (2 * MAX_INTERVALS if at.after == at.settled else MAX_INTERVALS):
        return _not_yet(items, seen)
    return Decision(
        answer=wire.Answer(accepted=accepted, rejected=refused), entries=entries, seen=after, duplicates=duplicates
    )


def _not_yet(items: Sequence[Examined], seen: Sequence[Interval]) -> Decision:
    """Nothing of the batch is taken; what was taken before is said again."""
    known = [item.offset for item in items if covers(seen, item.offset)]
    return Decision(
        answer=wire.Answer(
            accepted=[(offset, offset) for offset in known],
            keep=[item.offset for item in items if not covers(seen, item.offset)],
        ),
        entries=[],
        seen=seen,
        duplicates=len(known),
    )


def _examine(data: bytes, cls: ReadingClass, gateway: str, assignment: Assignment, foreign: Foreign) -> Entry | Reason:
    try:
        body = wire.decode_body(data)
    except ValueError:
        return Reason.UNDECODABLE
    match body:
        case wire.Readings():
            assigned = assignment(gateway, body.device)
            if not sound_readings(body):
                return Reason.UNDECODABLE
            if assigned is None or (assigned.until is not None and body.received >= assigned.until):
                return Reason.NOT_ASSIGNED
            resolved = msgspec.structs.replace(
                body, site=assigned.site, kind=assigned.kind or body.kind, gateway=gateway
            )
            time = body.samples[0].time if body.samples else body.received
            return Entry(cls=cls, body=wire.encode(resolved), device=body.device, time=time)
        case wire.DeadLetter():
            letter = _of_nobody(body) if foreign(gateway, body.device) else body
            marked = msgspec.structs.replace(letter, gateway=gateway)
            return Entry(cls=cls, body=wire.encode(marked), device=letter.device, time=body.received)
        case wire.Tombstone():
            if not sound_loss(body):
                return Reason.UNDECODABLE
            # Of a device that has left this gateway, too: a loss on record must not get lost itself. But no gateway
            # writes losses on another one's devices: such a loss stands there without a name.
            if foreign(gateway, body.device):
                body = msgspec.structs.replace(body, device="")
            return Entry(cls=cls, body=wire.encode(body), device=body.device, time=body.last)
        case wire.Tick():
            return Reason.NOT_FOR_GATEWAYS


def _of_nobody(letter: wire.DeadLetter) -> wire.DeadLetter:
    """A letter that claims another gateway's device: kept, for a device that calls the wrong gateway makes such letters,
    but not among that device's own, which it might crowd out. The claim stays readable."""
    detail = f"says it is {letter.device}, which belongs to another gateway; {letter.detail}"
    return msgspec.structs.replace(letter, device="", detail=detail)
