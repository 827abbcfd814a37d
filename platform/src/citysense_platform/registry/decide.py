"""May this device be registered, or changed, like that: named reasons for a no.

Pure: looks at what is asked, at the profile and at what the registry holds already. The form of single fields (lengths,
ranges, patterns) is checked where the request comes in, see `bodies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from citysense_platform.registry.device import Change, CredentialKind, Device, NewDevice, Settings
from citysense_platform.registry.endpoint import FORMS, endpoint_fault
from citysense_profiles.errors import SettingError
from citysense_profiles.profile import Profile, Setting

ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
POLLED = "modbus"
COAP = "coap"
COAP_KINDS = frozenset({CredentialKind.PSK, CredentialKind.OSCORE})
"""DTLS with pre-shared keys and OSCORE are ways to secure CoAP; no other door knows them."""


class Reason(StrEnum):
    """Why not; the API's stable codes."""

    UNKNOWN_PROFILE = "unknown_profile"
    ENDPOINT_REQUIRED = "endpoint_required"
    ENDPOINT_NOT_ALLOWED = "endpoint_not_allowed"
    ENDPOINT_INVALID = "endpoint_invalid"
    UNKNOWN_SETTING = "unknown_setting"
    SETTING_REQUIRED = "setting_required"
    SETTING_OUT_OF_RANGE = "setting_out_of_range"
    SETTING_NO_NUMBER = "setting_no_number"
    UNKNOWN_CHOICE = "unknown_choice"
    CREDENTIAL_KIND_NOT_AVAILABLE = "credential_kind_not_available"
    REQUEST_UNFIT = "request_unfit"
    UNKNOWN_GATEWAY = "unknown_gateway"
    UNKNOWN_CONCENTRATOR = "unknown_concentrator"
    CONCENTRATOR_IS_ITSELF = "concentrator_is_itself"
    CONCENTRATOR_IS_CHILD = "concentrator_is_child"
    CONCENTRATOR_ELSEWHERE = "concentrator_elsewhere"
    HAS_CHILDREN = "has_children"
    UNKNOWN_SITE = "unknown_site"
    DUPLICATE_ID = "duplicate_id"
    DUPLICATE_SERIAL = "duplicate_serial"
    REVOKED = "revoked"


CONFLICTS = frozenset({Reason.DUPLICATE_ID, Reason.DUPLICATE_SERIAL, Reason.REVOKED})
"""The request is sound, but what the registry holds speaks against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong: the reason, the field of the request, a sentence for a person."""

    reason: Reason
    field: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A no, with everything that speaks against; never empty."""

    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What the registry holds that bears on one request."""

    device_with_id: Device | None
    device_with_serial: Device | None
    """One that is not revoked and has the same profile and serial."""
    site_exists: bool
    """False only if a site was named by an id that nobody knows."""
    gateway_exists: bool = True
    """False only if a gateway was named that nobody knows, or that is revoked."""
    concentrator: Device | None = None
    """The device named as concentrator, if there is one of that id."""
    has_children: bool = False
    """The device itself is the concentrator of devices in use."""


def check_new(new: NewDevice, profile: Profile | None) -> Refusal | None:
    """What speaks against `new` before the registry is looked at."""
    faults: list[Fault] = []
    if profile is None:
        text = f"there is no profile {new.profile!r}; GET /api/v1/profiles lists them"
        faults.append(Fault(reason=Reason.UNKNOWN_PROFILE, field="profile", text=text))
    else:
        faults += endpoint_faults(profile, new.endpoint)
        faults += settings_faults(profile, new.settings)
        if new.credential is not None:
            faults += kind_faults(profile, new.credential.kind, field="credential.kind")
    return Refusal(faults=tuple(faults)) if faults else None


