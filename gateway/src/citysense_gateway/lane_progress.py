"""What of a lane is done with, as the platform's answers come in.

Pure. The cursor passes a record only when it and all before it are durable on the platform, or were given up on
record; so a lost answer costs a second sending, which the platform recognises, and never a reading. When a lane is long
its newest records are sent ahead of the others: they leave the spool as they are settled, and the cursor later finds
them gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from citysense import wire
from citysense.record_format import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What one answer means. `refused` pairs a record's offset with the platform's words; `kept` are sent again.

    `done` are the offsets behind `cursor` with which nothing is left to do.
    """

    cursor: int
    refused: tuple[tuple[int, str], ...]
    kept: tuple[int, ...]
    done: frozenset[int]


class LaneProgress:
    """Place of the uplink in one lane. `cursor` is the last offset up to which all is done."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self._done: frozenset[int] = frozenset()

    def open(self, window: Sequence[Record]) -> list[Record]:
        """The records to send next, in order: what the platform could not take yet goes before anything new.

        That may have left the lane by itself meanwhile, damaged: then what follows is next. None where all of `window`
        is done with.
        """
        reached = max(self._done, default=0)
        left = [record for record in window if record.offset not in self._done]
        return [record for record in left if record.offset < reached] or left

    def settle(self, window: Sequence[Record], sent: Sequence[int], answer: wire.Answer) -> Settled:
        """What the answer to `sent`, which were read in `window`, comes to. What it does not speak of is kept.

        Changes nothing: what was refused has to stand on the disk first, and only then is it passed, with `take`.
        """
        done, refused = read_answer(sent, answer)
        done |= self._done
        cursor = self._passed(window, done)
        return Settled(
            cursor=cursor,
            refused=tuple(refused.items()),
            kept=tuple(offset for offset in sent if offset not in done),
            done=frozenset(offset for offset in done if offset > cursor),
        )

    def take(self, settled: Settled) -> None:
        """Go on from there: all that `settled` gives up is kept elsewhere, and its cursor is durable."""
        self.cursor = settled.cursor
        self._done = settled.done

    def _passed(self, window: Sequence[Record], done: set[int]) -> int:
        """The cursor before the first record that is still open. `window` begins right behind the cursor."""
        cursor = self.cursor
        for record in window:
            if record.offset not in done:
                break
            cursor = record.offset
        return cursor


def read_answer(sent: Sequence[int], answer: wire.Answer) -> tuple[set[int], dict[int, str]]:
    """Of the offsets `sent`: with which nothing is left to do, and which of those were refused, with the words.

    To keep wins over all else that is said of the same offset.
    """
    keep = set(answer.keep)
    refused = {offset: reason for offset, reason in answer.rejected if offset not in keep}
    refused = {offset: refused[offset] for offset in sent if offset in refused}
    done = set(refused)
    for first, last in answer.accepted:
        done.update(offset for offset in sent if first <= offset <= last)
    return done - keep, refused


def runs(sent: Sequence[int], done: set[int]) -> list[tuple[int, int]]:
    """`sent`, which rises, as closed intervals of neighbours that are done; what was kept lies in none."""
    found: list[tuple[int, int]] = []
    open_run = False
    for offset in sent:
        if offset not in done:
            open_run = False
            continue
        found.append((found.pop()[0] if open_run else offset, offset))
        open_run = True
    return found
