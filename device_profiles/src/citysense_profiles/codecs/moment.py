"""Event times: from what a device writes to ms since 1970 UTC, and back.

Owns the forms unix_s, unix_ms and rfc3339 (to the nanosecond, any offset). Never reads a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from citysense_profiles.conversion import RefusedError
from citysense_profiles.model import TimeForm

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,12}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = 253_402_300_799_999
"""The last millisecond of the year 9999, which is what RFC 3339 can write."""


def in_range(milliseconds: int) -> int:
    """The time itself. Raises RefusedError outside 1970 to 9999."""
    if not 0 <= milliseconds <= LATEST:
        raise RefusedError(f"time {milliseconds} ms lies outside 1970 to 9999")
    return milliseconds


def _from_number(factor: int) -> Callable[[Any], int]:
    def read(raw: Any) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise RefusedError(f"{raw!r} is not a number")
        try:
            return in_range(round(raw * factor))
        except (OverflowError, ValueError):
            raise RefusedError(f"{raw!r} is not a time between 1970 and 9999") from None

    return read


def _from_rfc3339(raw: Any) -> int:
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
        shift = (int(offset_hours) * 60 + int(offset_minutes)) * 60_000
        milliseconds += -shift if sign == "+" else shift
    return in_range(milliseconds)


def _to_rfc3339(milliseconds: int) -> str:
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03}Z"


def _to_seconds(milliseconds: int) -> int | float:
    return milliseconds // 1000 if milliseconds % 1000 == 0 else milliseconds / 1000


TO_MILLISECONDS: dict[TimeForm, Callable[[Any], int]] = {
    "unix_s": _from_number(1000),
    "unix_ms": _from_number(1),
    "rfc3339": _from_rfc3339,
}
FROM_MILLISECONDS: dict[TimeForm, Callable[[int], Any]] = {
    "unix_s": _to_seconds,
    "unix_ms": lambda milliseconds: milliseconds,
    "rfc3339": _to_rfc3339,
}
