"""Who is assigned to which gateway, in memory: for gateways that ask for their roster and for ingest, per frame.

Owns the copy of the registry that lives in this process and the waiting of gateways for its next version. The database
stays the truth: every poll reads what changed, so that nothing learned too late is missed for long.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy import Connection

from citysense.wire import Roster, RosterDevice
from citysense_platform.city.database import City
from citysense_platform.registry import rows
from citysense_platform.registry.device import Device
from citysense_profiles.catalogue import Catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """What ingest adds to a reading: the site's id as text ('' for none) and the kind of the device's profile."""

    site: str
    kind: str


class RosterSource:
    """The devices in use, by gateway."""

    def __init__(self, city: City, catalogue: Catalogue) -> None:
        self._city = city
        self._catalogue = catalogue
        self._devices: dict[str, Device] = {}
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
        """What the device is, if that gateway may speak for it; None for unknown, revoked and other gateways' devices."""
        return self._assigned.get((gateway_id, device_id))

    def in_force(self, device: Device) -> bool:
        """True once the device's gateway has the roster that holds this version of it."""
        return device.version <= self._held.get(device.gateway, -1) <= self._version

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
        self._devices[device.id] = device
        if device.site is not None:
            self._site_names[str(device.site.id)] = device.site.place.name
        if device.revoked is None:
            profile = self._catalogue.get(device.profile)
            self._assigned[device.gateway, device.id] = Assigned(
                site="" if device.site is None else str(device.site.id), kind="" if profile is None else profile.kind
            )

    def _compose(self, gateway: str) -> Roster:
        mine = (d for d in self._devices.values() if d.gateway == gateway and d.revoked is None)
        return Roster(version=self._version, devices=[_roster_device(d) for d in sorted(mine, key=lambda d: d.id)])


def _roster_device(device: Device) -> RosterDevice:
    return RosterDevice(
        id=device.id,
        profile=device.profile,
        endpoint=device.endpoint,
        serial=device.serial,
        settings=dict(device.settings),
        salt=device.salt,
        digest=device.digest,
    )
