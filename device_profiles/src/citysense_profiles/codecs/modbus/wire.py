"""Modbus requests as they stand on a serial line (RTU): what the bytes of a read request ask for.

Owns the eight bytes of a read request: unit, function, address, quantity, check sum. Sends nothing; the drivers of the
gateway do that. Facts: Modbus application protocol 1.1b3, Modbus over serial line 1.02.
"""

from __future__ import annotations

from typing import NamedTuple

from citysense_profiles.codecs.frames.checksum import crc16_modbus
from citysense_profiles.errors import DecodeCode, RefusedError

_FUNCTIONS = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
_TABLES = {function: table for table, function in _FUNCTIONS.items()}
MAX_BITS = 2000
"""Most coils or discrete inputs that one request may ask for."""
MAX_REGISTERS = 125
_LENGTH = 8


class RequestFault(RefusedError):
    """Bytes that are no read request. `code` is what a DecodeError would have."""

    def __init__(self, code: DecodeCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class ReadRequest(NamedTuple):
    """What a read request asks for. `address` counts from 0, `quantity` are registers or bits."""

    unit: int
    function: int
    address: int
    quantity: int


def function_of(table: str) -> int:
    """The function that reads a table (coil, discrete, input, holding). KeyError for anything else."""
    return _FUNCTIONS[table]


def table_of(function: int) -> str:
    """The table that a function reads. Raises RequestFault for functions that do not read."""
    try:
        return _TABLES[function]
    except KeyError:
        raise RequestFault("shape", f"function {function} does not read; 1 to 4 do") from None


def parse_rtu_request(frame: bytes) -> ReadRequest:
    """What the bytes ask for. Raises RequestFault with the codes truncated, trailing, checksum, shape, value."""
    if len(frame) != _LENGTH:
        code: DecodeCode = "truncated" if len(frame) < _LENGTH else "trailing"
        raise RequestFault(code, f"a read request has {_LENGTH} bytes, not {len(frame)}")
    sent, right = frame[-2:], crc16_modbus(frame[:-2]).to_bytes(2, "little")
    if sent != right:
        raise RequestFault("checksum", f"the check sum is {sent.hex()}; of these bytes it would be {right.hex()}")
    unit, function = frame[:2]
    request = ReadRequest(unit, function, int.from_bytes(frame[2:4]), int.from_bytes(frame[4:6]))
    most = MAX_BITS if table_of(function) in ("coil", "discrete") else MAX_REGISTERS
    if not 1 <= request.quantity <= most:
        raise RequestFault("value", f"quantity {request.quantity} is not in 1 to {most}")
    if request.address + request.quantity > 65536:
        raise RequestFault(
            "value", f"address {request.address} and {request.quantity} from there are not in 0 to 65535"
        )
    return request
