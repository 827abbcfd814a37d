"""A run of fields with fixed sizes: one struct, read and written from the same entries.

Owns the compiled form of binary fields: constants, plain numbers (inlined), everything else as small closures, bits,
check sums. A whole binary message is one layout; each kind of TLV item is one, too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from citysense_profiles.codecs.checksum import CHECKSUMS
from citysense_profiles.codecs.contract import Outgoing, Place
from citysense_profiles.codecs.moment import FROM_MILLISECONDS, TO_MILLISECONDS
from citysense_profiles.codecs.slots import Order, Slot, compile_slot
from citysense_profiles.conversion import Conversion, Raw, RefusedError, compile_conversion
from citysense_profiles.model import BinaryField, BitField, Meaning
from citysense_profiles.reading import Value
from citysense_profiles.vocabulary import Vocabulary


@dataclass(slots=True)
class Collected:
    """What the fields of one frame gave so far."""

    values: dict[str, Value]
    missing: list[str]
    roles: dict[str, Any]


ReadStep = Callable[[Any, Collected], None]
WriteStep = Callable[[Outgoing], Any]


class FieldFault(ValueError):
    """A field description that means nothing; carries the field's label for the author."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True)
class _Check:
    """A check sum field: covers payload[at + start : at + end]."""

    start: int
    end: int
    store: struct.Struct
    sum: Callable[[bytes], int]


