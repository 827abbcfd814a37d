"""How to reach the city's broker, and who we are there.

Owns the checks of what people write: address, accounts, files. Does no I/O but reading certificates, in `tls_context`.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from citysense.errors import SetupError
from citysense_gateway.mqtt.topics import DEVICE_ID

PASSWORD = "CITYSENSE_BROKER_PASSWORD"  # noqa: S105 - the variable's name
PROBES = "CITYSENSE_BROKER_PROBES"
PORTS = {"mqtt": 1883, "mqtts": 8883}
PROTOCOLS = {"5": 5, "3.1.1": 4}
_GATEWAY = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """User name and password at the broker; a user without a password is known by its certificate."""

    user: str
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """Everything about one broker. `client_id` names our session there for as long as the gateway's token lives."""

    host: str
    port: int
    tls: bool
    account: Account
    probes: tuple[Account, Account]
    client_id: str
    protocol: int = 5
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def name(self) -> str:
        """For people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    @property
    def echo_topic(self) -> str:
        """The gateway's own topic: what it publishes there must come back to it."""
        return f"cs/gateway/{self.account.user}/echo"

    def tls_context(self, *, with_certificate: bool = True) -> ssl.SSLContext | None:
        """None for mqtt://. Raises SetupError where a file cannot be used."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if with_certificate and self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as e:
            files = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None)
            raise SetupError(f"--broker: the certificates cannot be used ({e}); give PEM files, now {files}") from e
        return context


def parse_address(text: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is spoken, of mqtt(s)://host:port. Raises SetupError."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as e:
        raise SetupError(f"--broker: {text!r} has no usable port ({e}); write mqtts://host:8883") from e
    if parts.scheme not in PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SetupError(f"--broker: {text!r} is no broker's address; write mqtts://host:8883 or mqtt://127.0.0.1:1883")
    if parts.username is not None or parts.password is not None:
        raise SetupError(
            f"--broker: give the user with --broker-user and the password in {PASSWORD}, not in the address"
        )
    return parts.hostname, port or PORTS[parts.scheme], parts.scheme == "mqtts"


def parse_probes(text: str) -> tuple[Account, Account]:
    """Two accounts written as `user:password,user:password`. Raises SetupError; a password is never quoted."""
    accounts = [
        Account(user=user, password=secret) for user, _, secret in (part.partition(":") for part in text.split(","))
    ]
    if len(accounts) != 2 or any(not DEVICE_ID.fullmatch(account.user) for account in accounts):
        raise SetupError(
            f"{PROBES} must hold two accounts of the broker, as user:password,user:password; user names are like device"
            " ids. With them the gateway proves that one device cannot publish as another"
        )
    if accounts[0].user == accounts[1].user:
        raise SetupError(f"{PROBES} names {accounts[0].user} twice; two different accounts are needed")
    return accounts[0], accounts[1]


def client_id(gateway: str, token: str) -> str:
    """The session's name: the same at every start, another for every gateway, whatever two cities call theirs."""
    if not _GATEWAY.fullmatch(gateway):
        raise SetupError(f"--gateway: {gateway!r} cannot be part of an MQTT client id; use letters, digits, - and _")
    return f"citysense-{gateway}-{hashlib.sha256(f'broker session of {token}'.encode()).hexdigest()[:12]}"


def broker_options(
    *,
    address: str,
    user: str,
    gateway: str,
    token: str,
    environment: Mapping[str, str],
    password_file: Path | None = None,
    protocol: str = "5",
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    insecure: bool = False,
) -> BrokerOptions:
    """Options as given on the command line and in the environment. Raises SetupError with a sentence."""
    host, port, tls = parse_address(address)
    if not tls and not insecure and not _is_loopback(host):
        raise SetupError(
            f"--broker: mqtt://{host} would carry passwords in clear over the network; use mqtts://, or --insecure on a"
            " test bench"
        )
    if (cert is None) != (key is None):
        raise SetupError("--broker-cert and --broker-key go together; one of them is missing")
    if protocol not in PROTOCOLS:
        raise SetupError(f"--broker-protocol: {protocol!r} is unknown; known: {', '.join(PROTOCOLS)}")
    if not _GATEWAY.fullmatch(user):
        raise SetupError(f"--broker-user: {user!r} is no user name of a gateway; use letters, digits, - and _")
    if PROBES not in environment:
        raise SetupError(
            f"--broker needs {PROBES}=user:password,user:password, two accounts that are used for nothing else: with"
            " them the gateway proves that the broker keeps devices apart"
        )
    return BrokerOptions(
        host=host,
        port=port,
        tls=tls,
        account=Account(user=user, password=_password(environment, password_file)),
        probes=parse_probes(environment[PROBES]),
        client_id=client_id(gateway, token),
        protocol=PROTOCOLS[protocol],
        ca=ca,
        cert=cert,
        key=key,
    )


def _password(environment: Mapping[str, str], file: Path | None) -> str:
    if file is None:
        return environment.get(PASSWORD, "")
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as e:
        raise SetupError(f"--broker-password-file: {file} cannot be read ({e})") from e


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
