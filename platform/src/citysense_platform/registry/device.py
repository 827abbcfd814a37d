"""The registry's nouns: site, device, what an installer asks for and what a gateway gets to know. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDevice:
    """What is asked for. `site` is a place to find or make, the id of a known site, or None for hardware in stock.

    `credential` is the kind wanted, None for none.
    """

    id: str
    profile: str
    site: Place | int | None
    endpoint: str | None
    serial: str | None
    settings: Settings
    credential: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to become different; `fields` names which of the others count."""

    fields: frozenset[str]
    endpoint: str | None = None
    settings: Mapping[str, float | str | None] = field(default_factory=dict)
    """Merged into the device's own; None takes one away."""
    site: Place | int | None = None


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
    credential: str | None
    """Kind of its credential."""
    salt: bytes
    digest: bytes
    created: int
    revoked: int | None
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Password:
    """A fresh password: the secret in clear, to be shown once, and what is kept of it."""

    secret: str
    salt: bytes
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """A device just registered, with its secret if it has one."""

    device: Device
    secret: str | None
