"""A compiled profile: decodes and encodes the frames of one product, from one set of entries.

Owns the choice of a message and the public interface of this package. Pure: no clock, no I/O; nothing about it changes
after construction but the variants it has compiled so far, so it may be shared between threads. `compiler.py` builds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from citysense_profiles.codecs.contract import NO_SETTINGS, Message, Named, Read, RegisterMap, Write
from citysense_profiles.codecs.documents.native import LARGEST_COUNT
from citysense_profiles.codecs.field import Field, Outgoing, by_name
from citysense_profiles.errors import DecodeError, EncodeError, ProfileError, RefusedError, SettingError
from citysense_profiles.format.profile_file import OptionEntry, ProfileFile
from citysense_profiles.options import Choice, choices_in
from citysense_profiles.reading import Decoded, Value
from citysense_profiles.values.moment import LATEST

_MOST_BITS = 1024
"""What a double holds; longer numbers mean nothing, and Python refuses to print the longest."""
_MOST_LISTS = 8
Registers = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A parameter of one device that an installer enters, in the given unit. `low` and `high` are what is sensible."""

    name: str
    title: str
    unit: str
    default: float | None
    required: bool
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Codecs:
    """The compiled messages of a profile, in the order of the file: sent upward, sent downward, polled or written."""

    up: Mapping[str, Message]
    down: Mapping[str, Message]
    registers: Mapping[str, RegisterMap]


