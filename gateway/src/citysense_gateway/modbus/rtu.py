"""Replies on a serial line (RTU): which bytes of what came in are the reply to a request.

Owns the shape of a reply and the search for it. Pure: bytes in, a verdict out. RTU has no number that ties a reply to its
request, so everything that a reply does say must agree: unit, function, length, check sum, and for writes the address and
the value or count. What else came before it (bytes of a late neighbour, the line's own echo, glitches when a transceiver
turns round) is passed over. Modbus over serial line 1.02, section 2.5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from citysense_profiles.codecs.frames.checksum import crc16_modbus

_EXCEPTION = 0x80
_EXCEPTION_LENGTH = 5
_WRITE_LENGTH = 8
_SHORTEST = 4


class Found(Enum):
    """What became of a search."""

    NOTHING = "nothing"
    """More bytes may still complete a reply."""
    REPLY = "reply"
    DAMAGED = "damaged"
    """A reply of the right kind whose check sum is wrong, or that something follows: no better one will come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The reply that is waited for. `request` are the bytes that went out; `data` the bytes of values that a read's reply
    holds, None for a write."""

    unit: int
    function: int
    request: bytes
    data: int | None

    @property
    def length(self) -> int:
        """Bytes of the whole reply."""
        return _WRITE_LENGTH if self.data is None else 5 + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Sifted:
    """`frame` is the whole reply where it was found; `echoed` whether the request itself came back before it."""

    found: Found
    frame: bytes = b""
    echoed: bool = False


def sift(buffer: bytes, wanted: Wanted, *, echoing: bool) -> Sifted:
    """The reply in `buffer`, all bytes since the request went out.

    `echoing`: this line is known to give back what is sent. It matters for functions 5 and 6, whose confirmation has the
    very bytes of the request; for reads an echo is recognised by itself.
    """
    start, echoed = 0, False
    if wanted.data is not None or echoing:
        if wanted.request.startswith(buffer):
            return Sifted(found=Found.NOTHING, echoed=buffer == wanted.request)
        if buffer.startswith(wanted.request):
            start, echoed = len(wanted.request), True
    found = Found.NOTHING
    for at in range(start, len(buffer)):
        length = _length_at(buffer, at, wanted)
        end = at + length
        if not length or end > len(buffer):
            continue
        frame = buffer[at:end]
        if not intact(frame):
            found = Found.DAMAGED if end == len(buffer) else found
        elif end == len(buffer):
            return Sifted(found=Found.REPLY, frame=frame, echoed=echoed)
        else:
            # Two replies to one request: no telling which belongs to it.
            return Sifted(found=Found.DAMAGED, echoed=echoed)
    return Sifted(found=found, echoed=echoed)


def describe(buffer: bytes, wanted: Wanted) -> str:
    """What came instead, in words for a person; empty if nothing did."""
    heard = buffer.removeprefix(wanted.request)
    if not heard:
        return ""
    if len(heard) > _SHORTEST and intact(heard):
        if heard[0] != wanted.unit:
            return f"unit {heard[0]} answered instead of {wanted.unit}"
        if heard[1] & ~_EXCEPTION != wanted.function:
            return f"the reply is to function {heard[1] & ~_EXCEPTION}, not {wanted.function}"
        return f"the reply has {len(heard)} bytes, not {wanted.length}"
    return f"{len(heard)} bytes came that are no reply"


def intact(frame: bytes) -> bool:
    """Whether the last two bytes are the check sum of the others."""
    return crc16_modbus(frame[:-2]).to_bytes(2, "little") == frame[-2:]


def _length_at(buffer: bytes, at: int, wanted: Wanted) -> int:
    """How long the reply is that may begin there; 0 if none does."""
    head = buffer[at : at + 3]
    if len(head) < 3 or head[0] != wanted.unit:
        return 0
    if head[1] == wanted.function | _EXCEPTION:
        return _EXCEPTION_LENGTH
    if head[1] != wanted.function:
        return 0
    if wanted.data is not None:
        return wanted.length if head[2] == wanted.data else 0
    return wanted.length if buffer[at : at + 6] == wanted.request[:6] else 0
