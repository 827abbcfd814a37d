"""What every codec offers, and the few things that all of them share.

Owns the two protocols behind `Profile` (messages of bytes, maps of registers), the place that errors name, and the last
step of decoding: derived metrics and the kind of event. No wire format lives here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, NoReturn, Protocol

from citysense_profiles.codecs.field import Field
from citysense_profiles.errors import DecodeCode, DecodeError, EncodeError
from citysense_profiles.reading import Decoded, Sample, Value

NO_SETTINGS: Mapping[str, float] = {}
_LONGEST_TEXT = 600
"""Characters of an error: it may quote the frame, and a frame may be a megabyte."""


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


@dataclass(frozen=True, slots=True)
class Place:
    """Profile and message, so that every error says where."""

    profile: str
    message: str

    def refuse(self, code: DecodeCode, text: str, *, field: str | None = None, offset: int | None = None) -> NoReturn:
        """Raise the DecodeError of this place."""
        raise DecodeError(code, _short(text), profile=self.profile, message=self.message, field=field, offset=offset)

    def cannot_encode(self, text: str, *, field: str | None = None) -> NoReturn:
        """Raise the EncodeError of this place."""
        raise EncodeError(_short(text), profile=self.profile, message=self.message, field=field)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A frame by name: everything it says, in the fields' own units and words.

    `values` are flat, groups joined by a dot; repeats are lists; None is "no value". `where` has the same keys and
    shape: the byte offset from 0, a JSON pointer, or "input:100" for registers.
    """

    message: str
    values: Mapping[str, Any]
    where: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One Modbus request: `count` registers or bits of `table` from the zero-based `address` on."""

    table: str
    address: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One Modbus write. `function` is 5, 6, 15 or 16; `words` are registers, or 0 and 1 for coils."""

    function: int
    table: str
    address: int
    words: tuple[int, ...]


class Message(Protocol):
    """A message of bytes. Raises DecodeError and EncodeError only."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """Everything that has a name, in the order of the profile."""
        ...

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that the message carries on the wire."""
        ...

    def fits(self, payload: bytes, port: int | None) -> bool:
        """A cheap look: could these bytes, from that port if the channel names one, be this message?"""
        ...

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """The readings."""
        ...

    def decode_fields(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Named:
        """Every value by name, and where it stood."""
        ...

    def encode_fields(self, values: Mapping[str, Any], content: int | None, settings: Mapping[str, float]) -> bytes:
        """The bytes that say this, by name. Names that the message lacks have been refused already."""
        ...


class RegisterMap(Protocol):
    """A message that is polled or written. Raises DecodeError and EncodeError only."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """Everything that has a name, in the order of the profile."""
        ...

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that the registers hold."""
        ...

    @property
    def reads(self) -> tuple[Read, ...]:
        """The requests that fetch everything readable, in order of table and address."""
        ...

    @property
    def unit(self) -> int:
        """The unit id where the endpoint names none."""
        ...

    @property
    def resend_every(self) -> float | None:
        """Seconds after which a device must hear this again; None: once is enough."""
        ...

    def decode(self, registers: Mapping[tuple[str, int], int], settings: Mapping[str, float]) -> Decoded:
        """The readings; fields whose registers are absent are left out."""
        ...

    def decode_fields(self, registers: Mapping[tuple[str, int], int], settings: Mapping[str, float]) -> Named:
        """Every value by name; `where` is "input:100"."""
        ...

    def encode_fields(self, values: Mapping[str, Any], settings: Mapping[str, float]) -> dict[tuple[str, int], int]:
        """The registers that say this, by name."""
        ...

    def plan_writes(self, values: Mapping[str, Any], settings: Mapping[str, float]) -> tuple[Write, ...]:
        """The requests that write this, by name, in order of address; neighbours go into one."""
        ...


@dataclass(frozen=True, slots=True)
class Derivation:
    """metric = setting - minus."""

    metric: str
    setting: str
    minus: str


class Finish:
    """The last step of every decoder: adds derived metrics, names the event, leaves out samples that say nothing."""

    def __init__(
        self, *, event: str | None, event_metrics: frozenset[str], derivations: tuple[Derivation, ...]
    ) -> None:
        self._event = event
        self._event_metrics = event_metrics
        self._derivations = derivations
        self._direct = event is None and not event_metrics and not derivations

    def sample(
        self,
        values: dict[str, Value],
        missing: list[str],
        settings: Mapping[str, float],
        *,
        time: int | None = None,
        tag: str | None = None,
    ) -> tuple[Sample, ...]:
        """The sample, or nothing where there is nothing to say. `values` and `missing` are the caller's own and new."""
        if self._direct:
            if not values and not missing and tag is None:
                return ()
            return (Sample(time=time, values=values, missing=tuple(missing), tag=tag),)
        self._derive(values, missing, settings)
        event = self._event
        if event is None and self._event_metrics:
            event = next((metric for metric in values if metric in self._event_metrics), None)
        if not values and not missing and event is None and tag is None:
            return ()
        return (Sample(time=time, values=values, missing=tuple(missing), event=event, tag=tag),)

    def _derive(self, values: dict[str, Value], missing: list[str], settings: Mapping[str, float]) -> None:
        for rule in self._derivations:
            setting = settings.get(rule.setting)
            if setting is None or rule.metric in values:
                continue
            subtrahend = values.get(rule.minus)
            if isinstance(subtrahend, float):
                difference = setting - subtrahend
                if isfinite(difference):  # near the end of what a double holds there is none
                    # Six decimals: far below any sensor's resolution, far above the noise of a binary subtraction.
                    values[rule.metric] = round(difference, 6)
            elif rule.minus in missing and rule.metric not in missing:
                missing.append(rule.metric)