class Profile:
    """One product's messages.

    `file` holds the entries as they were written; `chosen` the options in force. `report_every` is in seconds;
    `metrics` are all that it can give, derived ones included.
    """

    def __init__(
        self,
        file: ProfileFile,
        codecs: Codecs,
        *,
        settings: Mapping[str, Setting],
        derived: frozenset[str],
        personal: bool,
        chosen: Mapping[str, Choice],
        variant: Callable[[Mapping[str, Choice]], Profile],
    ) -> None:
        self.file = file
        self.id = file.id
        self.kind: str = file.kind
        self.title = file.title
        self.product = file.product
        self.caveats = tuple(caveat.text for caveat in file.caveats)
        self.native = any(entry.codec.type == "native" for entry in file.messages.values())
        self.personal = personal
        self.transports = frozenset(file.transport.model_fields_set)
        self.mqtt_topics = tuple(file.transport.mqtt.topics) if file.transport.mqtt else ()
        self.settings = settings
        self.options: Mapping[str, OptionEntry] = file.options
        self.report_every = file.report_every
        self.vectors = tuple(file.vectors)
        self.chosen = dict(chosen)
        self._variant = variant
        self._variants: dict[tuple[Choice, ...], Profile] = {tuple(chosen.values()): self}
        self._up = dict(codecs.up)
        self._sent: dict[str, Message] = {**codecs.up, **codecs.down}
        self._registers = dict(codecs.registers)
        self._polled = {name: one for name, one in self._registers.items() if file.messages[name].direction == "up"}
        self._ported = frozenset(
            name for name in self._up if getattr(getattr(file.messages[name], "when", None), "port", None) is not None
        )
        self._derived = derived
        self._defaults = {name: one.default for name, one in settings.items() if one.default is not None}
        every: list[Message | RegisterMap] = [*self._sent.values(), *self._registers.values()]
        self.metrics = derived.union(*(message.metrics for message in every))

    @property
    def messages(self) -> tuple[str, ...]:
        """Names of all messages, up and down and polled, in the order of the file."""
        return tuple(self.file.messages)

    def is_upward(self, message: str) -> bool:
        """Whether devices send this message by themselves, as against commands to them and maps that are polled."""
        return message in self._up

    def is_sent(self, message: str) -> bool:
        """Whether the message is bytes, up or down, as against a register map."""
        return message in self._sent

    def fields(self, message: str) -> tuple[Field, ...]:
        """Everything in a message that has a name, in the order of the file. KeyError if unknown."""
        return (self._sent.get(message) or self._registers[message]).fields

    def message_metrics(self, message: str) -> frozenset[str]:
        """The metrics that a message carries on the wire: what `encode` or `encode_registers` takes. KeyError if unknown."""
        return (self._sent.get(message) or self._registers[message]).metrics

    def fitted(self, settings: Mapping[str, float | str]) -> Profile:
        """The variant that a device's settings choose; this one where they choose nothing. Raises SettingError."""
        if not self.options:
            return self
        chosen = choices_in(self.options, settings)
        key = tuple(chosen.values())
        found = self._variants.get(key)
        if found is None:
            try:
                found = self._variant(chosen)
            except ProfileError as error:
                raise SettingError(", ".join(chosen), f"this combination does not work: {error.text}") from error
            found._variants = self._variants
            self._variants[key] = found
        return found

    def decode(
        self,
        payload: bytes,
        *,
        message: str | None = None,
        content: int | None = None,
        port: int | None = None,
        settings: Mapping[str, float] = NO_SETTINGS,
    ) -> Decoded:
        """The readings of a frame. Raises DecodeError, nothing else.

        `message` names it where the channel does, else the first upward message of the file that fits is taken.
        `content` is the CoAP content format, `port` the LoRaWAN port where the channel tells. `settings` are the
        device's own, in the units of `Profile.settings`.
        """
        chosen = self._named(message) if message is not None else self._recognised(payload, port)
        return chosen.decode(payload, content, {**self._defaults, **settings} if self._defaults else settings)

    def decode_fields(
        self,
        payload: bytes,
        *,
        message: str | None = None,
        content: int | None = None,
        port: int | None = None,
        settings: Mapping[str, float] = NO_SETTINGS,
    ) -> Named:
        """Everything that a frame says, by name. Raises DecodeError, nothing else.

        As `decode`, but a frame that is no upward message is also tried as a downward one. Where it is none of those
        either, the error is that of the upward ones.
        """
        known = self._with_defaults(settings)
        if message is not None:
            return self._named(message).decode_fields(payload, content, known)
        try:
            return self._recognised(payload, port).decode_fields(payload, content, known)
        except DecodeError as error:
            if error.message is not None:
                raise
            for name, candidate in self._sent.items():
                if name not in self._up and candidate.fits(payload, port):
                    try:
                        return candidate.decode_fields(payload, content, known)
                    except DecodeError:
                        continue  # not this one, then
            raise

    def encode(
        self,
        message: str,
        values: Mapping[str, Value | None],
        *,
        content: int | None = None,
        time: int | None = None,
        boot: int | None = None,
        seq: int | None = None,
        base: int | None = None,
        tag: str | None = None,
        serial: str | None = None,
        settings: Mapping[str, float] = NO_SETTINGS,
    ) -> bytes:
        """The frame that says these readings. Raises EncodeError, nothing else.

        `values` are metrics in the vocabulary's units, None for "no value"; metrics that the profile derives are not on
        the wire and are passed over. `time` is in ms since 1970 UTC.
        """
        chosen = self._to_send(message)
        self._check_sizes(message, {**values, "time": time, "boot": boot, "seq": seq, "base": base, "serial": serial})
        outgoing = Outgoing(
            values=self._carried(message, chosen.metrics, values),
            time=time,
            boot=boot,
            seq=seq,
            base=base,
            tag=tag,
            serial=serial,
        )
        self._check_counters(message, outgoing)
        named = self._by_name(message, outgoing, chosen.fields)
        return chosen.encode_fields(named, content, self._with_defaults(settings))

    def encode_fields(
        self,
        message: str,
        values: Mapping[str, Any],
        *,
        content: int | None = None,
        settings: Mapping[str, float] = NO_SETTINGS,
    ) -> bytes:
        """The frame that says this, by name. Raises EncodeError, nothing else."""
        chosen = self._to_send(message)
        self._check_names(message, chosen.fields, values)
        return chosen.encode_fields(values, content, self._with_defaults(settings))

    def plan_reads(self, message: str | None = None) -> tuple[Read, ...]:
        """The Modbus requests of a register map, of the first one if none is named; empty if nothing is polled."""
        if message is not None:
            return self._registers[message].reads
        return next(iter(self._polled.values())).reads if self._polled else ()

    def unit(self, message: str | None = None) -> int:
        """The Modbus unit id where an endpoint names none. KeyError where there is no register map."""
        return self._registers[message or next(iter(self._registers), "")].unit

    def resend_every(self, message: str) -> float | None:
        """Seconds after which a device must be told again what this message writes; None: once is enough."""
        return self._registers[message].resend_every if message in self._registers else None

    def decode_registers(
        self, registers: Registers, *, message: str | None = None, settings: Mapping[str, float] = NO_SETTINGS
    ) -> Decoded:
        """What polled registers, (table, address) -> word, say. Fields that were not read are left out.

        Raises DecodeError, with `no_match` where none of the map's registers is there.
        """
        return self._map(message).decode(registers, self._with_defaults(settings))

    def decode_register_fields(
        self, registers: Registers, *, message: str | None = None, settings: Mapping[str, float] = NO_SETTINGS
    ) -> Named:
        """The same by name. Raises DecodeError."""
        return self._map(message).decode_fields(registers, self._with_defaults(settings))

    def encode_registers(
        self,
        values: Mapping[str, Value | None],
        *,
        message: str | None = None,
        settings: Mapping[str, float] = NO_SETTINGS,
    ) -> dict[tuple[str, int], int]:
        """The words that say these readings: what a simulated device serves. Raises EncodeError."""
        name, chosen = self._map_to_write(message)
        self._check_sizes(name, values)
        outgoing = Outgoing(values=self._carried(name, chosen.metrics, values))
        return chosen.encode_fields(self._by_name(name, outgoing, chosen.fields), self._with_defaults(settings))

    def encode_register_fields(
        self, message: str, values: Mapping[str, Any], *, settings: Mapping[str, float] = NO_SETTINGS
    ) -> dict[tuple[str, int], int]:
        """The words that say this, by name. Raises EncodeError."""
        name, chosen = self._map_to_write(message)
        self._check_names(name, chosen.fields, values)
        return chosen.encode_fields(values, self._with_defaults(settings))

    def plan_writes(
        self, message: str, values: Mapping[str, Any], *, settings: Mapping[str, float] = NO_SETTINGS
    ) -> tuple[Write, ...]:
        """The Modbus requests that write this, by name. Raises EncodeError."""
        name, chosen = self._map_to_write(message)
        self._check_names(name, chosen.fields, values)
        return chosen.plan_writes(values, self._with_defaults(settings))

    def _with_defaults(self, settings: Mapping[str, float]) -> Mapping[str, float]:
        return {**self._defaults, **settings} if self._defaults else settings

    def _named(self, message: str) -> Message:
        chosen = self._sent.get(message)
        if chosen is None:
            raise DecodeError("no_match", f"no message {message!r}; {self._known()}", profile=self.id)
        return chosen

    def _recognised(self, payload: bytes, port: int | None) -> Message:
        """The first message that fits; with ports in play and none told, only if no other fits as well."""
        for name, candidate in self._up.items():
            if candidate.fits(payload, port):
                if port is None and name in self._ported:
                    self._refuse_ambiguity(payload)
                return candidate
        raise DecodeError("no_match", f"no message fits these {len(payload)} bytes; {self._known()}", profile=self.id)

    def _refuse_ambiguity(self, payload: bytes) -> None:
        fitting = [name for name, candidate in self._up.items() if candidate.fits(payload, None)]
        if len(fitting) > 1:
            raise DecodeError(
                "no_match", f"these bytes may be {' or '.join(fitting)}; say the port or the message", profile=self.id
            )

    def _to_send(self, message: str) -> Message:
        chosen = self._sent.get(message)
        if chosen is None:
            raise EncodeError(f"no message {message!r} of bytes; {self._known()}", profile=self.id)
        return chosen

    def _map(self, message: str | None) -> RegisterMap:
        name = message if message is not None else next(iter(self._polled), None)
        if name is None or name not in self._registers:
            raise DecodeError("no_match", f"no register map {message or ''!r}; {self._known()}", profile=self.id)
        return self._registers[name]

    def _map_to_write(self, message: str | None) -> tuple[str, RegisterMap]:
        name = message if message is not None else next(iter(self._polled), None)
        if name is None or name not in self._registers:
            raise EncodeError(f"no register map {message or ''!r}; {self._known()}", profile=self.id)
        return name, self._registers[name]

    def _by_name(self, message: str, outgoing: Outgoing, fields: tuple[Field, ...]) -> dict[str, Any]:
        try:
            return by_name(outgoing, fields)
        except RefusedError as error:
            raise EncodeError(str(error), profile=self.id, message=message) from None

    def _check_names(self, message: str, fields: tuple[Field, ...], values: Mapping[str, Any]) -> None:
        known = {field.name for field in fields}
        unknown = sorted(str(name) for name in values if name not in known)
        if unknown:
            raise EncodeError(
                f"{', '.join(unknown)} not in this message; it has {', '.join(sorted(known))}",
                profile=self.id,
                message=message,
                field=unknown[0],
            )
        self._check_sizes(message, values)

    def _check_sizes(self, message: str, values: Mapping[str, Any]) -> None:
        """Numbers and nested lists that no field can mean, and that could not even be named in an error."""
        for name, value in values.items():
            if _is_boundless(value, _MOST_LISTS):
                raise EncodeError(
                    f"{name} is a number too large, or lists nested too deep, for any field",
                    profile=self.id,
                    message=message,
                    field=str(name),
                )

    def _check_counters(self, message: str, outgoing: Outgoing) -> None:
        for name, given, highest in (
            ("time", outgoing.time, LATEST),
            ("boot", outgoing.boot, LARGEST_COUNT),
            ("seq", outgoing.seq, LARGEST_COUNT),
            ("base", outgoing.base, LARGEST_COUNT if outgoing.seq is None else outgoing.seq),
        ):
            if given is not None and (type(given) is not int or not 0 <= given <= highest):
                raise EncodeError(
                    f"{name} {given!r} is not a whole number from 0 to {highest}",
                    profile=self.id,
                    message=message,
                    field=name,
                )

    def _carried(
        self, message: str, metrics: frozenset[str], values: Mapping[str, Value | None]
    ) -> Mapping[str, Value | None]:
        if values.keys() <= metrics:
            return values
        unknown = sorted(map(str, values.keys() - metrics - self._derived))
        if unknown:
            raise EncodeError(
                f"{', '.join(unknown)} not in this message; it carries {', '.join(sorted(metrics))}",
                profile=self.id,
                message=message,
                field=unknown[0],
            )
        return {name: value for name, value in values.items() if name in metrics}

    def _known(self) -> str:
        return f"messages of this profile: {', '.join(self.messages)}"


def _is_boundless(value: Any, lists: int) -> bool:
    if type(value) is int:
        return value.bit_length() > _MOST_BITS
    if isinstance(value, list | tuple):
        return lists == 0 or any(_is_boundless(one, lists - 1) for one in value)
    return False
