"""What a running gateway was started with: its own command line, put over the settings of this shell.

Owns reading /proc and the comparison. A gateway keeps what it was told at its start; flags, variables and files of here
and now may say something else, and a check of those would look past the process that runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from citysense.settings import Settings

_PATHS = (
    *("tls_cert", "tls_key", "profiles", "broker_ca", "broker_cert", "broker_key"),
    *("modbus_ca", "modbus_cert", "modbus_key"),
)
_WORDS = ("bind", "mqtt_port", "coap_port", "dtls_port", "broker", "broker_user", "broker_protocol")
_LOOKED_AT = (*_WORDS, *_PATHS, "insecure")
"""Settings that stand on a gateway's command line under their own name; one that is not there has its default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The settings that a running gateway has, and a sentence for each that is another one here."""

    settings: Settings
    differences: tuple[str, ...]


def command_of(pid: int) -> tuple[list[str], Path] | None:
    """The words of a process and its working folder; None where it has gone or belongs to somebody else."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
        folder = Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None
    return words[:-1], folder


def started_with(words: Sequence[str], folder: Path, here: Settings) -> Started | None:
    """Settings of a gateway with this command line; None where it cannot be read as one.

    `folder` is its working folder, from which its relative paths count. What it is not told (its secrets, the
    platform's own settings) is taken from `here`.
    """
    options = _options(words)
    values: dict[str, Any] = {name: options.get(name, Settings.model_fields[name].default) for name in _LOOKED_AT}
    values |= {name: folder / values[name] for name in _PATHS if values[name] is not None}
    if options.get("status_port", "0") != "0":
        values["gateway_status_port"] = options["status_port"]
    values |= _platform(options)
    try:
        settings = Settings.model_validate(here.model_dump() | values)
    except ValidationError:
        return None
    differences = tuple(
        f"{name} {_shown(getattr(settings, name))} (settings here: {_shown(getattr(here, name))})"
        for name in values
        if _shown(getattr(settings, name)) != _shown(getattr(here, name))
    )
    return Started(settings=settings, differences=differences)


def _options(words: Sequence[str]) -> Mapping[str, Any]:
    """`--mqtt-port 1883` and `--mqtt-port=1883` as mqtt_port; a flag without a value is True."""
    found: dict[str, Any] = {}
    for at, word in enumerate(words):
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            after = words[at + 1] if at + 1 < len(words) else "--"
            found[name.replace("-", "_")] = value if given else True if after.startswith("--") else after
    return found


def _platform(options: Mapping[str, Any]) -> dict[str, Any]:
    """The API's port, from the address that the gateway was given."""
    try:
        port = urlsplit(str(options.get("platform", ""))).port
    except ValueError:
        return {}
    return {} if port is None else {"api_port": port}


def _shown(value: Any) -> str:
    return str(value.absolute()) if isinstance(value, Path) else "none" if value is None else str(value)
