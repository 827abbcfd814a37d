"""The processes of one instance: their command lines, their ports, and where they find each other.

Pure: from the settings to what is to be started. Starting is `supervisor`'s and `stack`'s.
"""

from __future__ import annotations

import socket
from pathlib import Path

from citysense.cli.ports import Port
from citysense.cli.supervisor import Program
from citysense.settings import Settings


def wanted_ports(settings: Settings) -> list[Port]:
    """The listeners of one instance."""
    status = Port(
        number=settings.gateway_status_port,
        kind=socket.SOCK_STREAM,
        purpose="gateway's status",
        option="--gateway-status-port",
    )
    dtls = (
        Port(number=settings.dtls_port, kind=socket.SOCK_DGRAM, purpose="CoAP over DTLS", option="--dtls-port")
        if settings.dtls_port is not None
        else None
    )
    return [
        *([status] if settings.gateway_status_port else []),
        Port(number=settings.api_port, kind=socket.SOCK_STREAM, purpose="API", option="--api-port"),
        Port(number=settings.mqtt_port, kind=socket.SOCK_STREAM, purpose="MQTT", option="--mqtt-port"),
        Port(number=settings.coap_port, kind=socket.SOCK_DGRAM, purpose="CoAP", option="--coap-port"),
        *([dtls] if dtls is not None else []),
    ]


def api_url(settings: Settings) -> str:
    """Where the processes of this box find the API: on loopback, also when it is served on every address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.bind, settings.bind)  # noqa: S104 - compared, not bound
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://[{host}]:{settings.api_port}" if ":" in host else f"{scheme}://{host}:{settings.api_port}"


def programs(settings: Settings, data: Path, scenario: Path | None) -> list[Program]:
    """The processes of one instance, in the order in which they start."""
    url = api_url(settings)
    tls = ["--tls-cert", str(settings.tls_cert), "--tls-key", str(settings.tls_key)] if settings.tls_cert else []
    insecure = ["--insecure"] if settings.insecure else []
    common = ["--data", str(data), "--bind", settings.bind]
    common += ["--profiles", str(settings.profiles)] if settings.profiles else []
    platform = [*common, "--api-port", str(settings.api_port), "--speed", str(settings.speed), *tls]
    platform += ["--responsible-unit", settings.responsible_unit]
    platform += ["--influx", settings.influx] if settings.influx else []
    platform += ["--rules", str(settings.rules)] if settings.rules else []
    token = {"CITYSENSE_INFLUX_TOKEN": settings.influx_token} if settings.influx_token else {}
    found = [
        Program(name="platform", module="citysense_platform.app", arguments=platform, environment=token),
        Program(
            name="gateway",
            module="citysense_gateway.app",
            arguments=[*common, *_gateway(settings), "--platform", url, *tls, *insecure],
            environment=_broker_secrets(settings),
        ),
    ]
    if scenario is not None:
        story = [
            "--data",
            str(data),
            "--api",
            url,
            *_doors(settings),
            "--speed",
            str(settings.speed),
            "--scenario",
            str(scenario),
        ]
        found.append(Program(name="simulator", module="citysense_sim.app", arguments=story))
    return found


def _doors(settings: Settings) -> list[str]:
    return ["--mqtt-port", str(settings.mqtt_port), "--coap-port", str(settings.coap_port)]


def _gateway(settings: Settings) -> list[str]:
    """What only the gateway is told."""
    dtls = ["--dtls-port", str(settings.dtls_port)] if settings.dtls_port is not None else []
    status = ["--status-port", str(settings.gateway_status_port)]
    return [*_doors(settings), *dtls, *status, *_broker(settings), *_modbus(settings)]


def _modbus(settings: Settings) -> list[str]:
    """The gateway's options for devices that it polls over TLS."""
    files = {
        "--modbus-ca": settings.modbus_ca,
        "--modbus-cert": settings.modbus_cert,
        "--modbus-key": settings.modbus_key,
    }
    return [word for option, file in files.items() if file is not None for word in (option, str(file))]


def _broker(settings: Settings) -> list[str]:
    """The gateway's options for the city's own broker."""
    if settings.broker is None:
        return []
    found = ["--broker", settings.broker, "--broker-user", settings.broker_user]
    found += ["--broker-protocol", settings.broker_protocol]
    for name, path in (("ca", settings.broker_ca), ("cert", settings.broker_cert), ("key", settings.broker_key)):
        found += [f"--broker-{name}", str(path)] if path is not None else []
    return found


def _broker_secrets(settings: Settings) -> dict[str, str]:
    """What must not stand on a command line, where every user of the machine can read it."""
    secrets = {"CITYSENSE_BROKER_PASSWORD": settings.broker_password, "CITYSENSE_BROKER_PROBES": settings.broker_probes}
    return {name: value for name, value in secrets.items() if value is not None}
