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
    dtls_port: int | None = None
    """UDP port of CoAP over DTLS; None for none. Needs the extra `dtls`."""
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    profiles: Path | None = None
    """A city's own profiles, beside those that are shipped."""
    gateway: str = DEFAULT_GATEWAY
    broker: str | None = None
    """The city's own broker to read from as well, as mqtt(s)://host:port."""
    broker_user: str = "gateway"
    broker_password_file: Path | None = None
    broker_ca: Path | None = None
    broker_cert: Path | None = None
    broker_key: Path | None = None
    broker_protocol: str = "5"
    modbus_ca: Path | None = None
    """Who signed the certificates of devices behind modbus+tls; None: whom the system trusts."""
    modbus_cert: Path | None = None
    modbus_key: Path | None = None
    status_port: int = 0
    """TCP port on loopback of health and figures."""
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
    if (settings.modbus_cert is None) != (settings.modbus_key is None):
        raise SetupError("--modbus-cert and --modbus-key go together; one of them is missing")
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
    parser.add_argument(
        "--platform", dest="platform_url", required=True, metavar="URL", help="address of the platform's API"
    )
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="IP address to listen on")
    parser.add_argument("--mqtt-port", type=int, default=1883, metavar="PORT")
    parser.add_argument("--coap-port", type=int, default=5683, metavar="PORT")
    parser.add_argument(
        "--dtls-port", type=int, metavar="PORT", help="CoAP over DTLS with pre-shared keys; off without"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain (PEM) of the MQTT door")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="private key (PEM) of the certificate")
    parser.add_argument("--profiles", type=Path, metavar="DIR", help="a city's own profiles")
    parser.add_argument("--gateway", default=DEFAULT_GATEWAY, metavar="NAME", help="name of this gateway")
    parser.add_argument("--broker", metavar="URL", help="the city's own broker to read from too: mqtts://host:port")
    parser.add_argument("--broker-user", default="gateway", metavar="NAME", help="the gateway's account there")
    parser.add_argument(
        "--broker-password-file", type=Path, metavar="FILE", help="instead of CITYSENSE_BROKER_PASSWORD"
    )
    parser.add_argument("--broker-ca", type=Path, metavar="FILE", help="who signed the broker's certificate (PEM)")
    parser.add_argument(
        "--broker-cert", type=Path, metavar="FILE", help="the gateway's certificate for the broker (PEM)"
    )
    parser.add_argument("--broker-key", type=Path, metavar="FILE", help="private key (PEM) of that certificate")
    parser.add_argument("--broker-protocol", choices=("5", "3.1.1"), default="5", help="version of MQTT to speak there")
    parser.add_argument("--modbus-ca", type=Path, metavar="FILE", help="who signed Modbus devices' certificates (PEM)")
    parser.add_argument("--modbus-cert", type=Path, metavar="FILE", help="the gateway's certificate for them (PEM)")
    parser.add_argument("--modbus-key", type=Path, metavar="FILE", help="private key (PEM) of that certificate")
    parser.add_argument(
        "--status-port",
        type=int,
        default=0,
        metavar="PORT",
        help="of health and figures, on loopback; 0 takes a free one",
    )
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL", help=argparse.SUPPRESS)
    parser.add_argument("--insecure", action="store_true", help="listen beyond loopback without TLS")
    return checked(GatewaySettings(**vars(parser.parse_args(arguments))))
