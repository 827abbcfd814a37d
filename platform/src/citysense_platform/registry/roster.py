"""Who is assigned to which gateway, in memory: for gateways that ask for their roster and for ingest, per frame.

Owns the copy of the registry that lives in this process and the waiting of gateways for its next version. The database
stays the truth: every poll reads what changed, so that nothing learned too late is missed for long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from citysense.keys import SealBroken
from citysense.wire import Roster, RosterDevice
from citysense_platform.city.database import City
from citysense_platform.registry import rows
from citysense_platform.registry.credentials import GatewayKeys
from citysense_platform.registry.device import Device
from citysense_profiles.catalogue import Catalogue

log = logging.getLogger(__name__)

FORMER_MS = 60_000
"""A gateway goes on serving a device until it has heard that it was moved; what it acknowledges meanwhile must not be lost."""

KeysOf = Callable[[Device], GatewayKeys]
"""Opens a device's sealed keys; see `Credentials.for_gateway`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """What ingest adds to a reading: the site's id as text ('' for none) and the kind of the device's profile."""

    site: str
    kind: str
    until: int | None = None
    """For a device's former gateway: nothing is taken that it received then (ms) or later."""


class RosterSource:
    """The devices in use, by gateway. `authority` is the certificate (PEM) that gateways are to trust."""

    def __init__(self, city: City, catalogue: Catalogue, *, keys_of: KeysOf, authority: str) -> None:
        self._city = city
        self._catalogue = catalogue
        self._keys_of = keys_of
        self._authority = authority
        self._devices: dict[str, Device] = {}
        self._entries: dict[str, RosterDevice] = {}
        """What the gateway gets of each device in use: keys are opened once, not with each roster."""
        self._assigned: dict[tuple[str, str], Assigned] = {}
        self._site_names: dict[str, str] = {}
        self._held: dict[str, int] = {}
        """By gateway, the version it has; it says so with each question for a newer one."""
        self._version = 0
        """Every change up to here is known; later ones may be known too."""
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def version(self) -> int:
        """The version up to which this copy is complete."""
        return self._version

    async def refresh(self) -> None:
        """Read what has changed since the last time; once after `City.open`, before anything is looked up."""
        since = self._version

        def changes(connection: Connection) -> tuple[int, list[Device]]:
            return rows.current_version(connection), rows.changed_devices(connection, since=since)

        version, devices = await self._city.read(changes)
        for device in devices:
            self._keep(device)
        if version > self._version:
            self._version = version
            self._wake()

    def learn(self, device: Device) -> None:
        """Take in a change that was just committed and wake the gateways that wait."""
        self._keep(device)
        if device.version == self._version + 1:
            self._version = device.version
        self._wake()

    def assignment(self, gateway_id: str, device_id: str) -> Assigned | None:
        """What the device is, if that gateway may speak for it, or did so last; None for unknown, revoked and other
        gateways' devices."""
        return self._assigned.get((gateway_id, device_id))

    def foreign(self, gateway_id: str, device_id: str) -> bool:
        """True for a registered device that neither is nor was last that gateway's, be it in use or revoked."""
        device = self._devices.get(device_id)
        if device is None or device.gateway == gateway_id:
            return False
        return device.former is None or device.former.gateway != gateway_id

    def in_force(self, device: Device) -> bool:
        """True once the device's gateway has the roster that holds this version of it."""
        return device.version <= self._held.get(device.gateway, -1) <= self._version

    def held(self, gateway: str) -> int | None:
        """The version that a gateway said it has, when it last asked for a newer one; None if it has not asked."""
        version = self._held.get(gateway)
        return version if version is not None and version <= self._version else None

    def site_name(self, site_id: str) -> str:
        """Name of the site with that id, '' if there is none."""
        return self._site_names.get(site_id, "")

    async def roster(self, gateway: str, newer_than: int, timeout: float) -> Roster | None:  # noqa: ASYNC109
        """The roster of `gateway` as soon as its version is not `newer_than`; None after `timeout` seconds without change.

        A gateway that claims a version from the future (the database was restored) gets the present one at once.
        """
        self._held[gateway] = newer_than
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not self._closed:
            changed = self._changed
            await self.refresh()
            if self._version != newer_than:
                return self._compose(gateway)
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                return None
        return None

    def close(self) -> None:
        """Send all waiting gateways home, so that the server can stop."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _keep(self, device: Device) -> None:
        known = self._devices.get(device.id)
        if known is not None and known.version >= device.version:
            return
        if known is not None:
            self._assigned.pop((known.gateway, known.id), None)
            if known.former is not None:
                self._assigned.pop((known.former.gateway, known.id), None)
            self._entries.pop(known.id, None)
        self._devices[device.id] = device
        if device.site is not None:
            self._site_names[str(device.site.id)] = device.site.place.name
        if device.revoked is None:
            profile = self._catalogue.get(device.profile)
            assigned = Assigned(
                site="" if device.site is None else str(device.site.id), kind="" if profile is None else profile.kind
            )
            if device.former is not None:
                until = device.former.moved + FORMER_MS
                self._assigned[device.former.gateway, device.id] = replace(assigned, until=until)
            # Last: it may have come back to the gateway that it left before.
            self._assigned[device.gateway, device.id] = assigned
            self._entries[device.id] = _roster_device(device, self._keys(device))

    def _keys(self, device: Device) -> GatewayKeys:
        try:
            return self._keys_of(device)
        except SealBroken:
            log.error(
                "the keys of device %s cannot be opened, so it is shut out: restore the data folder's keys from their "
                "backup, or give the device a new credential",
                device.id,
            )
            return GatewayKeys()

    def _compose(self, gateway: str) -> Roster:
        mine = sorted(id_ for id_ in self._entries if self._devices[id_].gateway == gateway)
        entries = [self._entries[id_] for id_ in mine]
        return Roster(version=self._version, devices=entries, authority=self._authority)


def _roster_device(device: Device, keys: GatewayKeys) -> RosterDevice:
    credential = device.credential
    return RosterDevice(
        id=device.id,
        profile=device.profile,
        endpoint=device.endpoint,
        serial=device.serial,
        settings=dict(device.settings),
        salt=b"" if credential is None else credential.salt,
        digest=b"" if credential is None else credential.digest,
        fingerprint=b"" if credential is None else credential.fingerprint,
        psk=keys.psk,
        oscore=keys.oscore,
        concentrator=device.concentrator or "",
    )
