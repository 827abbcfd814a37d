"""The devices that this gateway serves, in memory: who they are, what they may, and whose password is right.

Owns the view of the latest roster, with each device's compiled profile. Answers in microseconds and does no I/O; the
roster itself comes from `roster.py`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from citysense import wire
from citysense.keys import password_digest
from citysense_profiles.catalogue import Catalogue
from citysense_profiles.errors import SettingError
from citysense_profiles.profile import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A registered device. `profile` is the variant that its options choose; `settings` are the numbers among its
    settings, in the units of the profile."""

    id: str
    profile: Profile
    settings: Mapping[str, float]
    serial: str | None
    """The vendor's own id, which a payload may carry and which then must agree."""
    endpoint: str | None
    """Where to reach a device that is polled."""
    concentrator: str = ""
    """The device that may speak for this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a new roster changed, as device ids in the order of the roster."""

    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Anything but the credential alone: profile, settings, serial, endpoint."""
    rekeyed: tuple[str, ...] = ()
    """The credential is another one."""
    unsupported: tuple[tuple[str, str], ...] = ()
    """(device, profile) where this gateway does not know the profile; the device is not served."""
    unfit: tuple[tuple[str, str], ...] = ()
    """(device, sentence) where the profile has no such choice of an option; the device is not served."""

    @property
    def cut(self) -> tuple[str, ...]:
        """Devices whose open sessions must end: they came in with rights that are gone."""
        return (*self.removed, *self.rekeyed)


class Devices:
    """Devices by id."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._devices: dict[str, Device] = {}
        self._entries: dict[str, wire.RosterDevice] = {}
        self._authority = ""
        self._children: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._devices)

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices.values())

    def get(self, device: str) -> Device | None:
        """The device of that id, or None."""
        return self._devices.get(device)

    def known(self, device: str) -> bool:
        """True for a registered device that is not revoked."""
        return device in self._devices

    def check_password(self, device: str, secret: bytes) -> bool:
        """True only for a registered, unrevoked device whose password `secret` is."""
        entry = self._entries.get(device)
        if entry is None or not entry.digest:
            # The same work as for a device that exists, so that the time taken does not tell which ids do.
            hmac.compare_digest(password_digest(b"", secret), bytes(32))
            return False
        return hmac.compare_digest(password_digest(entry.salt, secret), entry.digest)

    def check_certificate(self, device: str, certificate: bytes) -> bool:
        """True only for a registered, unrevoked device whose certificate (DER) this is."""
        entry = self._entries.get(device)
        digest = hashlib.sha256(certificate).digest()
        return entry is not None and len(entry.fingerprint) == len(digest) and entry.fingerprint == digest

    def psk(self, device: str) -> bytes | None:
        """The device's pre-shared key; None where it has none."""
        entry = self._entries.get(device)
        return entry.psk if entry is not None and entry.psk else None

    def oscore(self) -> Mapping[str, wire.Oscore]:
        """The OSCORE keys of all devices that have some, by device."""
        return {device: entry.oscore for device, entry in self._entries.items() if entry.oscore is not None}

    def speaks_for(self, concentrator: str, child: str) -> bool:
        """True if that concentrator may send frames of that device."""
        known = self._devices.get(child)
        return known is not None and bool(known.concentrator) and known.concentrator == concentrator

    def children_of(self, concentrator: str) -> tuple[str, ...]:
        """The devices that a concentrator may speak for."""
        return self._children.get(concentrator, ())

    def concentrator_of(self, child: str) -> str:
        """The concentrator that may speak for a device; empty for none."""
        known = self._devices.get(child)
        return "" if known is None else known.concentrator

    @property
    def authority(self) -> str:
        """The certificate (PEM) that signs devices' certificates; empty where there is none."""
        return self._authority

    def topic_rights(self, device: str, topic: str) -> str | None:
        """The message that `device` sends on a vendor topic of its profile; empty where the topic names none.

        None when no template of the profile, with the device's own id in it, is this topic.
        """
        known = self._devices.get(device)
        if known is None:
            return None
        own = (template.replace("{device}", device) for template in known.profile.mqtt_topics)
        return "" if topic in own else None

    def use(self, catalogue: Catalogue) -> None:
        """Compile devices by `catalogue` from the next `replace` on."""
        self._catalogue = catalogue

    def replace(self, roster: wire.Roster) -> Changes:
        """Serve `roster` from now on; returns what is different from before."""
        devices: dict[str, Device] = {}
        entries: dict[str, wire.RosterDevice] = {}
        unsupported: list[tuple[str, str]] = []
        unfit: list[tuple[str, str]] = []
        for entry in roster.devices:
            profile = self._catalogue.get(entry.profile)
            if profile is None:
                unsupported.append((entry.id, entry.profile))
                continue
            try:
                fitted = profile.fitted(entry.settings)
            except SettingError as error:
                unfit.append((entry.id, str(error)))
                continue
            entries[entry.id] = entry
            devices[entry.id] = Device(
                id=entry.id,
                profile=fitted,
                settings=_numbers(entry.settings, profile),
                serial=entry.serial,
                endpoint=entry.endpoint,
                concentrator=entry.concentrator,
            )
        changes = _difference(self._entries, entries, unsupported=tuple(unsupported), unfit=tuple(unfit))
        self._devices, self._entries, self._authority = devices, entries, roster.authority
        self._children = _by_concentrator(devices)
        return changes


def _by_concentrator(devices: Mapping[str, Device]) -> dict[str, tuple[str, ...]]:
    children: dict[str, list[str]] = {}
    for device in devices.values():
        if device.concentrator:
            children.setdefault(device.concentrator, []).append(device.id)
    return {concentrator: tuple(theirs) for concentrator, theirs in children.items()}


def _difference(
    before: Mapping[str, wire.RosterDevice],
    after: Mapping[str, wire.RosterDevice],
    *,
    unsupported: tuple[tuple[str, str], ...],
    unfit: tuple[tuple[str, str], ...],
) -> Changes:
    both = [device for device in after if device in before]
    return Changes(
        removed=tuple(device for device in before if device not in after),
        added=tuple(device for device in after if device not in before),
        changed=tuple(device for device in both if _described(before[device]) != _described(after[device])),
        rekeyed=tuple(device for device in both if _credential(before[device]) != _credential(after[device])),
        unsupported=unsupported,
        unfit=unfit,
    )


def _numbers(settings: Mapping[str, float | str], profile: Profile) -> dict[str, float]:
    """The settings that are numbers to compute with: what chooses a variant has done its work."""
    return {
        name: value for name, value in settings.items() if not isinstance(value, str) and name not in profile.options
    }


def _described(entry: wire.RosterDevice) -> tuple[object, ...]:
    return (entry.profile, entry.endpoint, entry.serial, entry.settings, entry.concentrator)


def _credential(entry: wire.RosterDevice) -> tuple[object, ...]:
    return (entry.salt, entry.digest, entry.fingerprint, entry.psk, entry.oscore)
