"""Modbus register maps: what stands where, how it is fetched and how it is written.

Owns the shape of the `modbus` codec. Addresses are the zero-based numbers on the wire.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from citysense_profiles.format.binary import ByteOrder, WordOrder
from citysense_profiles.format.meaning import BitField, Duration, Meaning, Strict

Table = Literal["coil", "discrete", "input", "holding"]
RegisterType = Literal[
    "bit", "u16", "i16", "u32", "i32", "u64", "i64", "f16", "f32", "f64", "bcd", "ascii", "utf16", "hex", "dotted"
]


class ModbusField(Meaning):
    """One or more registers, or a bit.

    `count` (registers) is for ascii, utf16, hex, dotted and bcd. `byte_order: little` means that the low byte of each
    register comes first (text). `bits` takes a number apart.
    """

    table: Table
    address: Annotated[int, Field(ge=0, le=65535)]
    type: RegisterType
    count: Annotated[int, Field(ge=1, le=125)] | None = None
    word_order: WordOrder | None = None
    byte_order: ByteOrder = "big"
    bits: list[BitField] | None = None
    access: Literal["r", "w", "rw"] = "r"

    @model_validator(mode="after")
    def _consistent(self) -> ModbusField:
        if self.name is None:
            raise ValueError("a register field has a name")
        if self.bits is not None and (self.metric is not None or self.map is not None):
            raise ValueError("where bits take a number apart, metrics and maps belong to the bits")
        if (self.type == "bit") != (self.table in ("coil", "discrete")):
            raise ValueError("coil and discrete hold type bit; input and holding hold numbers and text")
        if (self.count is not None) != (self.type in ("ascii", "utf16", "hex", "dotted", "bcd")):
            raise ValueError("count (registers) is for ascii, utf16, hex, dotted and bcd, and they need it")
        return self


class ModbusCodec(Strict):
    """A register map.

    Reads are merged across gaps of up to `max_gap` registers, or not at all with `one_value` (devices that answer only
    one value per request). `shift` is added to every address. `write: many` uses function 15 or 16 even for one word.
    `unit` is the unit id where the endpoint names none. A message downward is written; `resend_every` marks what a
    device must hear again and again (life bits, limits that fall back).
    """

    type: Literal["modbus"]
    unit: Annotated[int, Field(ge=0, le=255)] = 1
    word_order: WordOrder = "high_first"
    max_gap: Annotated[int, Field(ge=0, le=120)] = 0
    max_count: Annotated[int, Field(ge=1, le=125)] = 125
    one_value: bool = False
    shift: int = 0
    write: Literal["single", "many"] = "single"
    resend_every: Duration | None = None
