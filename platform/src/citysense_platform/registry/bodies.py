"""The registry's JSON: what may stand in a request, field by field, and what an answer looks like."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints, model_validator

from citysense.clock import rfc3339
from citysense_platform.registry.credentials import public_part
from citysense_platform.registry.decide import ID_PATTERN
from citysense_platform.registry.device import (
    Change,
    Credential,
    CredentialKind,
    Device,
    NewDevice,
    Place,
    Provisioned,
    Wanted,
)
from citysense_profiles.profile import Profile

_TEXT = r"^[^\x00-\x1f\x7f]+$"
"""Names and serials end up in lists and logs: no control characters."""
LONGEST_CHOICE = 200
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Datum = Literal["wgs84", "gcj02", "bd09"]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=_TEXT)]
Serial = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_TEXT)]
Endpoint = Annotated[str, StringConstraints(min_length=1, max_length=300)]
Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]


def _setting(given: object) -> float | str:
    """A number, or the text of a choice; which of the two is right, the profile says."""
    if isinstance(given, str):
        if not 1 <= len(given) <= LONGEST_CHOICE or not given.isprintable():
            raise ValueError(f"a choice is printable text of 1 to {LONGEST_CHOICE} characters")
        return given
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError("a setting is a number, or the text of a choice")
    try:
        number = float(given)
    except OverflowError:
        raise ValueError("the number is too large") from None
    if not isfinite(number):
        raise ValueError("a setting is a finite number")
    return number


SettingValue = Annotated[
    float | str,
    PlainValidator(
        _setting, json_schema_input_type=float | Annotated[str, StringConstraints(max_length=LONGEST_CHOICE)]
    ),
]
Settings = Annotated[
    dict[str, SettingValue],
    Field(max_length=100, description="The profile's device parameters (numbers) and options (choices)."),
]
ENDPOINT_TEXT = "Modbus address, e.g. modbus+tcp://192.0.2.7:502/1; only for polled profiles."


class _Request(BaseModel):
    # A misspelt field is told, not ignored.
    model_config = ConfigDict(extra="forbid")


class SiteRequest(_Request):
    """A place: its name, lon, lat and datum, all four; or the `id` of a site that exists."""

    id: Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)] | None = None
    name: Name | None = None
    lon: Annotated[Number, Field(ge=-180, le=180)] | None = Field(None, description="Degrees east.")
    lat: Annotated[Number, Field(ge=-90, le=90)] | None = Field(None, description="Degrees north.")
    datum: Datum | None = Field(None, description="The map datum that lon and lat were taken in.")

    @model_validator(mode="after")
    def _one_of_two(self) -> SiteRequest:
        lacking = [name for name in ("name", "lon", "lat", "datum") if getattr(self, name) is None]
        if self.id is None and lacking:
            raise ValueError(f"lacks {', '.join(lacking)}; give name, lon, lat and datum, or the id of a site")
        if self.id is not None and len(lacking) < 4:
            raise ValueError("has an id and a position; give one of the two")
        return self

    def choice(self) -> Place | int:
        """The place, or the id."""
        if self.name is None or self.lon is None or self.lat is None or self.datum is None:
            assert self.id is not None
            return self.id
        return Place(name=self.name, lon=self.lon, lat=self.lat, datum=self.datum)


class CredentialRequest(_Request):
    """Which kind of credential to make: a password or x509 for MQTT, psk (DTLS) or oscore for CoAP."""

    kind: CredentialKind
    csr: Annotated[str, StringConstraints(min_length=1, max_length=8_192)] | None = Field(
        None,
        description="For x509: a signing request in PEM, so that the private key stays in the device. Only its public "
        "key counts. Without it, key and certificate are made here.",
    )

    @model_validator(mode="after")
    def _request_for_certificates(self) -> CredentialRequest:
        if self.csr is not None and self.kind is not CredentialKind.X509:
            raise ValueError(f"csr goes with kind x509, not with {self.kind}")
        return self

    def wanted(self) -> Wanted:
        """The same as a value of ours."""
        return Wanted(kind=self.kind, request=self.csr)


_GATEWAY = "The gateway that serves it; see /api/v1/gateways."
_CONCENTRATOR = "The device that speaks for this one, on the same gateway."


class DeviceRequest(_Request):
    """A device to be registered."""

    id: Id = Field(description="Chosen by you, never reused.")
    profile: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="See /api/v1/profiles."
    )
    site: SiteRequest | None = Field(None, description="Where it stands; leave out for hardware in stock.")
    endpoint: Endpoint | None = Field(None, description=ENDPOINT_TEXT)
    serial: Serial | None = Field(None, description="The vendor's own id, if the payload carries it.")
    settings: Settings = {}
    credential: CredentialRequest | None = Field(None, description="Leave out for devices that have none.")
    gateway: Id | None = Field(None, description=_GATEWAY + " Left out: its concentrator's, else the first one.")
    concentrator: Id | None = Field(None, description=_CONCENTRATOR)

    def new_device(self) -> NewDevice:
        """The same as a value of ours."""
        return NewDevice(
            id=self.id,
            profile=self.profile,
            site=self.site.choice() if self.site else None,
            endpoint=self.endpoint,
            serial=self.serial,
            settings=self.settings,
            credential=self.credential.wanted() if self.credential else None,
            gateway=self.gateway,
            concentrator=self.concentrator,
        )


class ChangeRequest(_Request):
    """What is to become different; what is left out stays."""

    endpoint: Endpoint | None = Field(None, description=ENDPOINT_TEXT + " null removes it.")
    settings: dict[str, SettingValue | None] = Field(
        {}, max_length=100, description="Laid over the present settings; a null takes that one away."
    )
    site: SiteRequest | None = Field(None, description="null takes the device from its site.")
    gateway: Id = Field("", description=_GATEWAY + " The devices behind a concentrator move with it.")
    concentrator: Id | None = Field(None, description=_CONCENTRATOR + " null: it speaks for itself.")

    def change(self) -> Change:
        """The same as a value of ours."""
        return Change(
            fields=frozenset(self.model_fields_set),
            endpoint=self.endpoint,
            settings=self.settings,
            site=self.site.choice() if self.site else None,
            gateway=self.gateway,
            concentrator=self.concentrator,
        )


class SiteBody(BaseModel):
    """A place that the registry knows."""

    id: int
    name: str
    lon: float
    lat: float
    datum: Datum


class CredentialBody(BaseModel):
    """A credential, without its secret. `username` is the MQTT user name, a certificate's CN, the identity of a PSK."""

    kind: CredentialKind
    username: str
    fingerprint: str | None = Field(None, description="Of a certificate: SHA-256 of its DER, in hex.")
    expires: str | None = Field(None, description="Of a certificate.")


