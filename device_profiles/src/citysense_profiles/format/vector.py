"""Worked examples inside a profile: a frame and what it says, or the error it must raise."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from citysense_profiles.format.meaning import HexBytes, Name, Scalar, SettingName, Strict
from citysense_profiles.format.registers import Table


class VectorSample(Strict):
    """What one sample of a vector must be, in the vocabulary's terms; times in ms since 1970 UTC."""

    time: int | None = None
    values: dict[str, Scalar] = {}
    missing: list[str] = []
    event: str | None = None
    tag: str | None = None


class Request(Strict):
    """A Modbus RTU read request that the profile's own plan must contain, and the field that stands there."""

    hex: HexBytes
    unit: int
    function: int
    address: int
    quantity: int
    field: str | None = None


class Write(Strict):
    """A Modbus write that the profile must plan for the vector's values."""

    function: Literal[5, 6, 15, 16]
    table: Literal["coil", "holding"]
    address: int
    words: list[int]


class Wire(Strict):
    """A frame, written as is readable. Exactly one of the keys."""

    hex: HexBytes | None = None
    text: str | None = None
    json_: Annotated[Any, Field(alias="json")] = None
    cbor: Any = None
    registers: dict[Table, dict[int, list[Annotated[int, Field(ge=0, le=65535)]]]] | None = None
    request: Request | None = None
    write: list[Write] | None = None

    @model_validator(mode="after")
    def _one(self) -> Wire:
        if len(self.model_fields_set) != 1:
            raise ValueError("wire is exactly one of hex, text, json, cbor, registers, request, write")
        return self


class VectorEntry(Strict):
    """A worked example.

    `values` are by name, in the fields' own units and words, complete; null is "no value", repeats are lists. `samples`
    are the readings, in the vocabulary's terms. At least one of the two, or `error`, or a `request`. `canonical: false`
    marks a frame that says the same in another way than we would write it.
    """

    name: str
    basis: Literal["published", "computed", "recorded", "abridged"]
    source: str | None = None
    note: str | None = None
    message: Name | None = None
    port: int | None = None
    wire: Wire
    content: int | None = None
    settings: dict[SettingName, FiniteFloat | str] = {}
    values: dict[str, Any] | None = None
    samples: list[VectorSample] | None = None
    boot: int | None = None
    seq: int | None = None
    base: int | None = None
    serial: str | None = None
    tolerance: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    canonical: bool = True
    error: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> VectorEntry:
        says = self.values is not None or self.samples is not None
        if self.wire.request is not None:
            if says or self.error:
                raise ValueError("a request is checked by itself; it has no values, samples or error")
            return self
        if says == (self.error is not None):
            raise ValueError("a vector has values or samples (what the frame says), or error (the code it must raise)")
        if says and self.message is None:
            raise ValueError("a vector with values or samples names its message")
        return self
