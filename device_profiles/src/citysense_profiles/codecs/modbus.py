"""Maps of registers that somebody polls: which requests fetch them, what the words say, which words say a value.

Owns the plan of reads and the order of words. Talks to nobody. A field whose registers were not read is left out, since
a partial read is normal; a map without any of its registers is not this device's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from citysense_profiles.codecs.contract import Finish, Outgoing, Place, Read
from citysense_profiles.codecs.layout import (
    Collected,
    FieldFault,
    ReadStep,
    WriteStep,
    compile_bits,
    label_of,
    metric_step,
    read_bits,
    value_writer,
)
from citysense_profiles.conversion import Raw, RefusedError, compile_conversion
from citysense_profiles.model import ModbusField, ModbusMessage
from citysense_profiles.reading import Decoded, Value
from citysense_profiles.vocabulary import Vocabulary

Key = tuple[str, int]
MAX_BITS = 2000
"""Most bits that one request of coils or discrete inputs may ask for (Modbus application protocol 1.1b3)."""

_FORMATS = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q", "f32": "f", "f64": "d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Register:
    """One field: its keys in the order of significance, highest word first."""

    label: str
    keys: tuple[Key, ...]
    metrics: frozenset[str]
    words: struct.Struct | None
    number: struct.Struct | None
    read: ReadStep
    write: WriteStep


class ModbusCodec:
    """One register map."""

    def __init__(self, place: Place, finish: Finish, message: ModbusMessage, vocabulary: Vocabulary) -> None:
        self._place = place
        self._finish = finish
        self._fields: list[_Register] = []
        seen: set[str] = set()
        taken: set[Key] = set()
        for position, field in enumerate(message.fields):
            label = label_of(field, position)
            try:
                register = _compile(field, label, message.codec.word_order, vocabulary)
                if seen & register.metrics:
                    raise ValueError("a metric stands twice in one message")
                if not taken.isdisjoint(register.keys):
                    raise ValueError("another field has the same register; use bits for what shares one")
                if len(register.keys) > message.codec.max_count:
                    raise ValueError(f"max_count {message.codec.max_count} is too small to read this field at once")
            except (ValueError, KeyError) as error:
                raise FieldFault(label, str(error.args[0])) from error
            seen |= register.metrics
            taken.update(register.keys)
            self._fields.append(register)
        self.metrics = frozenset(seen)
        self.reads = plan_reads(
            (register.keys for register in self._fields), message.codec.max_gap, message.codec.max_count
        )

    def decode(self, registers: Mapping[Key, int], settings: Mapping[str, float]) -> Decoded:
        """What the registers say. `registers` maps (table, address) to words of 16 bits, or to 0 and 1 for bits."""
        collected = Collected({}, [], {})
        present = 0
        for field in self._fields:
            try:
                words = [registers[key] for key in field.keys]
            except KeyError:
                continue
            present += 1
            try:
                field.read(_number(field, words), collected)
            except RefusedError as error:
                self._place.refuse("value", str(error), field=field.label, offset=None)
        if not present:
            self._place.refuse("no_match", "none of the map's registers was read")
        samples = self._finish.sample(collected.values, collected.missing, settings)
        return Decoded(message=self._place.message, samples=samples)

    def encode(self, values: Mapping[str, Value | None]) -> dict[Key, int]:
        """The words of all fields of which a metric is given."""
        outgoing = Outgoing(values=values)
        registers: dict[Key, int] = {}
        for field in self._fields:
            if field.metrics.isdisjoint(values):
                continue
            try:
                words = _words(field, field.write(outgoing))
            except RefusedError as error:
                self._place.cannot_encode(str(error), field=field.label)
            registers.update(zip(field.keys, words, strict=True))
        return registers


def plan_reads(fields: Iterable[tuple[Key, ...]], max_gap: int, max_count: int) -> tuple[Read, ...]:
    """Few requests that fetch all fields: a field is never torn apart, gaps up to `max_gap` are read along."""
    spans = sorted((keys[0][0], min(key[1] for key in keys), max(key[1] for key in keys)) for keys in fields)
    merged: list[tuple[str, int, int]] = []
    for table, first, last in spans:
        if merged:
            before, start, end = merged[-1]
            limit = MAX_BITS if table in ("coil", "discrete") else max_count
            if before == table and first - end - 1 <= max_gap and max(last, end) - start + 1 <= limit:
                merged[-1] = (table, start, max(last, end))
                continue
        merged.append((table, first, last))
    return tuple(Read(table=table, address=start, count=end - start + 1) for table, start, end in merged)


def _compile(field: ModbusField, label: str, message_order: str, vocabulary: Vocabulary) -> _Register:
    number = struct.Struct(">" + _FORMATS[field.type]) if field.type != "bit" else None
    count = number.size // 2 if number else 1
    if field.address + count > 65536:
        raise ValueError(f"address {field.address} with {count} registers runs past 65535")
    keys = tuple((field.table, field.address + step) for step in range(count))
    if (field.word_order or message_order) == "low_first":
        keys = keys[::-1]
    metrics, read, write = _meaning(field, count, vocabulary)
    words = struct.Struct(f">{count}H") if number else None
    return _Register(label=label, keys=keys, metrics=metrics, words=words, number=number, read=read, write=write)


def _meaning(field: ModbusField, count: int, vocabulary: Vocabulary) -> tuple[frozenset[str], ReadStep, WriteStep]:
    if field.bits is None:
        metric = field.metric or ""
        raw: Raw = "float" if field.type in ("f32", "f64") else "int"
        conversion = compile_conversion(field, vocabulary.metric(metric), raw)
        return frozenset({metric}), metric_step(metric, conversion), value_writer(field, metric, conversion)
    if field.type not in ("u16", "u32", "u64"):
        raise ValueError("bits need u16, u32 or u64")
    reads, write = compile_bits(field.bits, 16 * count, vocabulary)
    metrics = frozenset(metric for metric, *_ in reads)
    if len(metrics) != len(reads):
        raise ValueError("a metric stands twice in one field")
    return metrics, lambda raw, collected: read_bits(reads, raw, collected), write


def _number(field: _Register, words: list[int]) -> int | float:
    if field.number is None or field.words is None:
        if words[0] not in (0, 1):
            raise RefusedError(f"{words[0]!r} is not a bit")
        return int(words[0])
    try:
        number: int | float = field.number.unpack(field.words.pack(*words))[0]
    except struct.error:
        raise RefusedError(f"{words!r} are not words of 16 bits") from None
    return number


def _words(field: _Register, code: float) -> tuple[int, ...]:
    if field.number is None or field.words is None:
        if code not in (0, 1):
            raise RefusedError(f"raw {code} is not a bit")
        return (int(code),)
    try:
        return field.words.unpack(field.number.pack(code))
    except (struct.error, OverflowError):
        raise RefusedError(f"raw {code} does not fit {2 * len(field.keys)} bytes") from None
