"""From a profile file to a compiled `Profile`.

Owns what needs the file and the vocabulary together: resolving metrics and units, refusing what means nothing, and
turning every fault into a `ProfileError` that names file, message and field. Reads no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from pydantic import ValidationError

from citysense_profiles.codecs.binary import BinaryCodec
from citysense_profiles.codecs.contract import Derivation, Finish, Message, Place, RegisterMap
from citysense_profiles.codecs.json import JsonCodec
from citysense_profiles.codecs.layout import FieldFault, Layout
from citysense_profiles.codecs.modbus import ModbusCodec
from citysense_profiles.codecs.native import NativeCodec
from citysense_profiles.codecs.senml import SenmlCodec
from citysense_profiles.codecs.tlv import TlvCodec
from citysense_profiles.errors import ProfileError
from citysense_profiles.model import (
    CODEC_TYPES,
    BinaryField,
    BinaryMessage,
    JsonMessage,
    Meaning,
    ModbusField,
    ModbusMessage,
    NativeMessage,
    ProfileFile,
    SenmlMessage,
    SettingEntry,
    TlvMessage,
)
from citysense_profiles.model import Message as MessageEntry
from citysense_profiles.profile import Description, Profile, Setting
from citysense_profiles.units import UNITS
from citysense_profiles.vocabulary import Kind, Metric, ValueType, Vocabulary
from citysense_profiles.yaml_source import first_fault, load_yaml


def parse_profile(text: str, file: str, vocabulary: Vocabulary) -> Profile:
    """The profile that `text` (YAML) describes. Raises ProfileError naming `file`, message and field."""
    document = load_yaml(text, file)
    try:
        parsed = ProfileFile.model_validate(document)
    except ValidationError as error:
        raise _fault_of(error, document, file) from error
    return _Compiler(parsed, file, vocabulary).profile()


def _fault_of(error: ValidationError, document: object, file: str) -> ProfileError:
    """Names message and field where the fault lies inside one: a field by its name or metric, else by its place."""
    location, sentence = first_fault(error)
    path = [part for part in location if part not in CODEC_TYPES or part == "json"]
    if len(location) < 2 or location[0] != "messages":
        return ProfileError(sentence, file=file, field=".".join(map(str, path)) or None)
    message = str(location[1])
    rest = [part for index, part in enumerate(location[2:]) if not (index == 0 and part in CODEC_TYPES)]
    label = ".".join(map(str, rest))
    node: object = document["messages"].get(message) if isinstance(document, dict) else None
    for part in rest:
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
            if isinstance(node, dict):
                named = next((node[key] for key in ("name", "metric", "role", "pointer", "tag") if key in node), None)
                label = f"{label} ({named})" if named else label
        else:
            break
    return ProfileError(sentence, file=file, message=message, field=label or None)


class _Compiler:
    """One file on its way to a profile."""

    def __init__(self, parsed: ProfileFile, file: str, vocabulary: Vocabulary) -> None:
        self._parsed = parsed
        self._file = file
        self._vocabulary = vocabulary
        self._derivations = self._compile_derivations()

    def profile(self) -> Profile:
        """All messages compiled and checked against one another."""
        up: dict[str, Message] = {}
        down: dict[str, Message] = {}
        registers: dict[str, RegisterMap] = {}
        for name, entry in self._parsed.messages.items():
            try:
                codec = self._codec(name, entry)
            except FieldFault as fault:
                raise ProfileError(str(fault), file=self._file, message=name, field=fault.field) from fault
            except ValueError as fault:
                raise ProfileError(str(fault), file=self._file, message=name) from fault
            if isinstance(codec, ModbusCodec):
                registers[name] = codec
            else:
                (up if entry.direction == "up" else down)[name] = codec
        self._check_choice()
        every: list[Message | RegisterMap] = [*up.values(), *down.values(), *registers.values()]
        carried: frozenset[str] = frozenset().union(*(codec.metrics for codec in every))
        self._check_derived(carried)
        derived = frozenset(rule.metric for rule in self._derivations)
        return Profile(self._description(carried | derived), up=up, down=down, registers=registers, derived=derived)

    def _codec(self, name: str, entry: MessageEntry) -> Message | ModbusCodec:
        place, finish = Place(self._parsed.id, name), self._finish(entry)
        match entry:
            case NativeMessage():
                return NativeCodec(place, finish, tuple(self._metric(metric) for metric in entry.metrics))
            case BinaryMessage():
                layout = Layout(place, entry.fields, entry.codec.byte_order, self._vocabulary)
                return BinaryCodec(place, finish, layout, entry.when)
            case TlvMessage():
                order = entry.codec.byte_order
                items = [(item.tag, Layout(place, item.fields, order, self._vocabulary)) for item in entry.items]
                return TlvCodec(place, finish, items)
            case JsonMessage():
                return JsonCodec(place, finish, entry, self._vocabulary)
            case SenmlMessage():
                return SenmlCodec(place, finish, entry, self._vocabulary)
            case ModbusMessage():
                return ModbusCodec(place, finish, entry, self._vocabulary)
            case _:
                assert_never(entry)

    def _metric(self, name: str) -> Metric:
        try:
            return self._vocabulary.metric(name)
        except KeyError as error:
            raise FieldFault(name, str(error.args[0])) from error

    def _finish(self, entry: MessageEntry) -> Finish:
        names = _metrics_of(entry)
        events = frozenset(name for name in names if name in self._vocabulary and self._is_event(name))
        return Finish(
            event=entry.event,
            event_metrics=events,
            derivations=tuple(rule for rule in self._derivations if rule.minus in names),
        )

    def _is_event(self, name: str) -> bool:
        return self._vocabulary.metric(name).kind is Kind.EVENT

    def _compile_derivations(self) -> tuple[Derivation, ...]:
        rules = []
        for index, entry in enumerate(self._parsed.derive):
            place = f"derive.{index}"
            setting = self._parsed.settings.get(entry.setting)
            if setting is None:
                raise ProfileError(
                    f"setting {entry.setting!r} is not declared in settings", file=self._file, field=place
                )
            for name in (entry.metric, entry.minus):
                if name not in self._vocabulary or self._vocabulary.metric(name).type is not ValueType.NUMBER:
                    raise ProfileError(f"{name!r} is not a number of the vocabulary", file=self._file, field=place)
            units = {setting.unit, *(self._vocabulary.metric(name).unit for name in (entry.metric, entry.minus))}
            if len(units) > 1:
                raise ProfileError(
                    f"setting and metrics must share one unit, not {', '.join(sorted(units))}",
                    file=self._file,
                    field=place,
                )
            rules.append(Derivation(entry.metric, entry.setting, entry.minus, setting.default))
        return tuple(rules)

    def _check_derived(self, carried: frozenset[str]) -> None:
        for index, rule in enumerate(self._derivations):
            if rule.minus not in carried:
                raise ProfileError(
                    f"no message carries {rule.minus}, so {rule.metric} can never be derived",
                    file=self._file,
                    field=f"derive.{index}",
                )

    def _check_choice(self) -> None:
        """Messages without fixed length or bytes to match cannot be told apart, so there is one at most."""
        open_ended = [
            name
            for name, entry in self._parsed.messages.items()
            if entry.direction == "up" and not isinstance(entry, BinaryMessage | ModbusMessage)
        ]
        if len(open_ended) > 1:
            raise ProfileError(
                f"messages {', '.join(open_ended)} cannot be told apart; a profile has one upward message of these codecs",
                file=self._file,
                message=open_ended[1],
            )

    def _description(self, metrics: frozenset[str]) -> Description:
        parsed = self._parsed
        for name, entry in parsed.settings.items():
            if entry.unit not in UNITS:
                raise ProfileError(f"unit {entry.unit!r} is not known", file=self._file, field=f"settings.{name}.unit")
        tagged = any(
            isinstance(entry, JsonMessage | BinaryMessage) and any(field.role == "tag" for field in entry.fields)
            for entry in parsed.messages.values()
        )
        transport = parsed.transport
        return Description(
            id=parsed.id,
            kind=parsed.kind,
            title=parsed.title,
            product=parsed.product,
            caveats=tuple(caveat.text for caveat in parsed.caveats),
            native=any(isinstance(entry, NativeMessage) for entry in parsed.messages.values()),
            personal=tagged or any(self._vocabulary.metric(name).personal for name in metrics),
            transports=frozenset(transport.model_fields_set),
            mqtt_topics=tuple(transport.mqtt.topics) if transport.mqtt else (),
            settings={name: _setting(name, entry) for name, entry in parsed.settings.items()},
            report_every=parsed.report_every,
            vectors=tuple(parsed.vectors),
        )


def _setting(name: str, entry: SettingEntry) -> Setting:
    low, high = entry.range or (None, None)
    return Setting(
        name=name,
        title=entry.title,
        unit=entry.unit,
        default=entry.default,
        required=entry.required,
        low=low,
        high=high,
    )


def _metrics_of(entry: MessageEntry) -> frozenset[str]:
    """All metrics that a message names, resolved or not."""
    if isinstance(entry, NativeMessage):
        return frozenset(entry.metrics)
    if isinstance(entry, TlvMessage):
        return frozenset().union(*(_metrics_of_fields(item.fields) for item in entry.items))
    return _metrics_of_fields(entry.fields)


def _metrics_of_fields(fields: Sequence[Meaning]) -> frozenset[str]:
    names = set()
    for field in fields:
        names.add(field.metric)
        bits = field.bits if isinstance(field, BinaryField | ModbusField) else None
        names.update(part.metric for part in bits or ())
    return frozenset(name for name in names if name is not None)
