"""Which sequence numbers of one boot have come in, and how far without a gap.

Pure. A number counts as a repeat only if it was really received: forgetting one costs a second copy, never a loss.
"""

from __future__ import annotations

import msgspec

MAX_RANGES = 256
"""Ranges kept per boot; a device that leaves more gaps than that has other troubles, and gets second copies stored."""

Range = tuple[int, int]
"""First and last number, both included."""


class Sequence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`next` is the lowest number that was neither received nor given up; `received` is ascending, without overlap."""

    next: int = 0
    received: tuple[Range, ...] = ()

    @property
    def contiguous(self) -> int | None:
        """The highest number up to which nothing is open; None before the first."""
        return self.next - 1 if self.next > 0 else None


def receive(state: Sequence, seq: int, base: int | None) -> tuple[Sequence, bool]:
    """The state after a frame with `seq`, and whether the frame is new.

    `base` is the lowest number that the device can still send: what is open below it is given up. A device that sends
    `seq` can still send it, so a greater base is taken for a mistake.
    """
    ranges = state.received
    if seq == state.next and base is None and len(ranges) <= 1 and (not ranges or ranges[0][1] == seq - 1):
        # Nearly every frame: the next one, and nothing is open.
        return Sequence(next=seq + 1, received=((ranges[0][0] if ranges else seq, seq),)), True
    received, is_new = _insert(ranges, seq)
    following = state.next if base is None else max(state.next, min(base, seq))
    for first, last in received:
        if first <= following <= last:
            following = last + 1
    return Sequence(next=following, received=_bounded(received, following)), is_new


def _insert(ranges: tuple[Range, ...], seq: int) -> tuple[tuple[Range, ...], bool]:
    """`ranges` with `seq` in it, from the end, where it nearly always belongs."""
    index = len(ranges)
    while index and ranges[index - 1][0] > seq:
        index -= 1
    before, after = ranges[:index], ranges[index:]
    if before and before[-1][1] >= seq:
        return ranges, False
    first = last = seq
    if before and before[-1][1] == seq - 1:
        first, before = before[-1][0], before[:-1]
    if after and after[0][0] == seq + 1:
        last, after = after[0][1], after[1:]
    return (*before, (first, last), *after), True


def _bounded(ranges: tuple[Range, ...], following: int) -> tuple[Range, ...]:
    """At most MAX_RANGES; the lowest go first, but the one that the receipt stands on."""
    if len(ranges) <= MAX_RANGES:
        return ranges
    victim = 1 if ranges[0][1] == following - 1 else 0
    return ranges[:victim] + ranges[victim + 1 :]


_decoder = msgspec.msgpack.Decoder(list[Range])


def pack_ranges(ranges: tuple[Range, ...]) -> bytes:
    """`ranges` for keeping."""
    return msgspec.msgpack.encode(ranges)


def unpack_ranges(blob: bytes) -> tuple[Range, ...]:
    """What `pack_ranges` made. Raises ValueError for other bytes."""
    return tuple(_decoder.decode(blob))
