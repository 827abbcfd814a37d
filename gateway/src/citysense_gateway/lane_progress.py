"""What of a lane is done with, as the platform's answers come in.

Pure. The cursor passes a record only when it and all before it are durable on the platform, or were given up on
record; so a lost answer costs a second sending, which the platform recognises, and never a reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from citysense import wire
from citysense.record_format import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What one answer means. `refused` pairs a record's offset with the platform's words; `kept` are sent again."""

    cursor: int
    refused: tuple[tuple[int, str], ...]
    kept: tuple[int, ...]


class LaneProgress:
    """Place of the uplink in one lane. `cursor` is the last offset up to which all is done."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self._done: set[int] = set()

    def open(self, window: Sequence[Record]) -> list[Record]:
        """The records to send next, in order: what the platform could not take yet goes before anything new."""
        reached = max(self._done, default=None)
        if reached is None:
            return list(window)
        return [record for record in window if record.offset < reached and record.offset not in self._done]

    def settle(self, window: Sequence[Record], sent: Sequence[int], answer: wire.Answer) -> Settled:
        """Take in the answer to `sent`, which were read in `window`. What the answer does not speak of is kept."""
        asked = set(sent)
        refused = {offset: reason for offset, reason in answer.rejected if offset in asked}
        for first, last in answer.accepted:
            self._done.update(offset for offset in asked if first <= offset <= last)
        self._done.update(refused)
        self._done.difference_update(answer.keep)
        kept = tuple(sorted(asked - self._done))
        self._advance(window)
        still_refused = tuple((offset, reason) for offset, reason in refused.items() if offset not in kept)
        return Settled(cursor=self.cursor, refused=still_refused, kept=kept)

    def _advance(self, window: Sequence[Record]) -> None:
        """Move the cursor up to the first record that is still open. `window` begins right behind the cursor."""
        for record in window:
            if record.offset not in self._done:
                break
            self.cursor = record.offset
        self._done = {offset for offset in self._done if offset > self.cursor}