class FreshCredentialBody(CredentialBody):
    """A credential just made. What is not in `CredentialBody` is shown this once."""

    secret: str | None = Field(
        description="The password; the private key in PEM (null where you sent a csr); the PSK or the OSCORE master "
        "secret in hex."
    )
    certificate: str | None = Field(None, description="x509: the device's certificate, PEM.")
    authority: str | None = Field(None, description="x509: the certificate that signed it, PEM.")
    salt: str | None = Field(None, description="oscore: master salt, hex.")
    sender: str | None = Field(None, description="oscore: the device's sender id, hex.")
    recipient: str | None = Field(None, description="oscore: the gateway's id, the device's recipient id, hex.")
    algorithm: str | None = Field(None, description="oscore: AEAD algorithm. There is no id context.")
    hkdf: str | None = Field(None, description="oscore: key derivation.")


class DeviceBody(BaseModel):
    """A device as it is registered. `version` is the registry's at its last change."""

    id: str
    profile: str
    kind: str | None
    site: SiteBody | None
    gateway: str
    concentrator: str | None
    endpoint: str | None
    serial: str | None
    settings: dict[str, float | str]
    credential: CredentialBody | None
    created: str
    revoked: str | None
    version: int
    in_force: bool
    """True once the device's gateway acts on this version: a new device may send, a revoked one no longer can."""


class NewDeviceBody(DeviceBody):
    """A device with a fresh credential."""

    credential: FreshCredentialBody | None


def device_body(device: Device, profile: Profile | None, *, in_force: bool) -> dict[str, Any]:
    """The JSON of a device; `profile` is None if the catalogue has lost it."""
    site = device.site
    place = site.place if site else None
    return {
        "id": device.id,
        "profile": device.profile,
        "kind": profile.kind if profile else None,
        "site": site
        and place
        and {"id": site.id, "name": place.name, "lon": place.lon, "lat": place.lat, "datum": place.datum},
        "gateway": device.gateway,
        "concentrator": device.concentrator,
        "endpoint": device.endpoint,
        "serial": device.serial,
        "settings": dict(device.settings),
        "credential": _credential_body(device.id, device.credential) if device.credential else None,
        "created": rfc3339(device.created),
        "revoked": None if device.revoked is None else rfc3339(device.revoked),
        "version": device.version,
        "in_force": in_force,
    }


def new_device_body(provisioned: Provisioned, profile: Profile | None) -> dict[str, Any]:
    """The JSON of a device just registered or given a new credential, with its secret."""
    body = device_body(provisioned.device, profile, in_force=False)
    if body["credential"] is not None:
        body["credential"] = {**body["credential"], **provisioned.shown}
    return body


def _credential_body(device: str, credential: Credential) -> dict[str, str]:
    return {"kind": str(credential.kind), "username": device, **public_part(credential)}
