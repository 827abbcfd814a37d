"""What the gateway process is told at its start.

Owns the command line and its checks; the schema that people edit is `citysense.settings`, whose values arrive here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from citysense.errors import SetupError

DEFAULT_GATEWAY = "gateway-1"
"""Name of the one gateway of a box; the platform knows a gateway by its token and takes the name from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Settings of one gateway. A port of 0 takes a free one."""

    data: Path
    platform_url: str
    bind: str = "127.0.0.1"
    mqtt_port: int = 1883
    coap_port: int = 5683
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    profiles: Path | None = None
    """A city's own profiles, beside those that are shipped."""
    gateway: str = DEFAULT_GATEWAY
    synchronous: str = "FULL"
    """How the spool commits. Anything but FULL breaks the promise behind every acknowledgement; it is there to show
    that the test of that promise can fail."""

    @property
    def on_loopback(self) -> bool:
        """True if only this machine can reach the doors."""
        return ip_address(self.bind).is_loopback


def checked(settings: GatewaySettings) -> GatewaySettings:
    """`settings`, if they go together. Raises SetupError with a sentence."""
    try:
        ip_address(settings.bind)
    except ValueError as e:
        raise SetupError(
            f"--bind: {settings.bind!r} is no IP address; write 127.0.0.1, 0.0.0.0 or an address of this machine"
        ) from e
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SetupError("--tls-cert and --tls-key go together; one of them is missing")
    if not settings.on_loopback and settings.tls_cert is None and not settings.insecure:
        raise SetupError(
            f"--bind: {settings.bind} is not loopback; devices would send their passwords in clear over the network."
            " Give --tls-cert and --tls-key, or --insecure on a test bench"
        )
    return settings


def parse(arguments: Sequence[str]) -> GatewaySettings:
    """The settings on a command line. Raises SetupError; argparse itself leaves with code 2 for unknown options."""
    parser = argparse.ArgumentParser(
        prog="python -m citysense_gateway.app",
        description="Serves devices over MQTT, CoAP and Modbus and hands their readings to the platform.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of spool, keys and tokens")
    parser.add_argument("--platform", required=True, metavar="URL", help="address of the platform's API")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="IP address to listen on")
    parser.add_argument("--mqtt-port", type=int, default=1883, metavar="PORT")
    parser.add_argument("--coap-port", type=int, default=5683, metavar="PORT")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain (PEM) of the MQTT door")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="private key (PEM) of the certificate")
    parser.add_argument("--profiles", type=Path, metavar="DIR", help="a city's own profiles")
    parser.add_argument("--gateway", default=DEFAULT_GATEWAY, metavar="NAME", help="name of this gateway")
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL", help=argparse.SUPPRESS)
    parser.add_argument("--insecure", action="store_true", help="listen beyond loopback without TLS")
    given = parser.parse_args(arguments)
    return checked(
        GatewaySettings(
            data=given.data,
            platform_url=given.platform,
            bind=given.bind,
            mqtt_port=given.mqtt_port,
            coap_port=given.coap_port,
            insecure=given.insecure,
            tls_cert=given.tls_cert,
            tls_key=given.tls_key,
            profiles=given.profiles,
            gateway=given.gateway,
            synchronous=given.synchronous,
        )
    )
