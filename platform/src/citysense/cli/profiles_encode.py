"""`citysense profiles encode`: from values to the frame, the registers or the Modbus writes that say them.

Owns running the codec and printing the result in the form that `decode` takes.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping
from typing import Any

from citysense.cli.profiles_find import find_profile, fit, known_message
from citysense.cli.profiles_input import json_object
from citysense.errors import WrongUse
from citysense_profiles import load_vocabulary
from citysense_profiles.checking.round_trip import draw, drawn_settings
from citysense_profiles.codecs.contract import Write
from citysense_profiles.errors import EncodeError
from citysense_profiles.format.profile_file import BinaryMessage, DocumentMessage, ModbusMessage
from citysense_profiles.profile import Profile
from citysense_profiles.simulation import Simulation

_ROLES = ("time", "boot", "seq", "base", "tag", "serial")


def encode(arguments: argparse.Namespace) -> int:
    """Encode one message and print it; 1 if the values are refused."""
    profile, settings = fit(find_profile(arguments.profile), arguments.setting)
    known_message(profile, arguments.message)
    if sum((arguments.sample, arguments.simulate is not None, arguments.values is not None)) != 1:
        raise WrongUse("give the values as a JSON object, or say --sample or --simulate N")
    try:
        if arguments.simulate is not None:
            return _simulate(profile, arguments, settings)
        if arguments.sample:
            settings = drawn_settings(profile) | settings
            repeatable = random.Random(arguments.seed)  # noqa: S311 - no secret
            values = draw(profile, arguments.message, repeatable, load_vocabulary(), settings)
        else:
            values = json_object(arguments.values)
        shown, text = _encoded(profile, arguments.message, values, arguments.content, settings)
    except EncodeError as error:
        _print_refusal(error, as_json=arguments.json)
        return 1
    head = {"profile": profile.id, "message": arguments.message, "settings": settings, "values": dict(values)}
    print(json.dumps(head | shown, indent=2, ensure_ascii=False) if arguments.json else text)
    return 0


def _simulate(profile: Profile, arguments: argparse.Namespace, settings: Mapping[str, float]) -> int:
    """Reports in the profile's own rhythm, one a line; with --json, values and all."""
    if arguments.simulate < 1:
        raise WrongUse("--simulate needs a number of reports, at least 1")
    repeatable = random.Random(arguments.seed)  # noqa: S311 - no secret
    device = Simulation(profile, arguments.message, random=repeatable, vocabulary=load_vocabulary(), settings=settings)
    for count in range(arguments.simulate):
        elapsed = count * profile.report_every
        values = device.report(elapsed)
        shown, text = _encoded(profile, arguments.message, values, arguments.content, device.settings)
        head = {"profile": profile.id, "message": arguments.message, "elapsed": elapsed, "values": values}
        print(json.dumps(head | shown, ensure_ascii=False) if arguments.json else text)
    return 0


def _encoded(
    profile: Profile, message: str, values: Mapping[str, Any], content: int | None, settings: Mapping[str, float]
) -> tuple[dict[str, Any], str]:
    """The result for JSON, and as text."""
    entry = profile.file.messages[message]
    readings = values.get("readings")
    if isinstance(entry, ModbusMessage):
        if readings is not None:
            _refuse_others(values, ())
            words = profile.encode_registers(readings, message=message, settings=settings)
        elif entry.direction == "down":
            return _writes(profile.plan_writes(message, values, settings=settings))
        else:
            words = profile.encode_register_fields(message, values, settings=settings)
        found = runs_of(words)
        return {"registers": found}, json.dumps(found)
    if readings is not None:
        _refuse_others(values, _ROLES)
        roles = {name: values[name] for name in _ROLES if name in values}
        payload = profile.encode(message, readings, content=content, settings=settings, **roles)
    else:
        payload = profile.encode_fields(message, values, content=content, settings=settings)
    wrapped = isinstance(entry, BinaryMessage) and entry.codec.wrap == "hex_text"
    textual = wrapped or (not isinstance(entry, BinaryMessage) and payload[:1] in (b"{", b"["))
    if isinstance(entry, DocumentMessage):
        textual = entry.codec.type == "json"
    shown = {"hex": payload.hex()}
    if not textual:
        return shown, payload.hex(" ")
    text = payload.decode()
    return {**shown, "text": text}, text


def _refuse_others(values: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    unknown = sorted(values.keys() - {"readings", *allowed})
    if unknown or not isinstance(values["readings"], dict):
        wanted = f"beside readings (an object of metrics) stand at most {', '.join(allowed)}" if allowed else "alone"
        raise WrongUse(f"{', '.join(unknown) or 'readings'}: {wanted}")


def runs_of(words: Mapping[tuple[str, int], int]) -> dict[str, dict[str, list[int]]]:
    """Registers that follow one another in one list, by table and first address: what `decode` reads."""
    found: dict[str, dict[str, list[int]]] = {}
    last: tuple[str, int] | None = None
    run: list[int] = []
    for table, address in sorted(words):
        if last != (table, address - 1):
            run = []
            found.setdefault(table, {})[str(address)] = run
        run.append(words[table, address])
        last = (table, address)
    return found


def _writes(writes: tuple[Write, ...]) -> tuple[dict[str, Any], str]:
    shown = [
        {"function": one.function, "table": one.table, "address": one.address, "words": list(one.words)}
        for one in writes
    ]
    text = "\n".join(
        f"function {one.function}, {one.table} {one.address}: {' '.join(str(word) for word in one.words)}"
        for one in writes
    )
    return {"writes": shown}, text


def _print_refusal(error: EncodeError, *, as_json: bool) -> None:
    if not as_json:
        print(f"citysense: {error}", file=sys.stderr)
        return
    shown = {name: getattr(error, name) for name in ("profile", "message", "field", "text")}
    print(json.dumps({"error": {"code": "refused", **shown}}, indent=2, ensure_ascii=False))
