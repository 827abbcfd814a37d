"""What somebody typed as a frame: hex, JSON, registers, or a read request of a serial line.

Owns telling them apart, by the profile's messages and by their looks. Decodes nothing.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from citysense.errors import WrongUse
from citysense_profiles.format.profile_file import BinaryMessage, Message, ModbusMessage
from citysense_profiles.format.registers import Table

_TABLES = get_args(Table)
_ADDRESS = re.compile(r"\d{1,5}", re.ASCII)
_SEPARATORS = re.compile(r"[\s:,-]+|(?<![0-9A-Fa-f])0[xX]")


@dataclass(frozen=True, slots=True)
class Bytes:
    """A frame. `request`: it may be a Modbus read request; `certain`, it can be nothing else.

    `as_text`: the frame where what was typed is the text that travels, for profiles that have such a message.
    """

    payload: bytes
    request: bool
    certain: bool
    as_text: bytes | None = None


@dataclass(frozen=True, slots=True)
class Registers:
    """(table, address) -> word."""

    words: Mapping[tuple[str, int], int]


def raw_text(argument: str) -> bytes:
    """The argument itself, standard input for -, or a file for @FILE. Raises WrongUse where that cannot be read."""
    if argument == "-":
        return sys.stdin.buffer.read()
    if not argument.startswith("@"):
        return os.fsencode(argument)  # bytes that are no text arrive as they were typed
    try:
        return Path(argument[1:]).read_bytes()
    except OSError as error:
        raise WrongUse(f"{argument}: the file cannot be read: {error.strerror or error}") from error


def json_object(argument: str) -> dict[str, Any]:
    """The JSON object that an argument holds. Raises WrongUse."""
    try:
        value = json.loads(raw_text(argument))
    except (ValueError, RecursionError) as error:  # no JSON, no text at all, or brackets without end
        raise WrongUse(f"the values are not JSON: {error}") from error
    if not isinstance(value, dict):
        raise WrongUse('the values are a JSON object, such as {"name": 1}')
    return value


def understand(raw: bytes, messages: Collection[Message]) -> Bytes | Registers:
    """What was typed, for one of these messages. Raises WrongUse where it is nothing of the kind."""
    modbus = any(isinstance(entry, ModbusMessage) for entry in messages)
    others = any(not isinstance(entry, ModbusMessage) for entry in messages)
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError:
        return Bytes(raw, modbus, not others)  # a file with the frame itself
    if text.startswith(("{", "[")):
        if modbus:
            document = _document(text)
            if not others or (isinstance(document, dict) and document and document.keys() <= set(_TABLES)):
                return Registers(registers_of(document))
        return Bytes(text.encode(), False, False)
    digits = _SEPARATORS.sub("", text)
    try:
        payload = bytes.fromhex(digits)
    except ValueError as error:
        raise WrongUse(
            f"{text[:40]!r} is neither pairs of hex digits nor JSON; write 01 75 5c, or @FILE for a file"
        ) from error
    wrapped = any(isinstance(entry, BinaryMessage) and entry.codec.wrap == "hex_text" for entry in messages)
    return Bytes(payload, modbus, not others, digits.encode() if wrapped else None)


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WrongUse(f"the registers are not JSON: {error}") from error


def registers_of(document: Any) -> dict[tuple[str, int], int]:
    """{"input": {"100": 3, "104": [0, 11500]}}: a word, or words from that address on. Raises WrongUse."""
    if not isinstance(document, dict):
        raise WrongUse('registers are written {"input": {"100": 3, "104": [0, 11500]}}')
    found: dict[tuple[str, int], int] = {}
    for table, runs in document.items():
        if table not in _TABLES or not isinstance(runs, dict):
            raise WrongUse(f"{table}: a table is one of {', '.join(_TABLES)}, and holds addresses")
        for first, words in runs.items():
            for step, word in enumerate(words if isinstance(words, list) else [words]):
                found[table, _address(table, first) + step] = _word(table, first, word)
    return found


def _address(table: str, written: str) -> int:
    if not _ADDRESS.fullmatch(written) or int(written) > 65535:
        raise WrongUse(f"{table} {written[:40]}: an address is a decimal number from 0 to 65535")
    return int(written)


def _word(table: str, first: str, word: Any) -> int:
    highest = 1 if table in ("coil", "discrete") else 65535
    if isinstance(word, bool) and highest == 1:
        return int(word)
    if type(word) is not int or not 0 <= word <= highest:
        raise WrongUse(f"{table} {first}: {word!r} is not a whole number from 0 to {highest}")
    return word
