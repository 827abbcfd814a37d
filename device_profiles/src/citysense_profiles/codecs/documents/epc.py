"""An EPC as a tag holds it: GS1 EPC Tag Data Standard, the schemes SGTIN-96 and SGTIN-198 taken apart.

Owns the bits, the URI, the GTIN and the check digit. Whatever is not a sound code of these two schemes (other headers,
ASCII, a TID) keeps its hex digits and has the scheme "unknown": a tag is never refused for what is written on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from citysense_profiles.codecs.contract import Finish, Named, Place
from citysense_profiles.codecs.field import Field, compile_field
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import Meaning
from citysense_profiles.format.profile_file import EpcMessage
from citysense_profiles.reading import Decoded
from citysense_profiles.vocabulary import Vocabulary

SGTIN_96: Final = "sgtin-96"
SGTIN_198: Final = "sgtin-198"
UNKNOWN: Final = "unknown"

_COMPANY_BITS = (40, 37, 34, 30, 27, 24, 20)
"""By partition; the item reference has the rest of 44 bits. Partition p has 12 - p digits of company, 1 + p of item."""
_HEADERS = {0x30: SGTIN_96, 0x36: SGTIN_198}
_SERIAL_BITS = {SGTIN_96: 38, SGTIN_198: 140}
_SIZES = {SGTIN_96: (12,), SGTIN_198: (25, 26)}
"""Bytes. 198 bits are filled up with zeros, to whole bytes or to the 16-bit words of a tag's memory."""
_SERIAL_TEXT = re.compile(r"[!\"%-?A-Z_a-z]{1,20}", re.ASCII)
_ESCAPED = re.compile(r"[\"%&/<>?]")
_DIGITS = re.compile(r"\d+", re.ASCII)
_NAMES = ("scheme", "filter", "partition", "company_prefix", "item_reference", "serial", "uri", "gtin14", "epc")
_NUMBERS = ("filter", "partition")
_PERSONAL = ("serial", "uri")


