"""A compiled field: its names, its role, and both faces of its value. Every codec builds its messages from these.

Owns what a field is once its entry is compiled, and the way from readings to values by name. It knows nothing of bytes,
pointers or addresses: those belong to the codec that holds the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import FromField, FromSetting, Meaning, Scalar
from citysense_profiles.reading import Value
from citysense_profiles.values.conversion import SILENT, Conversion, Raw, compile_conversion
from citysense_profiles.values.moment import FROM_MILLISECONDS, TO_MILLISECONDS
from citysense_profiles.vocabulary import Vocabulary


class FieldFault(ValueError):
    """A field description that means nothing; carries the field's label for the author."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One named value of a message.

    `name` is whole, groups and repeats included (`log.distance`); `depth` counts the repeats around it, and by name the
    value is a list in as many lists. `shown` and `stored` turn the raw code into the value by name and back, `told`
    and `named` belong to the metric or the role (`Conversion` says how); `needs` are the numbers they take besides.
    `unit` is that of the value by name, None for words and plain counts.
    """

    name: str
    depth: int
    raw: Raw
    metric: str | None
    role: str | None
    unit: str | None
    shown: Callable[..., Any]
    stored: Callable[..., Any]
    told: Callable[..., Any] | None
    named: Callable[[Any], Any] | None
    needs: tuple[FromSetting | FromField, ...]
    default: Scalar | None
    can_be_missing: bool
    conversion: Conversion
    entry: Meaning

    def code_of(self, values: Mapping[str, Any], *numbers: float) -> Any:
        """The raw code to write: the caller's value, else the default, else the mark for "no value".

        Raises RefusedError where there is neither, or where the value does not fit.
        """
        if self.name in values:
            return self.stored(values[self.name], *numbers)
        if self.default is not None:
            return self.stored(self.default, *numbers)
        if self.can_be_missing:
            return self.stored(None, *numbers)
        raise RefusedError(f"{self.name} is needed: the field has neither a default nor a mark for a missing value")


def label_of(entry: Meaning, position: int) -> str:
    """How errors call a field: its name, metric or role, else its place in the list."""
    return entry.name or entry.metric or entry.role or f"#{position}"


def compile_field(
    entry: Meaning,
    raw: Raw,
    vocabulary: Vocabulary,
    *,
    prefix: str = "",
    depth: int = 0,
    null: bool = False,
    single_bit: bool = False,
) -> Field:
    """The field that `entry` describes. `prefix` ("log.") stands before its name. Raises ValueError with a sentence."""
    metric = vocabulary.metric(entry.metric) if entry.metric is not None else None
    conversion = compile_conversion(entry, metric, raw, null=null, single_bit=single_bit)
    told, named = conversion.told, conversion.named
    if entry.role is not None:
        told, named = _role(entry, raw, conversion.shown, in_rounds=depth > 0)
    field = Field(
        name=prefix + (entry.name or entry.role or ""),
        depth=depth,
        raw=raw,
        metric=entry.metric,
        role=entry.role,
        unit=entry.unit,
        shown=conversion.shown,
        stored=conversion.stored,
        told=told,
        named=named,
        needs=conversion.needs,
        default=entry.default,
        can_be_missing=conversion.can_be_missing,
        conversion=conversion,
        entry=entry,
    )
    if field.default is not None and not field.needs:
        try:
            field.stored(field.default)
        except RefusedError as error:
            raise ValueError(f"default: {error}") from error
    return field


def with_null(field: Field) -> Field:
    """The field, with a None that the wire format itself may say read as "no value"."""
    return replace(
        field,
        shown=_none_first(field.shown),
        told=None if field.told is None else _none_first(field.told),
    )


def _none_first(convert: Callable[..., Any]) -> Callable[..., Any]:
    return lambda code, *numbers: None if code is None else convert(code, *numbers)


def _role(
    entry: Meaning, raw: Raw, shown: Callable[..., Any], *, in_rounds: bool
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """Reader and writer of a role, between the raw code or value by name and the role's own value.

    A time marked as none is None; in a repeat it is SILENT, which makes the round an empty place of the device's log.
    """
    role = entry.role or ""
    if entry.times or entry.decimals or entry.span:
        raise ValueError(f"role {role} is told as it is; times, decimals and span are for values")
    if entry.map or (entry.invalid and role != "time") or entry.scale != 1 or entry.offset != 0 or entry.unit:
        raise ValueError(f"role {role} takes no scale, offset, unit or map, and only a time has marks of no value")
    if role == "time" and entry.form is not None:
        textual = entry.form in ("rfc3339", "digits", "cp56")
        if (raw == "text") != textual:
            raise ValueError(f"form {entry.form} cannot be carried by a raw {raw}")
        shift = (entry.utc_offset or 0) * 60_000
        read, write = TO_MILLISECONDS[entry.form], FROM_MILLISECONDS[entry.form]
        whole = raw == "int"

        marks, marked = frozenset(entry.invalid), SILENT if in_rounds else None

        def to_time(code: Any) -> Any:
            return marked if code in marks else read(code, shift)

        # Five bytes of BCD end with the minute.
        digits = 10 if entry.form == "digits" and getattr(entry, "length", None) == 5 else None

        def from_time(milliseconds: int) -> Any:
            written = write(milliseconds, shift)
            return int(written) if whole else written[:digits] if digits else written

        return to_time, from_time
    wanted: Raw = "text" if role in ("tag", "serial") else "int"
    if raw != wanted:
        raise ValueError(f"role {role} is carried by {wanted}, not by a raw {raw}")
    return shown, lambda value: value


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """What to encode. `values` maps metrics to values in the vocabulary's unit, None for "no value"."""

    values: Mapping[str, Value | None]
    time: int | None = None
    boot: int | None = None
    seq: int | None = None
    base: int | None = None
    tag: str | None = None
    serial: str | None = None

    def role(self, role: str) -> Any:
        """The value of a role (time, tag, serial, boot, seq); None where the caller gave none."""
        return getattr(self, role)


def by_name(outgoing: Outgoing, fields: Iterable[Field]) -> dict[str, Any]:
    """The values by name that say what `outgoing` says: each metric and each role in the first field that carries it.

    Raises RefusedError naming the metric where a value cannot be said in this message.
    """
    values: dict[str, Any] = {}
    taken: set[str] = set()
    for field in fields:
        source = field.role or field.metric
        if source is None or source in taken or field.named is None:
            continue
        if field.role is not None:
            given = outgoing.role(field.role)
            if given is None:
                continue
        elif source in outgoing.values:
            given = outgoing.values[source]
        else:
            continue
        taken.add(source)
        try:
            value = None if given is None else field.named(given)
        except RefusedError as error:
            raise RefusedError(f"{source}: {error}") from None
        for _ in range(field.depth):
            value = [value]
        values[field.name] = value
    return values
