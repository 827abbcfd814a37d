"""Dead letters read again, after their profile was mended.

Owns the way back from a letter to the frame that it was, and the words of the outcome. A letter that fails again makes
no second letter: the first one still lies there, and its outcome says why.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from citysense import wire
from citysense.clock import Clock
from citysense.errors import StorageError
from citysense.keys import SealBroken, Sealer
from citysense_gateway.dead_letters import MAX_RAW, NO_VALUE, printable
from citysense_gateway.defects import DEFECTS, Defects
from citysense_gateway.frame import Frame, Identity, Kind, Transport, Verdict

REJECTED = "rejected"
MOST_TRIES = 30
"""Of one letter; about a minute. Further orders wait behind it, and one of them may be an alarm's siren."""
_AGAIN = b"\x01again:"
"""First bytes of the delivery key of a frame that is read again. It begins as MQTT's keys of repeats do: a letter may be
read twice, and a frame without a time of its own must not be stored for each."""

_MOST = 0xFFFF

Again = Callable[[Frame], Awaitable[Verdict]]
"""Takes a frame through the pipeline without keeping a letter where it fails."""


class NotAFrame(ValueError):
    """A letter that does not say what the frame was; the text says why."""


class Rereading:
    """Reads one letter at a time."""

    def __init__(self, *, again: Again, sealer: Sealer, clock: Clock) -> None:
        self._again = again
        self._sealer = sealer
        self._clock = clock
        self._defects = Defects()
        self._tries: tuple[str, int] = ("", 0)
        """Order that could not be carried out yet, and how often it was tried."""

    async def __call__(self, order: wire.Reprocess) -> wire.Outcome:
        """The outcome of one order: stored, duplicate or rejected. Raises StorageError while nothing can be stored: then
        the order stands, and is to be tried again."""
        try:
            frame = frame_of(order.letter, self._sealer)
            verdict = await self._again(frame)
        except NotAFrame as e:
            return self._outcome(order, REJECTED, str(e))
        except DEFECTS as e:
            # An order counts as taken with its outcome only: without one it would come again after every restart.
            where = self._defects.tell(e, may_quote=False)
            return self._outcome(order, REJECTED, f"a defect of the gateway stopped it ({where}); its log says more")
        if verdict.kind in (Kind.STORED, Kind.DUPLICATE):
            return self._outcome(order, verdict.kind.value, "")
        if verdict.kind is not Kind.UNAVAILABLE:
            return self._outcome(order, REJECTED, verdict.detail)
        last, tries = self._tries
        self._tries = (order.id, tries + 1 if last == order.id else 1)
        detail = verdict.detail or "the gateway could not store it"
        if self._tries[1] < MOST_TRIES:
            raise StorageError(f"a dead letter cannot be read again now ({detail})")
        return self._outcome(order, REJECTED, f"not now, in {MOST_TRIES} tries: {detail}; ask again")

    def _outcome(self, order: wire.Reprocess, state: str, detail: str) -> wire.Outcome:
        return wire.Outcome(id=order.id, state=state, time=self._clock.now_ms(), detail=printable(detail))


def frame_of(letter: wire.DeadLetter, sealer: Sealer) -> Frame:
    """The frame that a letter was made of, as far as it was kept. Raises NotAFrame."""
    if letter.reason == NO_VALUE:
        raise NotAFrame(
            "what the frame holds is stored already; the letter only marks a value that the device left out"
        )
    if not letter.raw:
        raise NotAFrame("nothing of the frame was kept")
    try:
        transport, identity = Transport(letter.transport), Identity(letter.identity)
        raw = sealer.open(letter.seal, letter.raw) if letter.seal else letter.raw
        if letter.size > len(raw) or letter.size > MAX_RAW:
            raise NotAFrame(f"only {len(raw)} of its {letter.size} bytes were kept")
        registers = _registers(raw) if transport is Transport.MODBUS else None
    except SealBroken as e:
        raise NotAFrame(str(e)) from e
    except NotAFrame:
        raise
    except ValueError as e:
        raise NotAFrame(f"the letter does not describe a frame ({e})") from e
    return Frame(
        transport=transport,
        channel=letter.channel,
        device=letter.device or None,
        identity=identity,
        source=letter.source,
        received_at=letter.received,
        payload=b"" if registers is not None else raw,
        registers=registers,
        message=letter.message or None,
        content=None if letter.content < 0 else letter.content,
        delivery=_AGAIN + f"{letter.received} {letter.source}".encode(),
        via=letter.via or None,
    )


def _registers(raw: bytes) -> dict[tuple[str, int], int]:
    """The words of `dead_letters.raw_bytes`. Raises ValueError."""
    try:
        words = {
            (str(table), int(address)): int(word)
            for table, of_table in json.loads(raw).items()
            for address, word in of_table.items()
        }
    except (AttributeError, TypeError, OverflowError, RecursionError) as e:
        raise ValueError("not the registers of a poll") from e
    if not all(0 <= address <= _MOST and 0 <= word <= _MOST for (_, address), word in words.items()):
        raise ValueError(f"an address or a word is above {_MOST}")
    return words