class Layout:
    """Compiled fields. `size` in bytes; `metrics` in order of the fields."""

    def __init__(self, place: Place, fields: list[BinaryField], order: Order, vocabulary: Vocabulary) -> None:
        self._place = place
        self.metrics: list[str] = []
        self.roles: list[str] = []
        self._consts: list[tuple[int, int, int, str]] = []
        self._plain: list[tuple[int, str, int, int, int]] = []
        self._steps: list[tuple[int, ReadStep, str, int]] = []
        self._writers: list[tuple[WriteStep, str]] = []
        self._checks: list[_Check] = []
        formats: list[str] = []
        self.size = 0
        for position, field in enumerate(fields):
            label = label_of(field, position)
            try:
                slot = self._add(field, label, len(formats), order, vocabulary)
            except (ValueError, KeyError) as error:
                raise FieldFault(label, str(error.args[0])) from error
            formats.append(slot.format)
            self.size += slot.size
        self._struct = struct.Struct((">" if order == "big" else "<") + "".join(formats))

    def _add(self, field: BinaryField, label: str, index: int, order: Order, vocabulary: Vocabulary) -> Slot:
        if field.skip is not None:
            fill = field.fill or bytes(field.skip)
            self._writers.append((lambda outgoing: fill, label))
            return Slot(format=f"{field.skip}s", size=field.skip, raw="text")
        slot = compile_slot(field, order, order)
        if field.const is not None:
            const = slot.check(field.const)
            self._consts.append((index, self._object(slot, const), self.size, label))
            self._writers.append((lambda outgoing: self._object(slot, const), label))
        elif field.checksum is not None:
            self._add_checksum(field, slot, label, order)
        elif field.bits is not None:
            self._add_bits(field.bits, slot, label, index, vocabulary)
        elif field.role is not None:
            self._add_role(field, slot, label, index)
        else:
            self._add_metric(field, slot, label, index, vocabulary)
        return slot

    @staticmethod
    def _object(slot: Slot, code: Any) -> Any:
        return slot.store(slot.check(code)) if slot.store else slot.check(code)

    def _add_checksum(self, field: BinaryField, slot: Slot, label: str, order: Order) -> None:
        if field.checksum is None or slot.raw != "int" or slot.size != 2:
            raise ValueError("a crc16 check sum has type u16")
        if field.checksum.start >= self.size:
            raise ValueError(f"checksum from {field.checksum.start} covers nothing before byte {self.size}")
        store = struct.Struct((">" if (field.byte_order or order) == "big" else "<") + "H")
        self._checks.append(_Check(field.checksum.start, self.size, store, CHECKSUMS[field.checksum.kind]))
        zero = self._object(slot, 0)
        self._writers.append((lambda outgoing: zero, label))

    def _add_metric(self, field: BinaryField, slot: Slot, label: str, index: int, vocabulary: Vocabulary) -> None:
        metric = field.metric or ""
        conversion = compile_conversion(field, vocabulary.metric(metric), slot.raw)
        self._claim(metric)
        if conversion.plain is not None and slot.load is None:
            way = conversion.plain
            self._plain.append((index, metric, way.p, way.b, way.q))
        else:
            self._steps.append((index, metric_step(metric, conversion, slot.load), label, self.size))
        write = value_writer(field, metric, conversion)
        self._writers.append((lambda outgoing: self._object(slot, write(outgoing)), label))

    def _claim(self, metric: str) -> None:
        if metric in self.metrics:
            raise ValueError(f"metric {metric} stands twice in one message")
        self.metrics.append(metric)

    def _add_role(self, field: BinaryField, slot: Slot, label: str, index: int) -> None:
        role = field.role or ""
        if role in self.roles:
            raise ValueError(f"role {role} stands twice in one message")
        self.roles.append(role)
        read, write = compile_role(field, slot.raw)
        load = slot.load

        def step(raw: Any, collected: Collected) -> None:
            collected.roles[role] = read(load(raw) if load else raw)

        self._steps.append((index, step, label, self.size))
        self._writers.append((lambda outgoing: self._object(slot, write(outgoing)), label))

    def _add_bits(self, bits: list[BitField], slot: Slot, label: str, index: int, vocabulary: Vocabulary) -> None:
        if slot.raw != "int" or slot.lowest < 0:
            raise ValueError("bits need an unsigned type")
        reads, write = compile_bits(bits, 8 * slot.size, vocabulary)
        for metric, *_ in reads:
            self._claim(metric)
        load = slot.load

        def step(raw: Any, collected: Collected) -> None:
            read_bits(reads, load(raw) if load else raw, collected)

        self._steps.append((index, step, label, self.size))
        self._writers.append((lambda outgoing: self._object(slot, write(outgoing)), label))

    def read(self, payload: bytes, at: int, collected: Collected) -> None:
        """Collect what the bytes from `at` on say; the caller has made sure that `size` bytes are there."""
        for check in self._checks:
            end = at + check.end
            found = check.store.unpack_from(payload, end)[0]
            expected = check.sum(payload[at + check.start : end])
            if found != expected:
                self._place.refuse(
                    "checksum", f"check sum is {found:04X}, the bytes give {expected:04X}", field="checksum", offset=end
                )
        raws = self._struct.unpack_from(payload, at)
        for index, const, offset, label in self._consts:
            if raws[index] != const:
                self._place.refuse(
                    "shape", f"{raws[index]!r} stands where {const!r} must", field=label, offset=at + offset
                )
        values = collected.values
        for index, metric, p, b, q in self._plain:
            values[metric] = (raws[index] * p + b) / q
        label, offset = "", 0
        try:
            for index, step, label, offset in self._steps:  # noqa: B007 - named in the except below
                step(raws[index], collected)
        except RefusedError as error:
            self._place.refuse("value", str(error), field=label, offset=at + offset)

    def write(self, outgoing: Outgoing) -> bytes:
        """The bytes of all fields, check sums included."""
        objects = []
        label = ""
        try:
            for writer, label in self._writers:  # noqa: B007 - named in the except below
                objects.append(writer(outgoing))
        except RefusedError as error:
            self._place.cannot_encode(str(error), field=label)
        frame = bytearray(self._struct.pack(*objects))
        for check in self._checks:
            check.store.pack_into(frame, check.end, check.sum(bytes(frame[check.start : check.end])))
        return bytes(frame)


def label_of(field: Meaning, position: int) -> str:
    """How errors call a field: its name, metric or role, else its place in the list."""
    return field.name or field.metric or field.role or f"#{position}"


