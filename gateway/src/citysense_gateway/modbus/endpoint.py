"""Where a polled device is reached: the four forms of a Modbus endpoint.

    modbus+tcp://host:port/unit          Modbus TCP; port 502 if left out
    modbus+tls://host:port/unit          Modbus TCP in TLS; port 802 if left out
    modbus+rtu-tcp://host:port/unit      RTU telegrams through a transparent serial server
    modbus+rtu:///dev/ttyUSB0?baud=9600&parity=N&stop=1&unit=1

Each form takes `timeout=SECONDS` after the ?: how long this unit may need for a reply, where the usual time is too short
or too long. Pure: text in, `Endpoint` out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import SplitResult, parse_qsl, urlsplit

from citysense.errors import CitysenseError

_FORMS = (
    "modbus+tcp://host:port/unit, modbus+tls://host:port/unit, modbus+rtu-tcp://host:port/unit, "
    "modbus+rtu:///dev/ttyUSB0?baud=9600&parity=N&unit=1"
)
_SERIAL_PARTS = ("baud", "parity", "stop", "unit", "timeout")
_NETWORK_PARTS = ("timeout",)
_SECONDS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")
SHORTEST_TIMEOUT, LONGEST_TIMEOUT = 0.05, 30.0
"""Below, no reply fits; above, one unit would hold its line for minutes."""


class EndpointError(CitysenseError):
    """An endpoint is wrong in `part`: form, host, port, unit, path, baud, parity, stop or timeout."""

    def __init__(self, endpoint: str, part: str, text: str) -> None:
        super().__init__(f"endpoint {endpoint!r}: {part}: {text}")
        self.part = part


class Link(StrEnum):
    """What carries the telegrams."""

    TCP = "modbus+tcp"
    TLS = "modbus+tls"
    RTU_TCP = "modbus+rtu-tcp"
    RTU = "modbus+rtu"


_DEFAULT_PORT = {Link.TCP: 502, Link.TLS: 802}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What several units may share: one TCP peer (`host`, `port`) or one serial port (`path` and its settings)."""

    link: Link
    host: str = ""
    port: int = 0
    path: str = ""
    baud: int = 0
    parity: str = ""
    stop: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One unit on one line. `unit` is 1..247 on serial lines; with TCP also 0 and 248..255, which mean the peer itself.

    `timeout` in seconds where the endpoint says one.
    """

    line: Line
    unit: int
    timeout: float | None = None


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint that `text` names. Raises EndpointError, which says the part that is wrong."""
    if any(char.isspace() or not char.isprintable() for char in text):
        raise EndpointError(text, "form", "contains a blank or control character")
    try:
        url = urlsplit(text)
        link = Link(url.scheme)
    except ValueError as error:
        raise EndpointError(text, "form", f"not one of {_FORMS}") from error
    if url.fragment or "#" in text:
        raise EndpointError(text, "form", "nothing may follow a #")
    return _serial(text, url) if link is Link.RTU else _network(text, url, link)


def _network(text: str, url: SplitResult, link: Link) -> Endpoint:
    if "@" in url.netloc:
        raise EndpointError(text, "host", "Modbus has no user names; write host:port")
    if not url.hostname:
        raise EndpointError(text, "host", "is missing; write host:port/unit")
    given = _parameters(text, url, _NETWORK_PARTS)
    try:
        port = _DEFAULT_PORT.get(link) if url.port is None else url.port
    except ValueError as error:
        raise EndpointError(text, "port", "not a number from 1 to 65535") from error
    if port is None:
        raise EndpointError(text, "port", "is missing; serial servers have no common one")
    if port == 0:
        raise EndpointError(text, "port", "not a number from 1 to 65535")
    unit = _unit(text, url.path.removeprefix("/"), serial=link is Link.RTU_TCP)
    line = Line(link=link, host=url.hostname, port=port)
    return Endpoint(line=line, unit=unit, timeout=_timeout(text, given))


def _serial(text: str, url: SplitResult) -> Endpoint:
    if url.netloc:
        raise EndpointError(text, "host", "a serial port has none; write modbus+rtu:///dev/… with three slashes")
    if not url.path.startswith("/dev/") or url.path.endswith("/") or ".." in url.path.split("/"):
        raise EndpointError(text, "path", "not the path of a serial port, like /dev/ttyUSB0")
    given = _parameters(text, url, _SERIAL_PARTS)
    baud = given.get("baud", "")
    if not (baud.isascii() and baud.isdigit() and 300 <= int(baud[:8]) <= 1_000_000):
        raise EndpointError(text, "baud", "not a number from 300 to 1000000")
    parity = given.get("parity", "N")
    if parity not in ("N", "E", "O"):
        raise EndpointError(text, "parity", "not N, E or O")
    stop = given.get("stop", "1")
    if stop not in ("1", "2"):
        raise EndpointError(text, "stop", "not 1 or 2")
    unit = _unit(text, given.get("unit", ""), serial=True)
    line = Line(link=Link.RTU, path=url.path, baud=int(baud), parity=parity, stop=int(stop))
    return Endpoint(line=line, unit=unit, timeout=_timeout(text, given))


def _parameters(text: str, url: SplitResult, known: tuple[str, ...]) -> dict[str, str]:
    """What stands after the ?, each once."""
    if text.endswith("?"):
        raise EndpointError(text, "form", "nothing follows the ?")
    pairs = parse_qsl(url.query, keep_blank_values=True)
    for name, _ in pairs:
        if name not in known:
            raise EndpointError(text, name or "form", f"unknown; known: {', '.join(known)}")
    given = dict(pairs)
    if len(given) != len(pairs):
        raise EndpointError(text, "form", "a parameter stands twice")
    return given


def _timeout(text: str, given: dict[str, str]) -> float | None:
    if "timeout" not in given:
        return None
    said = given["timeout"]
    if not _SECONDS.fullmatch(said) or not SHORTEST_TIMEOUT <= float(said) <= LONGEST_TIMEOUT:
        raise EndpointError(text, "timeout", f"not seconds from {SHORTEST_TIMEOUT:g} to {LONGEST_TIMEOUT:g}")
    return float(said)


def _unit(text: str, unit: str, *, serial: bool) -> int:
    # Unit 0 is a broadcast on serial lines, which nobody answers.
    lowest, highest = (1, 247) if serial else (0, 255)
    if not (unit.isascii() and unit.isdigit() and len(unit) <= 3 and lowest <= int(unit) <= highest):
        raise EndpointError(text, "unit", f"not a number from {lowest} to {highest}")
    return int(unit)
