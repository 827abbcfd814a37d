"""Check sums of the field, by name.

Owns the arithmetic only; which bytes are covered and in which order the sum is sent stands in the profile.
"""

from __future__ import annotations

from collections.abc import Callable


def _crc16_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
        table.append(crc)
    return tuple(table)


_CRC16 = _crc16_table()


def crc16_modbus(data: bytes) -> int:
    """CRC-16/MODBUS: polynomial 8005 reflected, start FFFF, no final xor."""
    crc = 0xFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC16[(crc ^ byte) & 0xFF]
    return crc


CHECKSUMS: dict[str, Callable[[bytes], int]] = {"crc16_modbus": crc16_modbus}