def metric_step(metric: str, conversion: Conversion, load: Callable[[Any], Any] | None = None) -> ReadStep:
    """Collects a metric from a raw object; `load` makes the raw code of it where the two differ."""
    decode = conversion.decode

    def step(raw: Any, collected: Collected) -> None:
        value = decode(load(raw) if load else raw)
        if value is None:
            collected.missing.append(metric)
        else:
            collected.values[metric] = value

    return step


def value_writer(field: Meaning, metric: str, conversion: Conversion) -> WriteStep:
    """What to write for a metric: the caller's value, else the field's default, else its mark for "no value"."""
    default, encode = field.default, conversion.encode
    if default is not None:
        try:
            encode(default)
        except RefusedError as error:
            raise ValueError(f"default: {error}") from error

    def write(outgoing: Outgoing) -> Any:
        if metric in outgoing.values:
            return encode(outgoing.values[metric])
        if default is not None:
            return encode(default)
        if conversion.can_be_missing:
            return encode(None)
        raise RefusedError(f"{metric} is needed: the field has neither a default nor a mark for a missing value")

    return write


def compile_role(field: Meaning, raw: Raw) -> tuple[Callable[[Any], Any], WriteStep]:
    """Reader and writer of a role. Raises ValueError where the raw type cannot carry it."""
    role = field.role or ""
    if field.map or field.invalid or field.scale != 1 or field.offset != 0 or field.unit:
        raise ValueError(f"role {role} takes no scale, offset, unit, map or invalid")
    if role == "time" and field.form is not None:
        if (raw == "text") != (field.form == "rfc3339"):
            raise ValueError(f"form {field.form} cannot be carried by a raw {raw}")
        to_milliseconds, from_milliseconds = TO_MILLISECONDS[field.form], FROM_MILLISECONDS[field.form]
        truncate = raw == "int"

        def write_time(outgoing: Outgoing) -> Any:
            written = from_milliseconds(_needed(outgoing, "time"))
            return int(written) if truncate else written

        return to_milliseconds, write_time
    wanted: Raw = "text" if role in ("tag", "serial") else "int"
    if raw != wanted:
        raise ValueError(f"role {role} is carried by {wanted}, not by a raw {raw}")
    return lambda code: code, lambda outgoing: _needed(outgoing, role)


def _needed(outgoing: Outgoing, role: str) -> Any:
    given = outgoing.role(role)
    if given is None:
        raise RefusedError(f"{role} is needed")
    return given


BitRead = tuple[str, int, int, Callable[[Any], Value | None]]


def compile_bits(bits: list[BitField], width: int, vocabulary: Vocabulary) -> tuple[list[BitRead], WriteStep]:
    """Reader and writer of metrics packed into one number of `width` bits. Bits of nobody are 0 when written."""
    reads: list[BitRead] = []
    writes: list[tuple[int, int, WriteStep]] = []
    taken = 0
    for part in bits:
        mask = (1 << part.width) - 1
        if part.metric is None or part.role is not None:
            raise ValueError("each entry of bits has a metric")
        if part.bit + part.width > width:
            raise ValueError(f"bit {part.bit} width {part.width} lies outside {width} bits")
        if taken & (mask << part.bit):
            raise ValueError(f"bits of {part.metric} overlap another entry")
        taken |= mask << part.bit
        conversion = compile_conversion(part, vocabulary.metric(part.metric), "int")
        reads.append((part.metric, part.bit, mask, conversion.decode))
        writes.append((part.bit, mask, value_writer(part, part.metric, conversion)))

    def write(outgoing: Outgoing) -> int:
        number = 0
        for bit, mask, writer in writes:
            code = writer(outgoing)
            if not 0 <= code <= mask:
                raise RefusedError(f"raw {code} does not fit the bits (0 to {mask})")
            number |= code << bit
        return number

    return reads, write


def read_bits(reads: list[BitRead], number: int, collected: Collected) -> None:
    """Collect the metrics packed into `number`. Raises RefusedError naming the metric."""
    for metric, bit, mask, decode in reads:
        try:
            value = decode((number >> bit) & mask)
        except RefusedError as error:
            raise RefusedError(f"{metric}: {error}") from None
        if value is None:
            collected.missing.append(metric)
        else:
            collected.values[metric] = value
