"""A compiled profile: decodes and encodes the frames of one product, from one set of entries.

Owns the choice of a message and the public interface of this package. Pure: no clock, no I/O, no state after
construction, safe to share between threads. `compiler.py` builds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from citysense_profiles.codecs.contract import NO_SETTINGS, Message, Outgoing, Read, RegisterMap
from citysense_profiles.codecs.moment import LATEST
from citysense_profiles.errors import DecodeError, EncodeError
from citysense_profiles.model import Product, ProfileKind, VectorEntry
from citysense_profiles.reading import Decoded, Value

LARGEST_COUNT = 2**53 - 1
"""What JSON readers hold exactly."""


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
class Description:
    """What a profile says about its product, apart from messages."""

    id: str
    kind: ProfileKind
    title: str
    product: Product
    caveats: tuple[str, ...]
    native: bool
    personal: bool
    transports: frozenset[str]
    mqtt_topics: tuple[str, ...]
    settings: Mapping[str, Setting]
    report_every: float
    vectors: tuple[VectorEntry, ...]


class Profile:
    """One product's messages. `report_every` is in seconds; `metrics` are all that it can give, derived ones included."""

    def __init__(
        self,
        description: Description,
        *,
        up: Mapping[str, Message],
        down: Mapping[str, Message],
        registers: Mapping[str, RegisterMap],
        derived: frozenset[str],
    ) -> None:
        self.id = description.id
        self.kind: str = description.kind
        self.title = description.title
        self.product = description.product
        self.caveats = description.caveats
        self.native = description.native
        self.personal = description.personal
        self.transports = description.transports
        self.mqtt_topics = description.mqtt_topics
        self.settings = description.settings
        self.report_every = description.report_every
        self.vectors = description.vectors
        self._up = dict(up)
        self._all: dict[str, Message] = {**up, **down}
        self._only = next(iter(up.values())) if len(up) == 1 else None
        self._registers = dict(registers)
        self._derived = derived
        every: list[Message | RegisterMap] = [*self._all.values(), *self._registers.values()]
        self.metrics = derived.union(*(message.metrics for message in every))

    @property
    def messages(self) -> tuple[str, ...]:
        """Names of all messages, up and down and polled, in the order of the file."""
        return (*self._all, *self._registers)

    def is_upward(self, message: str) -> bool:
        """Whether devices send this message by themselves, as against commands to them and maps that are polled."""
        return message in self._up

    def is_sent(self, message: str) -> bool:
        """Whether the message is bytes, up or down, as against a register map that is polled."""
        return message in self._all

    def message_metrics(self, message: str) -> frozenset[str]:
        """The metrics that a message carries on the wire: what `encode` or `encode_registers` takes. KeyError if unknown."""
        return self._registers[message].metrics if message in self._registers else self._all[message].metrics

    def decode(
        self,
        payload: bytes,
        *,
        message: str | None = None,
        content: int | None = None,
        settings: Mapping[str, float] = NO_SETTINGS,
    ) -> Decoded:
        """What a frame says. Raises DecodeError, nothing else.

        `message` names it where the channel does, else the first message of the file that fits is taken. `content` is
        the CoAP content format. `settings` are the device's own, in the units of `Profile.settings`.
        """
        if message is not None:
            chosen = self._all.get(message)
            if chosen is None:
                raise DecodeError("no_match", f"no message {message!r}; {self._known()}", profile=self.id)
            return chosen.decode(payload, content, settings)
        for candidate in self._up.values():
            if candidate.fits(payload):
                return candidate.decode(payload, content, settings)
        raise DecodeError("no_match", f"no message fits these {len(payload)} bytes; {self._known()}", profile=self.id)

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
    ) -> bytes:
        """The frame that says this. Raises EncodeError, nothing else.

        `values` are metrics in the vocabulary's units, None for "no value"; metrics that the profile derives are not on
        the wire and are passed over. `time` is in ms since 1970 UTC.
        """
        chosen = self._all.get(message)
        if chosen is None:
            raise EncodeError(f"no message {message!r}; {self._known()}", profile=self.id)
        outgoing = Outgoing(
            values=self._carried(message, chosen.metrics, values),
            content=content,
            time=time,
            boot=boot,
            seq=seq,
            base=base,
            tag=tag,
            serial=serial,
        )
        self._check_counters(message, outgoing)
        return chosen.encode(outgoing)

    def plan_reads(self, message: str | None = None) -> tuple[Read, ...]:
        """The Modbus requests of a register map, of the first one if none is named; empty if nothing is polled."""
        return self._registers[self._map(message)].reads if self._registers else ()

    def decode_registers(
        self,
        registers: Mapping[tuple[str, int], int],
        *,
        message: str | None = None,
        settings: Mapping[str, float] = NO_SETTINGS,
    ) -> Decoded:
        """What polled registers, (table, address) -> word, say. Fields that were not read are left out.

        Raises DecodeError, with `no_match` where none of the map's registers is there.
        """
        if not self._registers or (message is not None and message not in self._registers):
            raise DecodeError("no_match", f"no register map {message or ''!r}; {self._known()}", profile=self.id)
        return self._registers[self._map(message)].decode(registers, settings)

    def encode_registers(
        self, values: Mapping[str, Value | None], *, message: str | None = None
    ) -> dict[tuple[str, int], int]:
        """The words that say this: what a simulated device serves. Raises EncodeError."""
        if not self._registers or (message is not None and message not in self._registers):
            raise EncodeError(f"no register map {message or ''!r}; {self._known()}", profile=self.id)
        name = self._map(message)
        return self._registers[name].encode(self._carried(name, self._registers[name].metrics, values))

    def _check_counters(self, message: str, outgoing: Outgoing) -> None:
        for name, given, highest in (
            ("time", outgoing.time, LATEST),
            ("boot", outgoing.boot, LARGEST_COUNT),
            ("seq", outgoing.seq, LARGEST_COUNT),
            ("base", outgoing.base, LARGEST_COUNT if outgoing.seq is None else outgoing.seq),
        ):
            if given is not None and not 0 <= given <= highest:
                raise EncodeError(
                    f"{name} {given} is not in 0 to {highest}", profile=self.id, message=message, field=name
                )

    def _map(self, message: str | None) -> str:
        return message if message is not None else next(iter(self._registers))

    def _carried(
        self, message: str, metrics: frozenset[str], values: Mapping[str, Value | None]
    ) -> Mapping[str, Value | None]:
        if values.keys() <= metrics:
            return values
        unknown = sorted(values.keys() - metrics - self._derived)
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