class EpcCodec:
    """The bytes of one EPC. The tag id is its hex digits in upper case."""

    metrics: frozenset[str] = frozenset()

    def __init__(self, place: Place, finish: Finish, entry: EpcMessage, vocabulary: Vocabulary) -> None:
        self._place = place
        self._finish = finish
        self.fields: tuple[Field, ...] = tuple(
            compile_field(_meaning(name), "int" if name in _NUMBERS else "text", vocabulary) for name in _NAMES
        )

    def fits(self, payload: bytes, port: int | None) -> bool:
        """Any bytes may stand on a tag."""
        return len(payload) > 0

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """One sample with the tag id. Nothing but an empty payload is refused."""
        self._refuse_empty(payload)
        return Decoded(
            message=self._place.message, samples=self._finish.sample({}, [], settings, tag=payload.hex().upper())
        )

    def decode_fields(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Named:
        """The parts of the code; `where` is the byte in which each begins."""
        self._refuse_empty(payload)
        values = taken_apart(payload)
        where = dict.fromkeys(values, 0)
        if values["scheme"] != UNKNOWN:
            company = _COMPANY_BITS[values["partition"]]
            where |= {
                "filter": 1,
                "partition": 1,
                "company_prefix": 1,
                "item_reference": (14 + company) // 8,
                "serial": 7,
            }
        return Named(message=self._place.message, values=values, where=where)

    def encode_fields(self, values: Mapping[str, Any], content: int | None, settings: Mapping[str, float]) -> bytes:
        """From `epc` where it is given, else from filter, company_prefix, item_reference and serial.

        A serial that is a number makes an SGTIN-96, text an SGTIN-198. What else is given must agree.
        """
        given = {name: value for name, value in values.items() if value is not None}
        try:
            payload = _from_hex(given["epc"]) if "epc" in given else put_together(given)
        except RefusedError as error:
            self._place.cannot_encode(str(error), field="epc" if "epc" in given else "serial")
        for name, told in taken_apart(payload).items():
            if name in given and name != "epc" and (type(given[name]), given[name]) != (type(told), told):
                self._place.cannot_encode(f"{given[name]!r} is not what the rest says, which is {told!r}", field=name)
        return payload

    def _refuse_empty(self, payload: bytes) -> None:
        if not payload:
            self._place.refuse("truncated", "an EPC has at least one byte", field="epc", offset=0)


def taken_apart(payload: bytes) -> dict[str, Any]:
    """scheme and epc, and the parts where the code is a sound one of a known scheme. SGTIN-96 has a number as serial."""
    epc = payload.hex().upper()
    unknown = {"scheme": UNKNOWN, "epc": epc}
    scheme = _HEADERS.get(payload[0]) if payload else None
    if scheme is None or len(payload) not in _SIZES[scheme]:
        return unknown
    bits = _Bits(payload)
    bits.next(8)
    which, partition = bits.next(3), bits.next(3)
    if partition >= len(_COMPANY_BITS):
        return unknown
    company, item = bits.next(_COMPANY_BITS[partition]), bits.next(44 - _COMPANY_BITS[partition])
    serial = bits.next(_SERIAL_BITS[scheme]) if scheme == SGTIN_96 else _characters(bits.next(_SERIAL_BITS[scheme]))
    if company >= 10 ** (12 - partition) or item >= 10 ** (1 + partition) or serial is None or bits.rest():
        return unknown
    prefix, reference = f"{company:0{12 - partition}}", f"{item:0{1 + partition}}"
    escaped = _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", str(serial))
    return {
        "scheme": scheme,
        "filter": which,
        "partition": partition,
        "company_prefix": prefix,
        "item_reference": reference,
        "serial": serial,
        "uri": f"urn:epc:tag:{scheme}:{which}.{prefix}.{reference}.{escaped}",
        "gtin14": with_check_digit(reference[0] + prefix + reference[1:]),
        "epc": epc,
    }


def put_together(given: Mapping[str, Any]) -> bytes:
    """The SGTIN of filter, company_prefix, item_reference and serial. Raises RefusedError."""
    absent = [name for name in ("filter", "company_prefix", "item_reference", "serial") if name not in given]
    if absent:
        raise RefusedError(
            f"{', '.join(absent)} needed: give epc, or filter, company_prefix, item_reference and serial"
        )
    prefix, reference, serial = (given[name] for name in ("company_prefix", "item_reference", "serial"))
    for name, text in (("company_prefix", prefix), ("item_reference", reference)):
        if not isinstance(text, str) or not _DIGITS.fullmatch(text):
            raise RefusedError(f"{name}: {text!r} is not a text of digits")
    partition = 12 - len(prefix)
    if not 0 <= partition < len(_COMPANY_BITS) or len(reference) != 1 + partition:
        raise RefusedError("company_prefix has 6 to 12 digits, company_prefix and item_reference together 13")
    which = given["filter"]
    if type(which) is not int or not 0 <= which <= 7:
        raise RefusedError(f"filter: {which!r} is not 0 to 7")
    scheme = SGTIN_96 if type(serial) is int else SGTIN_198
    header = next(byte for byte, name in _HEADERS.items() if name == scheme)
    code = (header << 6 | which << 3 | partition) << _COMPANY_BITS[partition] | int(prefix)
    code = code << (44 - _COMPANY_BITS[partition]) | int(reference)
    code = code << _SERIAL_BITS[scheme] | _serial_code(serial)
    size = _SIZES[scheme][0]
    return (code << (size * 8 - 58 - _SERIAL_BITS[scheme])).to_bytes(size, "big")


def with_check_digit(digits: str) -> str:
    """The 13 digits and the check digit of GS1: weights 3 and 1 in turn, from the left, up to the next ten."""
    total = sum(int(digit) * (3 if place % 2 == 0 else 1) for place, digit in enumerate(digits))
    return f"{digits}{-total % 10}"


class _Bits:
    """Numbers taken from the front, most significant bit first."""

    def __init__(self, payload: bytes) -> None:
        self._code = int.from_bytes(payload, "big")
        self._left = len(payload) * 8

    def next(self, width: int) -> int:
        """The next `width` bits."""
        self._left -= width
        return self._code >> self._left & (1 << width) - 1

    def rest(self) -> int:
        """What is left, 0 where it only fills up."""
        return self._code & (1 << self._left) - 1


def _characters(code: int) -> str | None:
    """20 characters of 7 bits, zeros at the end; None where that is no serial."""
    text = "".join(chr(code >> shift & 0x7F) for shift in range(133, -7, -7)).rstrip("\0")
    return text if _SERIAL_TEXT.fullmatch(text) else None


def _serial_code(serial: object) -> int:
    if type(serial) is int:
        if not 0 <= serial < 1 << _SERIAL_BITS[SGTIN_96]:
            raise RefusedError(f"serial: {serial} does not fit the 38 bits of an SGTIN-96")
        return serial
    if not isinstance(serial, str) or not _SERIAL_TEXT.fullmatch(serial):
        raise RefusedError(f"serial: {serial!r} is neither a number nor 1 to 20 characters that GS1 allows in a serial")
    return sum(ord(letter) << (133 - 7 * place) for place, letter in enumerate(serial))


def _from_hex(epc: object) -> bytes:
    try:
        payload = bytes.fromhex(epc) if isinstance(epc, str) else b""
    except ValueError:
        payload = b""
    if not payload:
        raise RefusedError(f"epc: {epc!r} is not hex digits")
    return payload


def _meaning(name: str) -> Meaning:
    if name == "epc":
        return Meaning(name=name, role="tag", personal=True)
    return Meaning(name=name, personal=name in _PERSONAL)
