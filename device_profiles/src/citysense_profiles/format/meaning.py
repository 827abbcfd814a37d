"""What a field says, whichever way it is carried: its name, its metric or role, and how raw codes become values.

Owns the keys that every codec shares. A field has two faces: its *name*, whose values are in the field's own unit and
words and always lead back to the same bytes, and its *metric*, in the vocabulary's unit and words.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

Role = Literal["time", "tag", "serial", "boot", "seq"]
TimeForm = Literal["unix_s", "unix_ms", "rfc3339", "digits", "cp56"]
"""digits: YYMMDDhhmmss or YYMMDDhhmm in BCD; cp56: CP56Time2a of IEC 60870-5-4. Both are local times, see utc_offset."""

_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)(ms|s|min|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_OFFSET = re.compile(r"([+-])(\d\d):([0-5]\d)", re.ASCII)
_LONGEST_RATIO = 80
_FAR_EXPONENT = re.compile(r"e[+-]?0*\d{3}", re.IGNORECASE)
_LARGEST_RATIO, _SMALLEST_RATIO = Fraction(10**30), Fraction(1, 10**30)
"""No device counts in larger or smaller steps, and what 64 bits make of it still fits a double in every unit."""


def _seconds(written: Any) -> float:
    match = _DURATION.fullmatch(written) if isinstance(written, str) else None
    if match is None:
        raise ValueError("a duration carries its unit: 500ms, 30s, 5min, 1h, 1d")
    return float(match[1]) * _SECONDS[match[2]]


def _hex(written: Any) -> bytes:
    if not isinstance(written, str):
        raise ValueError('hex digits stand in quotes: "01 75"')
    try:
        return bytes.fromhex(written)
    except ValueError:
        raise ValueError("not pairs of hex digits") from None


def _ratio(written: Any) -> Fraction:
    if isinstance(written, bool) or not isinstance(written, int | float | str):
        raise ValueError("a scale is a decimal number or a ratio in quotes, such as 0.1 or '1/690'")
    text = str(written).replace(" ", "")
    # Looked at as text first: a number such as 1e9999999 takes seconds to make.
    if len(text) > _LONGEST_RATIO or _FAR_EXPONENT.search(text):
        raise ValueError("a scale or offset lies between 1e-30 and 1e30")
    try:
        ratio = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError("a scale is a decimal number or a ratio in quotes, such as 0.1 or '1/690'") from None
    if ratio and not _SMALLEST_RATIO <= abs(ratio) <= _LARGEST_RATIO:
        raise ValueError("a scale or offset lies between 1e-30 and 1e30")
    return ratio


def _minutes(written: Any) -> int:
    match = _OFFSET.fullmatch(written) if isinstance(written, str) else None
    if match is None or int(match[2]) > 14:
        raise ValueError('an offset from UTC is written "+08:00"')
    minutes = int(match[2]) * 60 + int(match[3])
    return -minutes if match[1] == "-" else minutes


Duration = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=str), Field(gt=0)]
HexBytes = Annotated[bytes, BeforeValidator(_hex, json_schema_input_type=str)]
Ratio = Annotated[Fraction, BeforeValidator(_ratio, json_schema_input_type=float | str)]
UtcOffset = Annotated[int, BeforeValidator(_minutes, json_schema_input_type=str)]
"""Minutes east of Greenwich."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
"""Of a message, group or repeat: one part."""
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9][a-z0-9_]*)*$")]
"""Of a field: parts joined by dots, such as voltage.l1."""
SettingName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$")]
Scalar = bool | int | float | str


class Strict(BaseModel):
    """Unknown keys are refused: a misspelt key is a mistake, not an extra."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class FromSetting(Strict):
    """A number that the device's settings give."""

    setting: SettingName


class FromField(Strict):
    """A number that an earlier field of the same frame gives."""

    field: FieldName


Source = FiniteFloat | FromSetting | FromField


class Span(Strict):
    """Raw `raw[0]` is `values[0]`, raw `raw[1]` is `values[1]`, a straight line between and beyond (in `unit`).

    `clamp`: a raw code below `raw[0]` reads as `values[0]`.
    """

    raw: tuple[FiniteFloat, FiniteFloat]
    values: tuple[Source, Source]
    clamp: bool = False

    @model_validator(mode="after")
    def _two_points(self) -> Span:
        if self.raw[0] == self.raw[1]:
            raise ValueError("a span needs two different raw codes")
        return self


class Reshape(Strict):
    """Text rearranged both ways: {4} stands for four characters, the same parts in the same order in both.

    wire "IMEI:{15}" and value "{15}" cut off a prefix.
    """

    wire: str
    value: str


class Meaning(Strict):
    """The keys of every field.

    value = raw * scale + offset in `unit`. `times` multiplies, `decimals` moves the point by as many places, `span`
    draws a line; the three take numbers from settings or earlier fields and exclude one another. `map` gives raw codes
    their words, `others: pass` lets unknown codes through as numbers. `means` turns words (or values) into those of the
    metric; what it does not name is no reading. `invalid` lists raw marks of "no value", outside the raw range
    `valid` there is none either, `default` (a value by name) is
    encoded where the caller gives none.
    """

    name: FieldName | None = None
    metric: str | None = None
    role: Role | None = None
    form: TimeForm | None = None
    utc_offset: UtcOffset | None = None
    unit: str | None = None
    scale: Ratio = Fraction(1)
    offset: Ratio = Fraction(0)
    times: FromSetting | FromField | None = None
    decimals: FromField | None = None
    span: Span | None = None
    reshape: Reshape | None = None
    map: dict[Scalar, Scalar] | None = None
    others: Literal["refuse", "pass"] = "refuse"
    means: dict[Scalar, Scalar] | None = None
    invalid: list[Scalar] = []
    valid: tuple[FiniteFloat, FiniteFloat] | None = None
    default: Scalar | None = None
    personal: bool = False
    secret: bool = False
    note: str | None = None
    note_zh: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Meaning:
        if self.metric is not None and self.role is not None:
            raise ValueError("a field has a metric or a role, not both")
        if (self.role == "time") != (self.form is not None):
            raise ValueError("role: time needs form: unix_s, unix_ms, rfc3339, digits or cp56; nothing else has a form")
        if (self.form in ("digits", "cp56")) != (self.utc_offset is not None):
            raise ValueError('local times (digits, cp56) need utc_offset, such as "+08:00"; others have none')
        if sum(key is not None for key in (self.times, self.decimals, self.span, self.map, self.reshape)) > 1:
            raise ValueError("one of times, decimals, span, map and reshape is enough")
        if self.means is not None and self.metric is None:
            raise ValueError("means turns words into those of a metric, and there is none")
        if self.others == "pass" and self.map is None:
            raise ValueError("others is for fields with a map")
        return self


class BitField(Meaning):
    """Some bits of a number: `bit` counts from the least significant, 0. Has a name."""

    bit: Annotated[int, Field(ge=0, le=63)]
    width: Annotated[int, Field(ge=1, le=64)] = 1
    signed: bool = False
