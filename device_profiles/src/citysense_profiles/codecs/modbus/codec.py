"""Maps of registers that somebody polls or writes: what the words say, which words say a value, which requests do it.

Owns fields at addresses. Talks to nobody. A field whose registers were not read is left out, since a partial read is
normal; a map without any of its registers is not this device's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from citysense_profiles.codecs.bits import Bits, RefusedPart, compile_bits
from citysense_profiles.codecs.contract import Finish, Named, Place, Read, Write
from citysense_profiles.codecs.field import Field, FieldFault, compile_field, label_of, with_null
from citysense_profiles.codecs.modbus.fast import FastMap, compile_fast
from citysense_profiles.codecs.modbus.plan import BIT_TABLES, MOST_WRITTEN, Key, plan_reads, plan_writes
from citysense_profiles.codecs.modbus.register_types import RegisterSlot, compile_slot
from citysense_profiles.codecs.sinks import ByName, Readings, Sink, numbers_from, numbers_of
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import FromField
from citysense_profiles.format.profile_file import ModbusMessage
from citysense_profiles.format.registers import ModbusField
from citysense_profiles.reading import Decoded
from citysense_profiles.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """One field of a map, or one number that bits take apart. `keys` stand in the order of significance."""

    label: str
    keys: tuple[Key, ...]
    where: str
    slot: RegisterSlot
    field: Field | None
    bits: Bits | None
    readable: bool
    writable: bool

    @property
    def fields(self) -> tuple[Field, ...]:
        """What has a name here: the field, or the parts."""
        return self.bits.fields if self.bits is not None else (self.field,) if self.field is not None else ()


class ModbusCodec:
    """One register map."""

    def __init__(self, place: Place, finish: Finish, entry: ModbusMessage, vocabulary: Vocabulary) -> None:
        self._place = place
        self._finish = finish
        self._down = entry.direction == "down"
        self._single = entry.codec.write == "single"
        self._one_value = entry.codec.one_value
        self._registers = tuple(self._compiled(entry, vocabulary))
        self._read = tuple(register for register in self._registers if register.readable)
        self.fields = tuple(field for register in self._registers for field in register.fields)
        self.metrics = frozenset(field.metric for field in self.fields if field.metric is not None)
        self.unit = entry.codec.unit
        self.resend_every = entry.codec.resend_every
        polled = (
            register.keys
            for register, field in zip(self._registers, entry.fields, strict=True)
            if field.access == "rw" or (field.access == "r" and not self._down)
        )
        self.reads: tuple[Read, ...] = plan_reads(
            polled, max_gap=entry.codec.max_gap, max_count=entry.codec.max_count, one_value=entry.codec.one_value
        )
        self._referred = frozenset(
            need.field for field in self.fields for need in field.needs if isinstance(need, FromField)
        )
        self._fast: FastMap | None = compile_fast(
            [(register.keys, register.slot, register.field, register.bits) for register in self._read], vocabulary
        )

    def _compiled(self, entry: ModbusMessage, vocabulary: Vocabulary) -> Iterator[Register]:
        taken: set[Key] = set()
        metrics: set[str] = set()
        for position, field in enumerate(entry.fields):
            label = label_of(field, position)
            try:
                register = _compile(field, label, entry, vocabulary)
                if not self._down:
                    _refuse_twice(register, taken, metrics)
            except FieldFault:
                raise
            except (ValueError, KeyError) as fault:
                raise FieldFault(label, str(fault.args[0])) from fault
            yield register

    def decode(self, registers: Mapping[Key, int], settings: Mapping[str, float]) -> Decoded:
        """What the registers say. `registers` maps (table, address) to words of 16 bits, or to 0 and 1 for bits."""
        if self._fast is not None:
            found = self._fast(registers)
            if found is not None:
                samples = self._finish.sample(*found, settings)
                return Decoded(message=self._place.message, samples=samples)
        sink = Readings(self._finish, settings)
        self._walk(registers, sink)
        return sink.decoded(self._place.message)

    def decode_fields(self, registers: Mapping[Key, int], settings: Mapping[str, float]) -> Named:
        """Every value by name; `where` is table and first address, such as "input:100"."""
        sink = ByName(settings)
        self._walk(registers, sink)
        return sink.named(self._place.message)

    def _walk(self, registers: Mapping[Key, int], sink: Sink) -> None:
        present = False
        for register in self._read:
            try:
                words = [registers[key] for key in register.keys]
            except KeyError:
                continue
            present = True
            try:
                self._take(register, register.slot.read(words), sink)
            except RefusedError as error:
                self._place.refuse("value", str(error), field=_at_fault(error, register))
        if not present:
            self._place.refuse("no_match", "none of the map's registers was read")

    def _take(self, register: Register, code: Any, sink: Sink) -> None:
        if not _computable(register, sink):
            return
        if register.bits is not None:
            register.bits.read(code, sink, register.where)
            codes = [(part.field, part.code_in(code)) for part in register.bits.parts] if self._referred else []
        else:
            codes = [(field, code) for field in register.fields]
            for field, code in codes:
                sink.take(field, code, register.where)
        for field, code in codes:
            if field.name in self._referred:
                sink.kept[field.name] = field.shown(code, *numbers_of(field, sink))

    def encode_fields(self, values: Mapping[str, Any], settings: Mapping[str, float]) -> dict[Key, int]:
        """The words of all fields of which a value is given, or that have a default."""
        words: dict[Key, int] = {}
        for _, part in self._written(values, settings):
            words.update(part)
        return words

    def plan_writes(self, values: Mapping[str, Any], settings: Mapping[str, float]) -> tuple[Write, ...]:
        """The requests that write the values given and the defaults of the rest, in order of table and address."""
        chosen: dict[tuple[Key, ...], dict[Key, int]] = {}
        for register, words in self._written(values, settings):
            if register.writable:
                chosen[tuple(words)] = words
            elif any(field.name in values for field in register.fields):
                self._place.cannot_encode("this register can only be read", field=register.label)
        if not chosen:
            can = ", ".join(field.name for one in self._registers if one.writable for field in one.fields)
            self._place.cannot_encode(f"nothing to write; this message writes {can or 'nothing at all'}")
        return plan_writes(chosen.values(), single=self._single, one_value=self._one_value)

    def _written(
        self, values: Mapping[str, Any], settings: Mapping[str, float]
    ) -> Iterator[tuple[Register, dict[Key, int]]]:
        """Registers with their words by address: what the caller gives first, then defaults where nothing stands."""
        kept = {field.name: values.get(field.name, field.default) for field in self.fields}
        taken: dict[Key, int] = {}
        for register in self._registers:
            if any(field.name in values for field in register.fields):
                words = self._words(register, values, settings, kept)
                clash = next((key for key, word in words.items() if taken.get(key, word) != word), None)
                if clash is not None:
                    self._place.cannot_encode(
                        f"another value given writes something else to {clash[0]} {clash[1]}; give one of them",
                        field=register.label,
                    )
                taken.update(words)
                yield register, words
        for register in self._registers:
            if taken.keys().isdisjoint(register.keys) and all(field.default is not None for field in register.fields):
                words = self._words(register, values, settings, kept)
                taken.update(words)
                yield register, words

    def _words(
        self, register: Register, values: Mapping[str, Any], settings: Mapping[str, float], kept: Mapping[str, Any]
    ) -> dict[Key, int]:
        try:
            if register.bits is not None:
                code: Any = register.bits.write(values, settings, kept)
            elif register.field is not None:
                code = register.field.code_of(values, *numbers_from(register.field, settings, kept))
            return dict(zip(register.keys, register.slot.write(code), strict=True))
        except RefusedError as error:
            self._place.cannot_encode(str(error), field=_at_fault(error, register))


def _computable(register: Register, sink: Sink) -> bool:
    """False where a register that the value is computed with was not read."""
    needs = (need for field in register.fields for need in field.needs)
    return all(need.field in sink.kept for need in needs if isinstance(need, FromField))


def _at_fault(error: RefusedError, register: Register) -> str:
    return error.field if isinstance(error, RefusedPart) else register.label


def _refuse_twice(register: Register, taken: set[Key], metrics: set[str]) -> None:
    """Adds the register to what is taken already. Raises ValueError where it shares an address or a metric."""
    if not taken.isdisjoint(register.keys):
        raise ValueError("another field has the same register; use bits for what shares one")
    taken.update(register.keys)
    for metric in (field.metric for field in register.fields if field.metric is not None):
        if metric in metrics:
            raise ValueError(f"metric {metric} stands twice in one message")
        metrics.add(metric)


def _compile(field: ModbusField, label: str, entry: ModbusMessage, vocabulary: Vocabulary) -> Register:
    codec, down = entry.codec, entry.direction == "down"
    slot = compile_slot(field)
    first = field.address + codec.shift
    if not 0 <= first <= 65536 - slot.words:
        shifted = f" shifted by {codec.shift}" if codec.shift else ""
        raise ValueError(f"address {field.address}{shifted} with {slot.words} registers is not within 0 to 65535")
    keys: tuple[Key, ...] = tuple((field.table, first + step) for step in range(slot.words))
    order = field.word_order or (codec.word_order if slot.numeric else "high_first")
    writable = down or field.access != "r"
    if writable and field.table not in MOST_WRITTEN:
        raise ValueError(f"{field.table} can only be read; what is written stands in coil or holding")
    if writable and slot.words > MOST_WRITTEN[field.table]:
        raise ValueError(f"{slot.words} registers are more than one request writes ({MOST_WRITTEN[field.table]})")
    if slot.words > codec.max_count and field.table not in BIT_TABLES:
        raise ValueError(f"max_count {codec.max_count} is too small to read this field at once")
    bits, compiled = None, None
    if field.bits is not None:
        if field.type not in ("u16", "u32", "u64"):
            raise ValueError("bits need u16, u32 or u64")
        bits = compile_bits(field.bits, 16 * slot.words, vocabulary, prefix="", depth=0)
    else:
        compiled = _compile_value(field, slot, vocabulary)
    return Register(
        label=label,
        keys=keys[::-1] if order == "low_first" else keys,
        where=f"{field.table}:{first}",
        slot=slot,
        field=compiled,
        bits=bits,
        readable=down or field.access != "w",
        writable=writable,
    )


def _compile_value(field: ModbusField, slot: RegisterSlot, vocabulary: Vocabulary) -> Field:
    compiled = compile_field(field, slot.raw, vocabulary, null=slot.can_be_missing, single_bit=field.type == "bit")
    return with_null(compiled) if slot.can_be_missing else compiled
