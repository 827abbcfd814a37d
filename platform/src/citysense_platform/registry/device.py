"""The registry's nouns: site, device, what an installer asks for and what a gateway gets to know. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Settings = Mapping[str, float | str]
"""What an installer enters for one device: numbers, in the units of its profile, and choices between variants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something stands: a name and degrees in the map datum they were taken in (wgs84, gcj02 or bd09)."""

    name: str
    lon: float
    lat: float
    datum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place that the registry knows. Its `id` stands in telemetry and never changes meaning."""

    id: int
    place: Place


class CredentialKind(StrEnum):
    """How a device proves who it is."""

    PASSWORD = "password"  # noqa: S105 - a word, not a secret
    X509 = "x509"
    PSK = "psk"
    OSCORE = "oscore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A credential to be made. `request` is a signing request in PEM, for a device that keeps its own private key."""

    kind: CredentialKind
    request: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A credential as it is kept. `number` is its own for ever, 0 before it is stored.

    `salt` and `digest` belong to a password, `fingerprint` (SHA-256 of the certificate in DER) and `expires` (ms) to a
    certificate, `sealed` to keys that the gateway needs in clear.
    """

    kind: CredentialKind
    number: int = 0
    salt: bytes = b""
    digest: bytes = b""
    fingerprint: bytes = b""
    expires: int | None = None
    sealed: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDevice:
    """What is asked for. `site` is a place to find or make, the id of a known site, or None for hardware in stock.

    `gateway` None is that of its concentrator, else the default one. `concentrator` is the device that speaks for this
    one. `credential` is None for none.
    """

    id: str
    profile: str
    site: Place | int | None
    endpoint: str | None
    serial: str | None
    settings: Settings
    credential: Wanted | None
    gateway: str | None = None
    concentrator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to become different; `fields` names which of the others count."""

    fields: frozenset[str]
    endpoint: str | None = None
    settings: Mapping[str, float | str | None] = field(default_factory=dict)
    """Merged into the device's own; None takes one away."""
    site: Place | int | None = None
    gateway: str = ""
    concentrator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as it is registered. Times in ms since 1970 UTC; `version` is the registry's at its last change."""

    id: str
    profile: str
    site: Site | None
    gateway: str
    endpoint: str | None
    serial: str | None
    settings: Settings
    credential: Credential | None
    created: int
    revoked: int | None
    version: int
    concentrator: str | None = None
    """The device that may speak for this one, on the same gateway."""
    former: Former | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """The gateway that a device was moved away from last, and when (ms)."""

    gateway: str
    moved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """A device with a fresh credential; `shown` holds what of it is shown this once, by field of the answer."""

    device: Device
    shown: Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A gateway as it is enrolled. Times in ms since 1970 UTC; `devices` counts those in use that are assigned to it."""

    id: str
    created: int
    revoked: int | None
    devices: int
