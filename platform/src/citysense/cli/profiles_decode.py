"""`citysense profiles decode`: what a frame says, as a table or as JSON.

Owns running the codec and printing what it found. Secret values are never printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from citysense.cli.profiles_find import find_profile, fit, known_message
from citysense.cli.profiles_input import Bytes, Registers, raw_text, understand
from citysense.cli.text_table import aligned
from citysense_profiles import Vocabulary, load_vocabulary
from citysense_profiles.codecs.contract import Named
from citysense_profiles.codecs.modbus.wire import ReadRequest, RequestFault, parse_rtu_request, table_of
from citysense_profiles.errors import DecodeError
from citysense_profiles.format.profile_file import ModbusMessage
from citysense_profiles.profile import Profile
from citysense_profiles.reading import Decoded, Sample

SECRET = "(secret)"  # noqa: S105 - what is printed in place of one
NO_VALUE = "-"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the command line asks for."""

    profile: Profile
    settings: Mapping[str, float]
    message: str | None
    content: int | None
    port: int | None


def decode(arguments: argparse.Namespace) -> int:
    """Decode one frame and print it; 1 if it is refused."""
    profile, settings = fit(find_profile(arguments.profile), arguments.setting)
    known_message(profile, arguments.message)
    entries = profile.file.messages
    meant = [entries[arguments.message]] if arguments.message else list(entries.values())
    typed = " ".join(arguments.frame)
    wanted = _Wanted(
        profile=profile,
        settings=settings,
        message=arguments.message,
        content=arguments.content,
        port=arguments.port,
    )
    try:
        given = understand(raw_text(typed), meant)
        shown, lines = _registers(wanted, given) if isinstance(given, Registers) else _frame(wanted, given)
    except DecodeError as error:
        _print_refusal(error, as_json=arguments.json)
        return 1
    print(json.dumps(shown, indent=2, ensure_ascii=False) if arguments.json else "\n".join(lines))
    return 0


def _frame(wanted: _Wanted, given: Bytes) -> tuple[dict[str, Any], list[str]]:
    profile, payload = wanted.profile, given.payload
    if given.certain:
        return _request(wanted, payload)
    try:
        named = _named(wanted, payload)
    except DecodeError:
        if given.as_text is not None:
            with contextlib.suppress(DecodeError):  # then the first error is the one to tell
                return _frame(wanted, replace(given, payload=given.as_text, as_text=None))
        if given.request and _is_request(payload):
            return _request(wanted, payload)
        raise
    decoded = profile.decode(payload, message=named.message, content=wanted.content, settings=wanted.settings)
    return _shown(profile, named, decoded)


def _named(wanted: _Wanted, payload: bytes) -> Named:
    return wanted.profile.decode_fields(
        payload, message=wanted.message, content=wanted.content, port=wanted.port, settings=wanted.settings
    )


def _registers(wanted: _Wanted, given: Registers) -> tuple[dict[str, Any], list[str]]:
    profile, words = wanted.profile, given.words
    named = profile.decode_register_fields(words, message=wanted.message, settings=wanted.settings)
    decoded = profile.decode_registers(words, message=named.message, settings=wanted.settings)
    return _shown(profile, named, decoded)


def _is_request(payload: bytes) -> bool:
    try:
        parse_rtu_request(payload)
    except RequestFault:
        return False
    return True


def _request(wanted: _Wanted, payload: bytes) -> tuple[dict[str, Any], list[str]]:
    """A read request explained: what it asks for, and which fields stand there."""
    profile = wanted.profile
    try:
        asked = parse_rtu_request(payload)
    except RequestFault as error:
        text = f'{error}; registers are written as JSON: {{"input": {{"100": [1, 2]}}}}'
        raise DecodeError(error.code, text, profile=profile.id, message=wanted.message) from error
    fields = list(_fields_at(profile, wanted.message, asked))
    shown = {
        "profile": profile.id,
        "request": {**asked._asdict(), "table": table_of(asked.function)},
        "fields": [{"message": message, "name": name, "where": where} for message, name, where in fields],
    }
    last = asked.address + asked.quantity - 1
    lines = [
        f"read request to unit {asked.unit}: function {asked.function}, {table_of(asked.function)} {asked.address}"
        f"{f' to {last}' if asked.quantity > 1 else ''} ({asked.quantity})",
        *(aligned(("message", "name", "where"), fields) if fields else ["no field of this profile stands there"]),
    ]
    return shown, lines


