"""The address under which a gateway polls a Modbus device: is it well-formed.

Pure. Whether somebody answers there, and whether the gateway may call there, is the gateway's business.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, urlsplit

FORMS = "modbus+tcp://host:port/unit, modbus+rtu-tcp://host:port/unit, modbus+tls://host:port/unit or modbus+rtu:///dev/ttyUSB0?baud=9600&parity=N&unit=1"
_NETWORK = frozenset({"modbus+tcp", "modbus+rtu-tcp", "modbus+tls"})
_SERIAL = "modbus+rtu"
_SERIAL_SERVER = "modbus+rtu-tcp"
_PRINTABLE = re.compile(r"[!-~]+")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
"""Of a host's name (RFC 1123 section 2.1). The underscore is not in there, but names that resolve have it."""
LONGEST_HOST = 253
_TTY = re.compile(r"/dev/(?:tty[A-Za-z][A-Za-z0-9_.-]*|pts/[0-9]+|serial/[A-Za-z0-9_.:/-]+)")
"""Ports of serial adapters have a letter after tty; /dev/tty and /dev/tty0 to tty63 are screens of the gateway's machine."""
_LINE = {"baud": re.compile(r"[0-9]{3,7}"), "parity": re.compile(r"[NEO]"), "stop": re.compile(r"[12]")}
_TIMEOUT = re.compile(r"timeout=([0-9]{1,2}(?:\.[0-9]{1,3})?)")
SHORTEST_TIMEOUT, LONGEST_TIMEOUT = 0.05, 30.0
"""Seconds that a unit may be given for a reply, as the gateway takes them."""
UNITS_TCP = range(256)
"""255 is what many TCP devices call themselves; 0 is taken too."""
LOWEST_BAUD, HIGHEST_BAUD = 300, 1_000_000
"""As the gateway takes them."""
UNITS_SERIAL = range(1, 248)
"""On a line 0 is a broadcast, which nobody answers."""


def endpoint_fault(endpoint: str) -> str | None:
    """What is wrong with `endpoint`, in words for a person; None if nothing is."""
    if not _PRINTABLE.fullmatch(endpoint):
        return "holds a blank or a character that no address has"
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError as e:
        return f"is no address ({e})"
    if endpoint[-1] in "?#":
        return f"ends with {endpoint[-1]!r} and nothing after it; leave that out"
    if parts.scheme in _NETWORK:
        return _network_fault(parts, port)
    if parts.scheme == _SERIAL:
        return _serial_fault(parts)
    return f"begins with {parts.scheme + ':' if parts.scheme else 'no scheme'!r}; write {FORMS}"


def _network_fault(parts: SplitResult, port: int | None) -> str | None:
    if parts.username is not None or parts.fragment:
        return f"has more than host, port and unit; write {parts.scheme}://host:port/unit"
    if parts.query and not _is_timeout(parts.query):
        return (
            f"has {parts.query!r} after the ?; only timeout={SHORTEST_TIMEOUT:g} to {LONGEST_TIMEOUT:g} (seconds) may"
            " stand there"
        )
    if not parts.hostname:
        return "names no host"
    if not _is_host(parts.hostname):
        return f"names the host {parts.hostname!r}, which is neither an IP address nor a name that can be looked up"
    if port is None and (parts.scheme == _SERIAL_SERVER or parts.netloc.endswith(":")):
        return "names no port from 1 to 65535; only modbus+tcp (502) and modbus+tls (802) have a usual one"
    if port == 0:
        return "names port 0; a port is a number from 1 to 65535"
    units = UNITS_SERIAL if parts.scheme == _SERIAL_SERVER else UNITS_TCP
    if not _is_number_in(parts.path[1:], units):
        return f"ends with unit {parts.path[1:]!r}; the unit is a number from {units[0]} to {units[-1]}"
    return None


def _serial_fault(parts: SplitResult) -> str | None:
    if parts.netloc or parts.fragment or not _TTY.fullmatch(parts.path) or ".." in parts.path:
        return "names no serial port; write three slashes and the port: modbus+rtu:///dev/ttyUSB0?…"
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        pairs = []
    values = dict(pairs)
    if len(values) != len(pairs) or not _is_number_in(values.pop("unit", ""), UNITS_SERIAL):
        return "names no unit from 1 to 247; write ?baud=9600&parity=N&unit=1"
    timeout = values.pop("timeout", None)
    if timeout is not None and not _is_timeout(f"timeout={timeout}"):
        return f"has timeout={timeout!r}; write seconds from {SHORTEST_TIMEOUT:g} to {LONGEST_TIMEOUT:g}"
    for name, value in values.items():
        form = _LINE.get(name)
        if form is None:
            return f"has {name!r}, which is none of baud, parity, stop, unit, timeout"
        if not form.fullmatch(value):
            return f"has {name}={value!r}; write ?baud=9600&parity=N&stop=1&unit=1 (parity N, E or O; stop 1 or 2)"
    if not LOWEST_BAUD <= int(values.get("baud", "0")) <= HIGHEST_BAUD:
        return f"names no baud from {LOWEST_BAUD} to {HIGHEST_BAUD}; most devices leave their factory with 9600"
    return None


def _is_host(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        labels = host.split(".")
        # What ends with a number is meant as an IPv4 address, and is none.
        named = len(host) <= LONGEST_HOST and all(map(_LABEL.fullmatch, labels))
        return named and not labels[-1].isdigit()
    return True


def _is_number_in(text: str, allowed: range) -> bool:
    # isdigit alone also takes the digits of other scripts; the pattern of printable ASCII has excluded them.
    return text.isdigit() and len(text) <= 3 and int(text) in allowed


def _is_timeout(query: str) -> bool:
    found = _TIMEOUT.fullmatch(query)
    return found is not None and SHORTEST_TIMEOUT <= float(found[1]) <= LONGEST_TIMEOUT
