"""Check sums of the field, by name.

Owns the arithmetic only; which bytes are covered and in which order the sum is sent stands in the profile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from citysense_profiles.format.binary import ChecksumKind


def _crc16_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
        table.append(crc)
    return tuple(table)


def _crc8_table(polynomial: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc << 1 ^ polynomial) & 0xFF if crc & 0x80 else crc << 1
        table.append(crc)
    return tuple(table)


_CRC16 = _crc16_table()
_CRC8_E5 = _crc8_table(0xE5)


def crc16_modbus(data: bytes) -> int:
    """CRC-16/MODBUS: polynomial 8005 reflected, start FFFF, no final xor."""
    crc = 0xFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC16[(crc ^ byte) & 0xFF]
    return crc


def crc8_e5(data: bytes) -> int:
    """CRC-8 of SZY 206: polynomial x7+x6+x5+x2+1 (E5), not reflected, start 0."""
    crc = 0
    for byte in data:
        crc = _CRC8_E5[crc ^ byte]
    return crc


def sum8(data: bytes) -> int:
    """The low byte of the sum of all bytes."""
    return sum(data) & 0xFF


def lrc8(data: bytes) -> int:
    """The two's complement of sum8: all bytes and the check sum add up to 0, as in Modbus ASCII."""
    return -sum(data) & 0xFF


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A check sum: the bytes it fills and how it is computed."""

    size: int
    sum: Callable[[bytes], int]


CHECKSUMS: dict[ChecksumKind, Algorithm] = {
    "crc16_modbus": Algorithm(2, crc16_modbus),
    "crc8_e5": Algorithm(1, crc8_e5),
    "sum8": Algorithm(1, sum8),
    "lrc8": Algorithm(1, lrc8),
}