def _fields_at(profile: Profile, message: str | None, asked: ReadRequest) -> Iterator[tuple[str, str, str]]:
    """Message, name and place of the fields whose first register the request covers."""
    for name, entry in profile.file.messages.items():
        if not isinstance(entry, ModbusMessage) or message not in (None, name):
            continue
        for field in entry.fields:
            address = field.address + entry.codec.shift
            covered = asked.address <= address < asked.address + asked.quantity
            if covered and field.table == table_of(asked.function) and field.access != "w":
                names = [bit.name for bit in field.bits] if field.bits else [field.name]
                for one in names:
                    yield name, one or "", f"{field.table}:{address}"


def _shown(profile: Profile, named: Named, decoded: Decoded) -> tuple[dict[str, Any], list[str]]:
    vocabulary = load_vocabulary()
    fields = {field.name: field for field in profile.fields(named.message)}
    secret_metrics = {metric.name for metric in vocabulary if metric.secret}
    secret_metrics |= {field.metric for field in fields.values() if field.entry.secret and field.metric}
    hidden = {name for name, field in fields.items() if field.entry.secret or field.metric in secret_metrics}
    values = {name: SECRET if name in hidden else value for name, value in named.values.items()}
    units = {name: field.unit for name, field in fields.items() if field.unit and name in values}
    readings = [_reading(sample, secret_metrics) for sample in decoded.samples]
    shown: dict[str, Any] = {"profile": profile.id, "message": named.message}
    shown |= {"values": values, "units": units, "where": dict(named.where), "readings": readings}
    shown |= _counters(decoded, {field.role for field in fields.values() if field.entry.secret})
    rows = [
        (
            label,
            said if said == NO_VALUE else f"{said} {units.get(name, '')}".rstrip(),
            where,
            fields[name].metric or fields[name].role or "",
        )
        for name, value in values.items()
        for label, said, where in _flat(name, value, named.where.get(name))
    ]
    lines = [f"{profile.id}, message {named.message}", "", *aligned(("name", "value", "where", "metric"), rows)]
    said = [
        (reading["time"] or "no time", name, text) for reading in readings for name, text in _told(reading, vocabulary)
    ]
    if said:
        lines += ["", *aligned(("reading at", "metric", "value"), said)]
    return shown, lines


def _told(reading: Mapping[str, Any], vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """Metric and value of a reading, with the vocabulary's unit."""
    for name, value in reading["values"].items():
        yield name, f"{_text(value)} {vocabulary.metric(name).unit}".rstrip()
    for name in reading["missing"]:
        yield name, NO_VALUE


def _flat(name: str, value: Any, where: Any) -> Iterator[tuple[str, str, str]]:
    """Label, value and place; of a list, each round by itself: log.distance[0]."""
    if not isinstance(value, list):
        yield name, _text(value), "" if where is None else str(where)
        return
    if not value:
        yield name, "none", ""
    for index, one in enumerate(value):
        yield from _flat(f"{name}[{index}]", one, where[index] if isinstance(where, list) else where)


def _text(value: Any) -> str:
    """A value for people: no value is a dash, texts stand as they are."""
    if value is None:
        return NO_VALUE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _reading(sample: Sample, secret: set[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "time": None if sample.time is None else _rfc3339(sample.time),
        "values": {name: SECRET if name in secret else value for name, value in sample.values.items()},
        "missing": list(sample.missing),
        "event": sample.event,
    }
    return shown if sample.tag is None else {**shown, "tag": sample.tag}


def _rfc3339(milliseconds: int) -> str:
    return (_EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _counters(decoded: Decoded, secret_roles: set[str | None]) -> dict[str, Any]:
    """What the frame says of itself, where it says it."""
    found = {name: getattr(decoded, name) for name in ("boot", "seq", "base", "serial")}
    return {name: SECRET if name in secret_roles else value for name, value in found.items() if value is not None}


def _print_refusal(error: DecodeError, *, as_json: bool) -> None:
    if not as_json:
        print(f"citysense: {error}", file=sys.stderr)
        return
    shown = {name: getattr(error, name) for name in ("code", "profile", "message", "field", "offset", "text")}
    print(json.dumps({"error": shown}, indent=2, ensure_ascii=False))
