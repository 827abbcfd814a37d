"""What every codec offers, and the few things that all of them share.

Owns the two protocols behind `Profile` (messages of bytes, maps of registers), the values that go into an encoder, the
place that errors name, and the last step of decoding: derived metrics and the kind of event. No wire format lives here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from citysense_profiles.errors import DecodeCode, DecodeError, EncodeError
from citysense_profiles.reading import Decoded, Sample, Value

NO_SETTINGS: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Place:
    """Profile and message, so that every error says where."""

    profile: str
    message: str

    def refuse(self, code: DecodeCode, text: str, *, field: str | None = None, offset: int | None = None) -> NoReturn:
        """Raise the DecodeError of this place."""
        raise DecodeError(code, text, profile=self.profile, message=self.message, field=field, offset=offset)

    def cannot_encode(self, text: str, *, field: str | None = None) -> NoReturn:
        """Raise the EncodeError of this place."""
        raise EncodeError(text, profile=self.profile, message=self.message, field=field)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """What to encode. `values` maps metrics to values in the vocabulary's unit, None for "no value"."""

    values: Mapping[str, Value | None]
    content: int | None = None
    time: int | None = None
    boot: int | None = None
    seq: int | None = None
    base: int | None = None
    tag: str | None = None
    serial: str | None = None

    def role(self, role: str) -> Any:
        """The value of a role (time, tag, serial, boot, seq); None where the caller gave none."""
        return getattr(self, role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One Modbus request: `count` registers or bits of `table` from the zero-based `address` on."""

    table: str
    address: int
    count: int


class Message(Protocol):
    """A message of bytes. Raises DecodeError and EncodeError only."""

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that the message carries on the wire."""
        ...

    def fits(self, payload: bytes) -> bool:
        """A cheap look: could these bytes be this message?"""
        ...

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """What the bytes say."""
        ...

    def encode(self, outgoing: Outgoing) -> bytes:
        """The bytes that say this."""
        ...


class RegisterMap(Protocol):
    """A message that is polled. Raises DecodeError and EncodeError only."""

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that the registers hold."""
        ...

    @property
    def reads(self) -> tuple[Read, ...]:
        """The requests that fetch everything, in order of table and address."""
        ...

    def decode(self, registers: Mapping[tuple[str, int], int], settings: Mapping[str, float]) -> Decoded:
        """What the registers say; fields whose registers are absent are left out."""
        ...

    def encode(self, values: Mapping[str, Value | None]) -> dict[tuple[str, int], int]:
        """The registers that say this."""
        ...


@dataclass(frozen=True, slots=True)
class Derivation:
    """metric = setting - minus; `default` stands in where a device has no setting of its own."""

    metric: str
    setting: str
    minus: str
    default: float | None


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
            setting = settings.get(rule.setting, rule.default)
            if setting is None or rule.metric in values:
                continue
            subtrahend = values.get(rule.minus)
            if isinstance(subtrahend, float):
                # Six decimals: far below any sensor's resolution, far above the noise of a binary subtraction.
                values[rule.metric] = round(setting - subtrahend, 6)
            elif rule.minus in missing and rule.metric not in missing:
                missing.append(rule.metric)
