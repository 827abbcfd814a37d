"""May this message go to this device: named reasons for a no.

Pure: tries on the device's own profile what the gateway will do with it, so that whoever asks learns at once. Commands
that unlock or start are more than this: they come with reasons and second persons of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isclose

from citysense_platform.registry.device import Device
from citysense_profiles.errors import DecodeError, EncodeError, SettingError
from citysense_profiles.profile import Profile
from citysense_profiles.reading import Decoded, Value
from citysense_profiles.vocabulary import ValueType, Vocabulary

MOST_WAITING = 32
"""Open downlinks of one device: as many as a gateway keeps for one."""
NEAR = 0.01
"""A device's own step may change a number by this share of it: 65,535.4 s becomes 65,535 s. Never 0.1 s into 0 s, which
is another order altogether, nor an hour and a half into two hours."""


class Reason(StrEnum):
    """Why not; the API's stable codes."""

    REVOKED = "revoked"
    UNKNOWN_PROFILE = "unknown_profile"
    UNKNOWN_MESSAGE = "unknown_message"
    NOT_DOWNWARD = "not_downward"
    VALUE_NOT_POSSIBLE = "value_not_possible"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    ONCE_REQUIRED = "once_required"
    TOO_MANY_WAITING = "too_many_waiting"


CONFLICTS = frozenset({Reason.REVOKED, Reason.TOO_MANY_WAITING})
"""The request is sound, but what is there already speaks against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong: the reason, the field of the request, a sentence for a person."""

    reason: Reason
    field: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDownlink:
    """A message asked for. `values` by metric in the vocabulary's units; `ttl` in seconds."""

    message: str
    values: Mapping[str, Value]
    ttl: int
    priority: int
    supersedes: str
    once: bool


def check(new: NewDownlink, device: Device, profile: Profile | None, vocabulary: Vocabulary) -> Fault | None:
    """What speaks against sending `new` to `device`, whose profile is None if the catalogue has lost it."""
    if device.revoked is not None:
        return Fault(reason=Reason.REVOKED, field="", text=f"{device.id!r} is revoked; nothing can reach it any more")
    if profile is None:
        text = f"its profile {device.profile!r} is not in the catalogue; nobody knows how to say that to it"
        return Fault(reason=Reason.UNKNOWN_PROFILE, field="", text=text)
    fault = _message_fault(new.message, profile) or _range_fault(new.values, vocabulary)
    fault = fault or _trial_fault(new, device, profile)
    if fault is None and not new.once and _acts(new.values, vocabulary):
        text = (
            f"{new.message} does something or switches a state, and a repeat would do it again: set once to true; its "
            "outcome may then be unknown"
        )
        fault = Fault(reason=Reason.ONCE_REQUIRED, field="once", text=text)
    return fault


def _message_fault(message: str, profile: Profile) -> Fault | None:
    downward = [name for name in profile.messages if profile.file.messages[name].direction == "down"]
    if message in downward:
        return None
    known = message in profile.messages
    reason = Reason.NOT_DOWNWARD if known else Reason.UNKNOWN_MESSAGE
    what = f"{message!r} comes from the device" if known else f"{profile.id} has no message {message!r}"
    return Fault(reason=reason, field="message", text=f"{what}; to it go {', '.join(downward) or 'none at all'}")


def _range_fault(values: Mapping[str, Value], vocabulary: Vocabulary) -> Fault | None:
    for name, value in values.items():
        if name not in vocabulary or isinstance(value, bool | str):
            continue
        metric = vocabulary.metric(name)
        low = metric.low if metric.low is not None else value
        high = metric.high if metric.high is not None else value
        if not low <= value <= high:
            text = f"{name} is {value:g} {metric.unit}; plausible is from {low:g} to {high:g}"
            return Fault(reason=Reason.VALUE_OUT_OF_RANGE, field=f"values.{name}", text=text)
    return None


def _trial_fault(new: NewDownlink, device: Device, profile: Profile) -> Fault | None:
    settings = {
        name: value
        for name, value in device.settings.items()
        if not isinstance(value, str) and name not in profile.options
    }
    try:
        fitted = profile.fitted(device.settings)
        if fitted.is_sent(new.message):
            frame = fitted.encode(new.message, new.values, settings=settings)
            heard = fitted.decode(frame, message=new.message, settings=settings)
        else:
            words = fitted.encode_registers(new.values, message=new.message, settings=settings)
            if not words:
                carried = ", ".join(sorted(fitted.message_metrics(new.message))) or "nothing that has a metric"
                text = f"{new.message} writes what values name; it carries {carried}"
                return Fault(reason=Reason.VALUE_NOT_POSSIBLE, field="values", text=text)
            heard = fitted.decode_registers(words, message=new.message, settings=settings)
    except SettingError as error:
        return Fault(reason=Reason.VALUE_NOT_POSSIBLE, field="", text=f"the device's settings: {error.text}")
    except EncodeError as error:
        metrics = {field.name: field.metric for field in profile.fields(new.message)}
        named = metrics.get(error.field or "") or error.field
        field = f"values.{named}" if named in new.values else "values"
        return Fault(reason=Reason.VALUE_NOT_POSSIBLE, field=field, text=error.text)
    except DecodeError as error:
        text = f"what the device would be told cannot be read back: {error.text}"
        return Fault(reason=Reason.VALUE_NOT_POSSIBLE, field="values", text=text)
    return _change_fault(new.values, heard, fitted.message_metrics(new.message))


def _change_fault(values: Mapping[str, Value], heard: Decoded, carried: frozenset[str]) -> Fault | None:
    """What the message, read back, says otherwise than `values`: a device must not do what nobody asked for."""
    said: dict[str, Value] = {}
    for sample in heard.samples:
        said = {**sample.values, **said}
    for name in sorted(carried & values.keys()):
        asked, got = values[name], said.get(name)
        if got is None or not _means(asked, got):
            would = "not be told it at all" if got is None else f"be told {_written(got)}"
            text = f"{name} is {_written(asked)}, and the device would {would}; ask for a value that it can take"
            return Fault(reason=Reason.VALUE_NOT_POSSIBLE, field=f"values.{name}", text=text)
    return None


def _means(asked: Value, got: Value) -> bool:
    """Whether `got` is what was asked for: the same word or switch, or a number within NEAR of it."""
    if isinstance(asked, bool | str) or isinstance(got, bool | str):
        return type(asked) is type(got) and asked == got
    return isclose(asked, got, rel_tol=NEAR)


def _written(value: Value) -> str:
    return f"{value:.10g}" if isinstance(value, float) else repr(value)


def _acts(values: Mapping[str, Value], vocabulary: Vocabulary) -> bool:
    """True unless all that is said are quantities, which may be said twice: a limit, an interval, a threshold."""
    return not values or any(
        name not in vocabulary or vocabulary.metric(name).type is not ValueType.NUMBER for name in values
    )
