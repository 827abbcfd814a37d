"""What carries telegrams: pymodbus clients for TCP, TLS, RTU over TCP and serial ports.

Owns how each link is opened, and TLS. Reads the certificates; connects to nobody by itself.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pymodbus import FramerType
from pymodbus.client.base import ModbusBaseClient
from pymodbus.transport import CommParams, CommType

from citysense.errors import SetupError
from citysense_gateway.modbus.endpoint import Line, Link

_NEVER = 3600.0
"""The library's own limit of time; ours are shorter, and differ from slave to slave."""
_TYPES = {
    Link.TCP: CommType.TCP,
    Link.RTU_TCP: CommType.TCP,
    Link.TLS: CommType.TLS,
    Link.RTU: CommType.SERIAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusTls:
    """How servers of modbus+tls are checked, and how we show who we are (PEM files).

    Without `authority` the system's authorities count. `certificate` may hold the key, else `key` does. `insecure` takes
    any server, for a test bench.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False


def tls_context(tls: ModbusTls) -> ssl.SSLContext:
    """The context for all modbus+tls lines. Raises SetupError where a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=tls.authority)
    except (OSError, ssl.SSLError) as error:
        raise SetupError(
            f"Modbus TLS: the authorities in {tls.authority} cannot be used ({error}); give a PEM file"
        ) from error
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate is not None:
        try:
            context.load_cert_chain(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise SetupError(
                f"Modbus TLS: {tls.certificate} and its key cannot be used ({error}); give PEM files"
            ) from error
    return context


def new_client(
    line: Line,
    *,
    tls: ssl.SSLContext | None,
    trace_packet: Callable[[bool, bytes], bytes],
    trace_connect: Callable[[bool], None],
) -> ModbusBaseClient:
    """A client that is not connected yet.

    TLS runs with the framer of plain TCP: the telegrams are the same (Modbus/TCP Security), and the library's own framer
    for it takes every piece that arrives for a whole one.
    """
    params = CommParams(
        comm_name="modbus",
        comm_type=_TYPES[line.link],
        reconnect_delay=0.0,
        timeout_connect=_NEVER,
        host=line.path or line.host,
        port=line.port,
        sslctx=tls if line.link is Link.TLS else None,
        baudrate=line.baud,
        bytesize=8,
        parity=line.parity,
        stopbits=line.stop,
    )
    framer = FramerType.RTU if is_rtu(line) else FramerType.SOCKET
    return ModbusBaseClient(framer, 0, params, trace_packet, None, trace_connect)


def is_rtu(line: Line) -> bool:
    """Whether telegrams have no number: then a late reply looks like the right one."""
    return line.link in (Link.RTU, Link.RTU_TCP)


def silence_library() -> None:
    """Keep pymodbus from logging every failed request on its own: outages are logged once, by the line."""
    logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)
