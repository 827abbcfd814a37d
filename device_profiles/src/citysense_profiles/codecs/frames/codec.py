"""Messages of bytes, binary and TLV: told apart by their length, by bytes at given places, by the port.

Owns the choice of a message, the text of hex digits that some frames travel as, and the order in which faults are
noticed: another message, too short or too long, check sums, then meaning. The bytes themselves are `Parts`.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from citysense_profiles.codecs.contract import Finish, Named, Place
from citysense_profiles.codecs.field import FieldFault
from citysense_profiles.codecs.frames.items import ItemsPart
from citysense_profiles.codecs.frames.parts import Parts
from citysense_profiles.codecs.frames.quick import Quick, compile_quick
from citysense_profiles.codecs.sinks import ByName, Readings
from citysense_profiles.errors import DecodeCode
from citysense_profiles.format.binary import BinaryWhen, Items, Part
from citysense_profiles.format.profile_file import BinaryMessage, TlvMessage
from citysense_profiles.reading import Decoded
from citysense_profiles.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class TextPlace(Place):
    """A frame that travels as hex digits: offsets count its characters."""

    def refuse(self, code: DecodeCode, text: str, *, field: str | None = None, offset: int | None = None) -> NoReturn:
        """The same, with two characters for each byte."""
        # No super(): a slotted dataclass is made anew, and super() would still mean the class before.
        Place.refuse(self, code, text, field=field, offset=None if offset is None else 2 * offset)


class BinaryCodec:
    """One message, up or down."""

    def __init__(self, place: Place, finish: Finish, entry: BinaryMessage | TlvMessage, vocabulary: Vocabulary) -> None:
        self._wrapped = isinstance(entry, BinaryMessage) and entry.codec.wrap == "hex_text"
        self._outside = place
        self._place = TextPlace(place.profile, place.message) if self._wrapped else place
        self._finish = finish
        length_order = entry.codec.length_order if isinstance(entry, TlvMessage) else None
        self._parts = Parts(self._place, _entries(entry), entry.codec.byte_order, vocabulary, length_order=length_order)
        self._items: ItemsPart | None = self._parts.items if isinstance(entry, TlvMessage) else None
        self._admission = _Admission(entry.when, self._parts)
        self._size = self._parts.size
        self._quick: Quick | None = None
        if self._parts.flat is not None and not self._wrapped and self._admission.pinned is not None:
            self._quick = compile_quick(
                self._parts.flat,
                entry.codec.byte_order,
                vocabulary,
                frozenset(),
                whole=True,
                pinned=self._admission.pinned,
            )
        self.fields = self._parts.fields
        self.metrics = frozenset(field.metric for field in self.fields if field.metric is not None)

    def fits(self, payload: bytes, port: int | None) -> bool:
        """Port, length and all matched bytes agree; items begin with a known tag."""
        if self._wrapped:
            try:
                payload = binascii.unhexlify(payload)
            except binascii.Error:
                return False
        fits = self._admission.fits(payload, port)
        return fits and (self._items is None or self._items.begins(payload))

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """The readings; the content format says nothing about bytes."""
        quick = self._quick
        if quick is not None and len(payload) == self._size:
            values: dict[str, Any] = {}
            missing: list[str] = []
            roles: dict[str, Any] = {}
            if quick.fill(payload, 0, values, missing, roles, {}):
                message = self._place.message
                if not roles:
                    return Decoded(message=message, samples=self._finish.sample(values, missing, settings))
                return Decoded(
                    message=message,
                    samples=self._finish.sample(
                        values, missing, settings, time=roles.get("time"), tag=roles.get("tag")
                    ),
                    boot=roles.get("boot"),
                    seq=roles.get("seq"),
                    serial=roles.get("serial"),
                )
        readings = Readings(self._finish, settings)
        self._walk(payload, readings)
        return readings.decoded(self._place.message)

    def decode_fields(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Named:
        """Everything by name; `where` counts bytes, or characters of a text of hex digits."""
        names = ByName(settings)
        self._walk(payload, names)
        named = names.named(self._place.message)
        if not self._wrapped:
            return named
        return Named(message=named.message, values=named.values, where=_doubled(named.where))

    def encode_fields(self, values: Mapping[str, Any], content: int | None, settings: Mapping[str, float]) -> bytes:
        """The frame that says this, by name."""
        frame = self._parts.write(values, settings)
        if not frame:
            self._place.cannot_encode("no value of this message is given, so there is nothing to send")
        return frame.hex().upper().encode("ascii") if self._wrapped else frame

    def _walk(self, payload: bytes, sink: Readings | ByName) -> None:
        if self._wrapped:
            try:
                payload = binascii.unhexlify(payload)
            except binascii.Error as error:
                self._outside.refuse("shape", f"this is no text of hex digits: {error}")
        self._admission.check(payload, self._place)
        at = self._parts.read(payload, 0, len(payload), sink)
        if at != len(payload):
            self._place.refuse("trailing", f"{len(payload) - at} bytes are left over", offset=at)


class _Admission:
    """What tells the message from others."""

    def __init__(self, when: BinaryWhen, parts: Parts) -> None:
        self._ports = _listed(when.port)
        self._lengths = _listed(when.length)
        self._shortest = max(when.shortest or 0, parts.shortest, 1)
        self._longest = parts.size
        self._match = tuple(
            (match.at, frozenset([match.equals] if isinstance(match.equals, int) else match.equals))
            for match in when.match
        )
        if parts.size is not None and self._shortest > max(parts.size, 1):
            raise ValueError(f"when.shortest is {when.shortest}, the fields make {parts.size} bytes")
        for length in self._lengths:
            if length < parts.shortest or (parts.size is not None and length != parts.size):
                raise ValueError(f"when.length is {length}, the fields make {parts.size or parts.shortest} bytes")
        if parts.size is not None and any(not -parts.size <= at < parts.size for at, _ in self._match):
            raise ValueError(f"when.match lies outside the {parts.size} bytes of the message")

    @property
    def pinned(self) -> dict[int, int] | None:
        """The matched bytes by offset, where the message has one size and each must have one value."""
        if self._longest is None:
            return None
        found: dict[int, int] = {}
        for at, allowed in self._match:
            byte = next(iter(allowed))
            if len(allowed) != 1 or found.setdefault(at % self._longest, byte) != byte:
                return None
        return found

    def fits(self, payload: bytes, port: int | None) -> bool:
        """A look at port, length and matched bytes."""
        size = len(payload)
        if self._ports and port is not None and port not in self._ports:
            return False
        if size < self._shortest or (self._longest is not None and size != self._longest):
            return False
        if self._lengths and size not in self._lengths:
            return False
        return all(-size <= at < size and payload[at] in allowed for at, allowed in self._match)

    def check(self, payload: bytes, place: Place) -> None:
        """Refuse what another message would be, then what is too short or too long."""
        size = len(payload)
        for at, allowed in self._match:
            if not -size <= at < size:
                place.refuse("truncated", f"{size} bytes, the one at {at} is missing", offset=size)
            if payload[at] not in allowed:
                words = " or ".join(f"{byte:02X}" for byte in sorted(allowed))
                place.refuse("no_match", f"byte is {payload[at]:02X}, this message has {words}", offset=at % size)
        longest = self._longest if self._longest is not None else max(self._lengths, default=None)
        if size < self._shortest:
            place.refuse("truncated", f"{size} bytes, the message has at least {self._shortest}", offset=size)
        if longest is not None and size > longest:
            place.refuse("trailing", f"{size} bytes, the message has at most {longest}", offset=longest)
        if self._lengths and size not in self._lengths:
            words = " or ".join(map(str, sorted(self._lengths)))
            place.refuse("truncated", f"{size} bytes, the message has {words}", offset=size)


def _entries(entry: BinaryMessage | TlvMessage) -> Sequence[Part]:
    if isinstance(entry, BinaryMessage):
        return entry.fields
    codec = entry.codec
    if codec.unknown == "skip" and codec.length is None:
        raise FieldFault("unknown", "unknown items can be skipped only where the wire says their length")
    return [
        Items(
            items=entry.items,
            significant=codec.significant,
            length=codec.length,
            unknown=codec.unknown,
        )
    ]


def _listed(entry: int | list[int] | None) -> frozenset[int]:
    return frozenset(() if entry is None else [entry] if isinstance(entry, int) else entry)


def _doubled(where: Any) -> Any:
    """Bytes as characters: twice as many."""
    if isinstance(where, Mapping):
        return {name: _doubled(inner) for name, inner in where.items()}
    if isinstance(where, list):
        return [_doubled(inner) for inner in where]
    return None if where is None else 2 * where
