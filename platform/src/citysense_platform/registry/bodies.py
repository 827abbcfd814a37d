"""The registry's JSON: what may stand in a request, field by field, and what an answer looks like."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints, model_validator

from citysense.clock import rfc3339
from citysense_platform.registry.decide import ID_PATTERN
from citysense_platform.registry.device import Change, Device, NewDevice, Place, Provisioned
from citysense_profiles.profile import Profile

_TEXT = r"^[^\x00-\x1f\x7f]+$"
"""Names and serials end up in lists and logs: no control characters."""
LONGEST_CHOICE = 200
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Datum = Literal["wgs84", "gcj02", "bd09"]
Kind = Literal["password", "x509", "psk", "oscore"]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=_TEXT)]
Serial = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_TEXT)]
Endpoint = Annotated[str, StringConstraints(min_length=1, max_length=300)]


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
    """Which kind of credential to make."""

    kind: Kind


class DeviceRequest(_Request):
    """A device to be registered."""

    id: Annotated[str, StringConstraints(pattern=ID_PATTERN)] = Field(description="Chosen by you, never reused.")
    profile: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="See /api/v1/profiles."
    )
    site: SiteRequest | None = Field(None, description="Where it stands; leave out for hardware in stock.")
    endpoint: Endpoint | None = Field(None, description=ENDPOINT_TEXT)
    serial: Serial | None = Field(None, description="The vendor's own id, if the payload carries it.")
    settings: Settings = {}
    credential: CredentialRequest | None = Field(None, description="Leave out for devices that have none.")

    def new_device(self) -> NewDevice:
        """The same as a value of ours."""
        return NewDevice(
            id=self.id,
            profile=self.profile,
            site=self.site.choice() if self.site else None,
            endpoint=self.endpoint,
            serial=self.serial,
            settings=self.settings,
            credential=self.credential.kind if self.credential else None,
        )


class ChangeRequest(_Request):
    """What is to become different; what is left out stays."""

    endpoint: Endpoint | None = Field(None, description=ENDPOINT_TEXT + " null removes it.")
    settings: dict[str, SettingValue | None] = Field(
        {}, max_length=100, description="Laid over the present settings; a null takes that one away."
    )
    site: SiteRequest | None = Field(None, description="null takes the device from its site.")

    def change(self) -> Change:
        """The same as a value of ours."""
        return Change(
            fields=frozenset(self.model_fields_set),
            endpoint=self.endpoint,
            settings=self.settings,
            site=self.site.choice() if self.site else None,
        )


class SiteBody(BaseModel):
    """A place that the registry knows."""

    id: int
    name: str
    lon: float
    lat: float
    datum: Datum


class CredentialBody(BaseModel):
    """A credential, without its secret."""

    kind: Kind
    username: str


class FreshCredentialBody(CredentialBody):
    """A credential just made. The secret is shown this once."""

    secret: str


class DeviceBody(BaseModel):
    """A device as it is registered. `version` is the registry's at its last change."""

    id: str
    profile: str
    kind: str | None
    site: SiteBody | None
    gateway: str
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
    """A device just registered."""

    credential: FreshCredentialBody | None


class ProfileBody(BaseModel):
    """A profile that devices can have."""

    id: str
    kind: str
    title: str
    transports: list[str]
    settings: dict[str, SettingBody]
    options: dict[str, OptionBody]


class SettingBody(BaseModel):
    """A parameter that an installer enters for one device, in `unit`."""

    title: str
    unit: str
    default: float | None
    required: bool
    low: float | None
    high: float | None


class OptionBody(BaseModel):
    """A choice between variants of the product. It is entered among the settings: `value` is what stands there."""

    title: str
    default: str | int
    choices: list[ChoiceBody]


class ChoiceBody(BaseModel):
    """One of an option's choices and what it means."""

    value: str | int
    title: str


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
        "endpoint": device.endpoint,
        "serial": device.serial,
        "settings": dict(device.settings),
        "credential": {"kind": device.credential, "username": device.id} if device.credential else None,
        "created": rfc3339(device.created),
        "revoked": None if device.revoked is None else rfc3339(device.revoked),
        "version": device.version,
        "in_force": in_force,
    }


def new_device_body(provisioned: Provisioned, profile: Profile | None) -> dict[str, Any]:
    """The JSON of a device just registered, with its secret."""
    body = device_body(provisioned.device, profile, in_force=False)
    if provisioned.secret is not None:
        body["credential"] = {**body["credential"], "secret": provisioned.secret}
    return body


def profile_body(profile: Profile) -> dict[str, Any]:
    """The JSON of a profile."""
    settings = {
        name: {
            "title": one.title,
            "unit": one.unit,
            "default": one.default,
            "required": one.required,
            "low": one.low,
            "high": one.high,
        }
        for name, one in profile.settings.items()
    }
    options = {
        name: {
            "title": option.title,
            "default": option.default,
            "choices": [{"value": value, "title": title} for value, title in option.choices.items()],
        }
        for name, option in profile.options.items()
    }
    return {
        "id": profile.id,
        "kind": profile.kind,
        "title": profile.title,
        "transports": sorted(profile.transports),
        "settings": settings,
        "options": options,
    }