def check_holdings(new: NewDevice, holdings: Holdings) -> Refusal | None:
    """What the registry holds against `new`."""
    faults: list[Fault] = []
    if holdings.device_with_id is not None:
        revoked = holdings.device_with_id.revoked is not None
        text = f"there {'was' if revoked else 'is'} a device {new.id!r} already; an id is not given out twice"
        faults.append(Fault(reason=Reason.DUPLICATE_ID, field="id", text=text))
    elif holdings.device_with_serial is not None:
        other = holdings.device_with_serial.id
        text = f"{new.profile} with serial {new.serial!r} is registered as {other!r}; revoke that one first"
        faults.append(Fault(reason=Reason.DUPLICATE_SERIAL, field="serial", text=text))
    if faults:
        return Refusal(faults=tuple(faults))
    if not holdings.site_exists:
        faults.append(unknown_site(new.site))
    if not holdings.gateway_exists:
        faults.append(unknown_gateway(new.gateway))
    if new.concentrator is not None:
        faults += concentrator_faults(new.id, new.concentrator, holdings, gateway=new.gateway)
    return Refusal(faults=tuple(faults)) if faults else None


def check_change(device: Device, change: Change, profile: Profile | None, holdings: Holdings) -> Refusal | None:
    """What speaks against `change`; only the fields it touches are looked at."""
    if device.revoked is not None:
        return revoked(device)
    faults: list[Fault] = []
    if profile is not None and "endpoint" in change.fields:
        faults += endpoint_faults(profile, change.endpoint)
    if profile is not None and "settings" in change.fields:
        faults += settings_faults(profile, merged(device.settings, change.settings))
    if not holdings.site_exists:
        faults.append(unknown_site(change.site))
    if not holdings.gateway_exists:
        faults.append(unknown_gateway(change.gateway))
    concentrator = change.concentrator if "concentrator" in change.fields else device.concentrator
    if concentrator is not None and change.fields & {"concentrator", "gateway"}:
        gateway = change.gateway if "gateway" in change.fields else device.gateway
        faults += concentrator_faults(device.id, concentrator, holdings, gateway=gateway)
    return Refusal(faults=tuple(faults)) if faults else None


def revoked(device: Device) -> Refusal:
    """Nothing can be done with a revoked device any more."""
    text = f"{device.id!r} is revoked for good; register the hardware under a new id"
    return Refusal(faults=(Fault(reason=Reason.REVOKED, field="", text=text),))


def kind_faults(profile: Profile, kind: CredentialKind, *, field: str) -> list[Fault]:
    """A credential must be of use on a way that the profile's devices take."""
    if kind not in COAP_KINDS or COAP in profile.transports:
        return []
    ways = ", ".join(sorted(profile.transports))
    text = f"{kind} secures CoAP, and {profile.id} speaks {ways}; ask for 'password' or 'x509', or leave it out"
    return [Fault(reason=Reason.CREDENTIAL_KIND_NOT_AVAILABLE, field=field, text=text)]


def concentrator_faults(device_id: str, named: str, holdings: Holdings, *, gateway: str | None) -> list[Fault]:
    """A concentrator is a device in use on the same gateway (`gateway` None: wherever it is), and no child itself."""
    found = holdings.concentrator
    if named == device_id:
        reason, text = Reason.CONCENTRATOR_IS_ITSELF, "a device speaks for itself without being named; leave it out"
    elif found is None or found.revoked is not None:
        reason, text = Reason.UNKNOWN_CONCENTRATOR, f"there is no device {named!r} in use; register it first"
    elif found.concentrator is not None:
        reason = Reason.CONCENTRATOR_IS_CHILD
        text = f"{named!r} is behind {found.concentrator!r} itself; name the one that talks to the gateway"
    elif gateway is not None and found.gateway != gateway:
        reason = Reason.CONCENTRATOR_ELSEWHERE
        text = f"{named!r} is on {found.gateway!r} and this device on {gateway!r}; a concentrator speaks to one gateway"
    elif holdings.has_children:
        reason, text = Reason.HAS_CHILDREN, f"{device_id!r} is a concentrator; give its devices another one first"
    else:
        return []
    return [Fault(reason=reason, field="concentrator", text=text)]


