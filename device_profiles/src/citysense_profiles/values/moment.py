"""Event times: from what a device writes to ms since 1970 UTC, and back.

Owns the forms unix_s, unix_ms, rfc3339 (to the nanosecond, any offset), digits (YYMMDDhhmm[ss], of this century) and
cp56 (local ISO text; the seven bytes of IEC 60870-5-4 are the slot's business). Never reads a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import TimeForm

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,12}))?(?:[Zz]|([+-])(\d\d):?(\d\d))", re.ASCII
)
"""The colon of the offset may be missing, as ISO 8601 has it too and readers of tags write it."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = 253_402_300_799_999
"""The last millisecond of the year 9999, which is what RFC 3339 can write."""


def in_range(milliseconds: int) -> int:
    """The time itself. Raises RefusedError outside 1970 to 9999."""
    if not 0 <= milliseconds <= LATEST:
        raise RefusedError(f"time {milliseconds} ms lies outside 1970 to 9999")
    return milliseconds


def _from_number(factor: int) -> Callable[[Any, int], int]:
    def read(raw: Any, shift: int) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise RefusedError(f"{raw!r} is not a number")
        try:
            return in_range(round(raw * factor))
        except (OverflowError, ValueError):
            raise RefusedError(f"{raw!r} is not a time between 1970 and 9999") from None

    return read


def _from_rfc3339(raw: Any, shift: int = 0) -> int:
    match = _RFC3339.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise RefusedError(f"{raw!r} is not an RFC 3339 time")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    try:
        # A leap second counts as the first moment of the next minute, as the Unix scale has it.
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError as error:
        raise RefusedError(f"{raw!r} is not a time: {error}") from None
    if second > 60:
        raise RefusedError(f"{raw!r} is not a time: second must be in 0..60")
    since = moment - _EPOCH + timedelta(seconds=second == 60)
    milliseconds = (since.days * 86400 + since.seconds) * 1000 + int((fraction or "0").ljust(3, "0")[:3])
    if sign:
        east = (int(offset_hours) * 60 + int(offset_minutes)) * 60_000
        milliseconds += -east if sign == "+" else east
    return in_range(milliseconds)


def _from_digits(raw: Any, shift: int) -> int:
    if not isinstance(raw, str) or len(raw) not in (10, 12) or not (raw.isascii() and raw.isdecimal()):
        raise RefusedError(f"{raw!r} is not YYMMDDhhmm or YYMMDDhhmmss")
    year, month, day, hour, minute, second = (int(raw[at : at + 2] or "0") for at in range(0, 12, 2))
    try:
        moment = datetime(2000 + year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise RefusedError(f"{raw!r} is not a time: {error}") from None
    return in_range(_milliseconds(moment) - shift)


def _from_local_iso(raw: Any, shift: int) -> int:
    """Local ISO text without an offset, as the cp56 slot gives it."""
    try:
        moment = datetime.fromisoformat(raw).replace(tzinfo=UTC)
    except (TypeError, ValueError):
        raise RefusedError(f"{raw!r} is not a local time such as 2026-11-20T21:13:24.000") from None
    return in_range(_milliseconds(moment) - shift)


def _milliseconds(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86400 + since.seconds) * 1000 + since.microseconds // 1000


def _moment(milliseconds: int, shift: int) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds + shift)
    except OverflowError:
        raise RefusedError(f"time {milliseconds} ms lies beyond the year 9999 where the device is") from None


def _to_rfc3339(milliseconds: int, shift: int) -> str:
    return f"{_moment(milliseconds, 0):%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03}Z"


def _to_seconds(milliseconds: int, shift: int) -> int | float:
    return milliseconds // 1000 if milliseconds % 1000 == 0 else milliseconds / 1000


def _to_digits(milliseconds: int, shift: int) -> str:
    moment = _moment(milliseconds, shift)
    if not 2000 <= moment.year <= 2099:
        raise RefusedError(f"the year {moment.year} cannot be written with two digits")
    return f"{moment:%y%m%d%H%M%S}"


def _to_local_iso(milliseconds: int, shift: int) -> str:
    moment = _moment(milliseconds, shift)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}"


# Both ways take the shift from UTC in milliseconds; forms that carry their own, or none, pass over it.
TO_MILLISECONDS: dict[TimeForm, Callable[[Any, int], int]] = {
    "unix_s": _from_number(1000),
    "unix_ms": _from_number(1),
    "rfc3339": _from_rfc3339,
    "digits": _from_digits,
    "cp56": _from_local_iso,
}
FROM_MILLISECONDS: dict[TimeForm, Callable[[int, int], Any]] = {
    "unix_s": _to_seconds,
    "unix_ms": lambda milliseconds, shift: milliseconds,
    "rfc3339": _to_rfc3339,
    "digits": _to_digits,
    "cp56": _to_local_iso,
}
