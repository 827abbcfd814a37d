"""From a profile file to a compiled `Profile`.

Owns what needs the file and the vocabulary together: options, resolving metrics and units, refusing what means nothing,
and turning every fault into a `ProfileError` that names file, message and field. Reads no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, assert_never

from pydantic import ValidationError

from citysense_profiles.codecs.contract import Derivation, Finish, Message, Place, RegisterMap
from citysense_profiles.codecs.documents.codec import DocumentCodec
from citysense_profiles.codecs.documents.epc import EpcCodec
from citysense_profiles.codecs.documents.native import NativeCodec
from citysense_profiles.codecs.field import Field, FieldFault
from citysense_profiles.codecs.frames.codec import BinaryCodec
from citysense_profiles.codecs.modbus.codec import ModbusCodec
from citysense_profiles.codecs.senml.codec import SenmlCodec
from citysense_profiles.errors import ProfileError, SettingError
from citysense_profiles.format.meaning import FromSetting, Meaning
from citysense_profiles.format.profile_file import (
    MESSAGE_TAGS,
    BinaryMessage,
    DocumentMessage,
    EpcMessage,
    ModbusMessage,
    NativeMessage,
    ProfileFile,
    SenmlMessage,
    SettingEntry,
    TlvMessage,
)
from citysense_profiles.format.profile_file import Message as MessageEntry
from citysense_profiles.options import Choice, defaults_of, variants, with_choices
from citysense_profiles.profile import Codecs, Profile, Setting
from citysense_profiles.values.units import UNITS
from citysense_profiles.vocabulary import Kind, Metric, ValueType, Vocabulary
from citysense_profiles.yaml_source import first_fault, load_yaml

_PART_TAGS = frozenset({"field", "block", "repeat", "items", "elements", "each", "bytes"})


def parse_profile(text: str, file: str, vocabulary: Vocabulary) -> Profile:
    """The profile that `text` (YAML) describes, with its options at their defaults; the other variants compile, too.

    Raises ProfileError naming `file`, message and field.
    """
    document = load_yaml(text, file)
    profile = _Family(document, file, vocabulary).variant(defaults_of(document, file))
    for chosen in variants(profile.options) if profile.options else ():
        try:
            profile.fitted(chosen)
        except SettingError as error:
            raise ProfileError(f"with {chosen}: {error.text}", file=file, field="options") from error
    return profile


Codec = Message | ModbusCodec
Variants = Callable[[Mapping[str, Choice]], Profile]


class _Family:
    """The variants of one file. What a choice does not touch is validated and compiled once, with the first variant."""

    def __init__(self, document: Any, file: str, vocabulary: Vocabulary) -> None:
        self._document, self._file, self._vocabulary = document, file, vocabulary
        self._first: tuple[Mapping[str, Any], ProfileFile, Mapping[str, Codec]] | None = None

    def variant(self, chosen: Mapping[str, Choice]) -> Profile:
        """The profile with these choices. Raises ProfileError."""
        resolved = with_choices(self._document, chosen, self._file)
        known: Mapping[str, Codec] = {}
        if self._first is None:
            parsed = self._validated(resolved)
        else:
            parsed, known = self._changed(resolved, *self._first)
        compiler = _Compiler(parsed, self._file, self._vocabulary, known)
        profile = compiler.profile(chosen, self.variant)
        if self._first is None:
            self._first = resolved["messages"], parsed, compiler.codecs
        return profile

    def _validated(self, document: Any) -> ProfileFile:
        try:
            return ProfileFile.model_validate(document)
        except ValidationError as error:
            raise _fault_of(error, document, self._file) from error

    def _changed(
        self, resolved: Any, before: Mapping[str, Any], first: ProfileFile, codecs: Mapping[str, Codec]
    ) -> tuple[ProfileFile, Mapping[str, Codec]]:
        """The file with those messages anew that this choice changes, and the codecs of the others."""
        changed = {name: entry for name, entry in resolved["messages"].items() if entry is not before[name]}
        if not changed:
            return first, codecs
        parsed = self._validated({**resolved, "messages": changed, "vectors": []})
        messages = {name: parsed.messages.get(name, entry) for name, entry in first.messages.items()}
        known = {name: codec for name, codec in codecs.items() if name not in changed}
        return first.model_copy(update={"messages": messages}), known


def _fault_of(error: ValidationError, document: object, file: str) -> ProfileError:
    """Names message and field where the fault lies inside one: a field by its name or metric, else by its place."""
    location, sentence = first_fault(error)
    if len(location) < 2 or location[0] != "messages":
        return ProfileError(sentence, file=file, field=".".join(map(str, location)) or None)
    message = str(location[1])
    node: object = document["messages"].get(message) if isinstance(document, dict) else None
    label = ""
    for index, part in enumerate(location[2:]):
        if index == 0 and part in MESSAGE_TAGS:
            continue
        if part in _PART_TAGS and not (isinstance(node, dict) and part in node):
            continue  # pydantic's name for the kind of part, which no author wrote
        label = f"{label}.{part}" if label else str(part)
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
            named = _named_by(node)
            label = f"{label} ({named})" if named else label
        else:
            node = None
    return ProfileError(sentence, file=file, message=message, field=label or None)


def _named_by(node: object) -> object:
    keys = ("name", "metric", "role", "pointer", "tag", "repeat", "group", "each", "lead")
    return next((node[key] for key in keys if key in node), None) if isinstance(node, dict) else None


class _Compiler:
    """One file, its options chosen, on its way to a profile."""

    def __init__(self, parsed: ProfileFile, file: str, vocabulary: Vocabulary, known: Mapping[str, Codec]) -> None:
        self._parsed = parsed
        self._file = file
        self._vocabulary = vocabulary
        self._known = known
        self.codecs: dict[str, Codec] = {}
        self._derivations = self._compile_derivations()

    def profile(self, chosen: Mapping[str, Choice], variant: Variants) -> Profile:
        """All messages compiled and checked against one another."""
        up: dict[str, Message] = {}
        down: dict[str, Message] = {}
        registers: dict[str, RegisterMap] = {}
        for name, entry in self._parsed.messages.items():
            try:
                codec = self._known.get(name) or self._codec(name, entry)
                self._check_fields(name, codec.fields)
            except FieldFault as fault:
                raise ProfileError(str(fault), file=self._file, message=name, field=fault.field) from fault
            except (ValueError, KeyError) as fault:
                raise ProfileError(str(fault.args[0]), file=self._file, message=name) from fault
            self.codecs[name] = codec
            if isinstance(codec, ModbusCodec):
                registers[name] = codec
            else:
                (up if entry.direction == "up" else down)[name] = codec
        self._check_choice()
        if all(entry.default == chosen.get(name) for name, entry in self._parsed.options.items()):
            self._check_simulation(up, registers)  # a variant may lack a field that the usual one simulates
        every: list[Message | RegisterMap] = [*up.values(), *down.values(), *registers.values()]
        carried: frozenset[str] = frozenset().union(*(codec.metrics for codec in every))
        self._check_derived(carried)
        derived = frozenset(rule.metric for rule in self._derivations)
        return Profile(
            self._parsed,
            Codecs(up=up, down=down, registers=registers),
            settings=self._settings(),
            derived=derived,
            personal=self._is_personal(carried | derived, every),
            chosen=chosen,
            variant=variant,
        )

    def _codec(self, name: str, entry: MessageEntry) -> Codec:
        place, finish = Place(self._parsed.id, name), self._finish(entry)
        match entry:
            case NativeMessage():
                return NativeCodec(place, finish, tuple(self._metric(metric) for metric in entry.metrics))
            case BinaryMessage() | TlvMessage():
                return BinaryCodec(place, finish, entry, self._vocabulary)
            case DocumentMessage():
                return DocumentCodec(place, finish, entry, self._vocabulary)
            case SenmlMessage():
                return SenmlCodec(place, finish, entry, self._vocabulary)
            case EpcMessage():
                return EpcCodec(place, finish, entry, self._vocabulary)
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
        if isinstance(entry, NativeMessage):
            names = set(entry.metrics)
        else:
            names = {meaning.metric for meaning in _meanings(entry) if meaning.metric is not None}
        events = frozenset(name for name in names if name in self._vocabulary and self._is_event(name))
        return Finish(
            event=entry.event,
            event_metrics=events,
            derivations=tuple(rule for rule in self._derivations if rule.minus in names),
        )

    def _is_event(self, name: str) -> bool:
        return self._vocabulary.metric(name).kind is Kind.EVENT

    def _check_fields(self, message: str, fields: tuple[Field, ...]) -> None:
        """Names are there once, and what a field is computed with exists."""
        names: set[str] = set()
        for field in fields:
            for need in field.needs:
                if isinstance(need, FromSetting):
                    self._check_needed_setting(field.name, need.setting)
                elif need.field not in names:
                    raise FieldFault(field.name, f"{need.field!r} is no earlier field of this message")
            if field.name in names:
                raise FieldFault(field.name, "this name stands twice in one message")
            names.add(field.name)

    def _check_needed_setting(self, field: str, name: str) -> None:
        setting = self._parsed.settings.get(name)
        if setting is None:
            raise FieldFault(field, f"setting {name!r} is not declared in settings")
        if setting.default is None and not setting.required:
            raise FieldFault(
                field, f"setting {name!r} needs a default or `required: true`, or frames could not be read"
            )

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
            rules.append(Derivation(entry.metric, entry.setting, entry.minus))
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
        """Messages without fixed length or a `when` cannot be told apart, so there is one such at most."""
        open_ended = [
            name
            for name, entry in self._parsed.messages.items()
            if entry.direction == "up"
            and not isinstance(entry, BinaryMessage | ModbusMessage)
            and not getattr(getattr(entry, "when", None), "model_fields_set", None)
        ]
        if len(open_ended) > 1:
            raise ProfileError(
                f"messages {', '.join(open_ended)} cannot be told apart; give all but one a `when`",
                file=self._file,
                message=open_ended[1],
            )

    def _check_simulation(self, up: Mapping[str, Message], registers: Mapping[str, RegisterMap]) -> None:
        codecs: list[Message | RegisterMap] = [*up.values(), *registers.values()]
        known = {field.name for codec in codecs for field in codec.fields}
        unknown = next((name for name in self._parsed.sim if name not in known), None)
        if unknown is not None:
            raise ProfileError("no message has a field of this name", file=self._file, field=f"sim.{unknown}")

    def _is_personal(self, metrics: frozenset[str], codecs: list[Message | RegisterMap]) -> bool:
        marked = any(
            field.role == "tag" or field.entry.personal or field.entry.secret
            for codec in codecs
            for field in codec.fields
        )
        return marked or any(self._vocabulary.metric(name).personal for name in metrics)

    def _settings(self) -> dict[str, Setting]:
        for name, entry in self._parsed.settings.items():
            if entry.unit not in UNITS:
                raise ProfileError(f"unit {entry.unit!r} is not known", file=self._file, field=f"settings.{name}.unit")
        return {name: _setting(name, entry) for name, entry in self._parsed.settings.items()}


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


def _meanings(node: Any) -> Iterator[Meaning]:
    """Every field below an entry, whatever parts it is nested in."""
    if isinstance(node, Meaning):
        yield node
    for name in ("fields", "items", "elements", "bits"):
        for child in vars(node).get(name) or ():
            yield from _meanings(child)