def unknown_gateway(gateway: str | None) -> Fault:
    """The named gateway does not exist, or is revoked."""
    text = f"there is no gateway {gateway!r} in use; GET /api/v1/gateways lists them"
    return Fault(reason=Reason.UNKNOWN_GATEWAY, field="gateway", text=text)


def merged(settings: Settings, change: Mapping[str, float | str | None]) -> dict[str, float | str]:
    """`settings` with `change` laid over it; None takes a setting away."""
    return {name: value for name, value in {**settings, **change}.items() if value is not None}


def endpoint_faults(profile: Profile, endpoint: str | None) -> list[Fault]:
    """An endpoint belongs to what is polled, and only to that."""
    if endpoint is None:
        if profile.transports != {POLLED}:
            return []
        text = f"{profile.id} is polled and needs its address: {FORMS}"
        return [Fault(reason=Reason.ENDPOINT_REQUIRED, field="endpoint", text=text)]
    if POLLED not in profile.transports:
        ways = ", ".join(sorted(profile.transports))
        text = f"{profile.id} calls us over {ways} and has no endpoint; leave it out"
        return [Fault(reason=Reason.ENDPOINT_NOT_ALLOWED, field="endpoint", text=text)]
    fault = endpoint_fault(endpoint)
    return [Fault(reason=Reason.ENDPOINT_INVALID, field="endpoint", text=f"{endpoint!r} {fault}")] if fault else []


def settings_faults(profile: Profile, settings: Settings) -> list[Fault]:
    """Each setting must be one of the profile's: a number within its sensible range, or a choice of an option. None
    that is required may lack."""
    faults: list[Fault] = []
    for name, value in settings.items():
        if name in profile.options:
            continue
        setting = profile.settings.get(name)
        fault = _unknown_setting(profile, name) if setting is None else _number_fault(setting, value)
        if fault is not None:
            faults.append(fault)
    for name, setting in profile.settings.items():
        if setting.required and setting.default is None and name not in settings:
            text = f"this profile cannot be used without {name} ({setting.title}, in {setting.unit})"
            faults.append(Fault(reason=Reason.SETTING_REQUIRED, field=f"settings.{name}", text=text))
    try:
        profile.fitted(settings)
    except SettingError as error:
        faults.append(Fault(reason=Reason.UNKNOWN_CHOICE, field=f"settings.{error.setting}", text=error.text))
    return faults


def _unknown_setting(profile: Profile, name: str) -> Fault:
    names = ", ".join((*profile.settings, *profile.options)) or "none at all"
    text = f"{name!r} is no setting of this profile, which has {names}"
    return Fault(reason=Reason.UNKNOWN_SETTING, field="settings", text=text)


def _number_fault(setting: Setting, value: float | str) -> Fault | None:
    field = f"settings.{setting.name}"
    if isinstance(value, str):
        text = f"{setting.name} is {value!r}; it is a number, in {setting.unit}, written without quotes"
        return Fault(reason=Reason.SETTING_NO_NUMBER, field=field, text=text)
    if _within(value, setting):
        return None
    text = f"{setting.name} is {value:g} {setting.unit}; sensible is {_range(setting)}"
    return Fault(reason=Reason.SETTING_OUT_OF_RANGE, field=field, text=text)


def unknown_site(site: object) -> Fault:
    """The named site does not exist."""
    text = f"there is no site {site}; give name, lon, lat and datum to make one"
    return Fault(reason=Reason.UNKNOWN_SITE, field="site.id", text=text)


def _within(value: float, setting: Setting) -> bool:
    low = setting.low if setting.low is not None else value
    high = setting.high if setting.high is not None else value
    return low <= value <= high


def _range(setting: Setting) -> str:
    low = "anything" if setting.low is None else f"{setting.low:g}"
    high = "anything" if setting.high is None else f"{setting.high:g}"
    return f"from {low} to {high} {setting.unit}"
