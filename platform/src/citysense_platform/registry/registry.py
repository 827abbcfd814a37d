"""Registers, changes and revokes devices: decisions of `decide` carried out in city.db.

Owns one transaction per request and the passing on of changes to the roster. Never logs or keeps a secret.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from citysense.clock import Clock
from citysense_platform.city.database import City
from citysense_platform.registry import rows
from citysense_platform.registry.authority import RequestUnfit
from citysense_platform.registry.credentials import Credentials, Made, shown_once
from citysense_platform.registry.decide import (
    Fault,
    Holdings,
    Reason,
    Refusal,
    check_change,
    check_holdings,
    check_new,
    kind_faults,
    merged,
    revoked,
)
from citysense_platform.registry.device import Change, Device, NewDevice, Place, Provisioned, Wanted
from citysense_platform.registry.roster import RosterSource
from citysense_profiles.catalogue import Catalogue


class Registry:
    """The devices of the city."""

    def __init__(
        self,
        city: City,
        catalogue: Catalogue,
        roster: RosterSource,
        clock: Clock,
        *,
        default_gateway: str,
        credentials: Credentials,
    ) -> None:
        self._city = city
        self._catalogue = catalogue
        self._roster = roster
        self._clock = clock
        self._default_gateway = default_gateway
        self._credentials = credentials

    async def provision(self, new: NewDevice) -> Provisioned | Refusal:
        """Register `new`; the secret of its credential is in the result and nowhere else."""
        refusal = check_new(new, self._catalogue.get(new.profile))
        if refusal is not None:
            return refusal
        now = self._clock.now_ms()
        made = None if new.credential is None else self._make(new.credential, new.id, now, field="credential.csr")
        if isinstance(made, Refusal):
            return made

        def work(connection: Connection) -> Device | Refusal:
            holdings = _holdings(connection, new)
            refusal = check_holdings(new, holdings)
            if refusal is not None:
                return refusal
            hub = holdings.concentrator
            gateway = new.gateway or (self._default_gateway if hub is None else hub.gateway)
            rows.add_device(connection, new, gateway=gateway, credential=made.kept if made else None, now=now)
            return _must_find(connection, new.id)

        outcome = await self._city.write(work)
        if isinstance(outcome, Refusal):
            return outcome
        self._roster.learn(outcome)
        return Provisioned(device=outcome, shown=shown_once(made, outcome) if made else {})

    async def renew(self, device_id: str, wanted: Wanted) -> Provisioned | Refusal | None:
        """Give a device a fresh credential; the one it had ends at once. None if there is no such device."""
        now = self._clock.now_ms()
        made = self._make(wanted, device_id, now, field="csr")
        if isinstance(made, Refusal):
            return made

        def work(connection: Connection) -> Device | Refusal | None:
            device = rows.find_device(connection, device_id)
            if device is None or device.revoked is not None:
                return None if device is None else revoked(device)
            profile = self._catalogue.get(device.profile)
            faults = [] if profile is None else kind_faults(profile, wanted.kind, field="kind")
            if faults:
                return Refusal(faults=tuple(faults))
            rows.renew_credential(connection, device_id, made.kept, now=now)
            return _must_find(connection, device_id)

        outcome = await self._city.write(work)
        if not isinstance(outcome, Device):
            return outcome
        self._roster.learn(outcome)
        return Provisioned(device=outcome, shown=shown_once(made, outcome))

    async def change(self, device_id: str, change: Change) -> Device | Refusal | None:
        """Make a device different; None if there is no such device. The devices behind a concentrator move with it."""
        now = self._clock.now_ms()

        def work(connection: Connection) -> list[Device] | Refusal:
            device = rows.find_device(connection, device_id)
            if device is None:
                return []
            profile = self._catalogue.get(device.profile)
            refusal = check_change(device, change, profile, _holdings_for(connection, device, change))
            if refusal is not None:
                return refusal
            values = _new_values(connection, device, change, now)
            if values:
                rows.change_device(connection, device_id, values)
            moved = []
            if "gateway" in change.fields and change.gateway != device.gateway:
                moved = [device, *rows.children_of(connection, device_id)]
            for one in moved:
                rows.move_device(connection, one, change.gateway, now=now)
            return [_must_find(connection, id_) for id_ in (device_id, *(child.id for child in moved[1:]))]

        outcome = await self._city.write(work)
        if isinstance(outcome, Refusal):
            return outcome
        for device in outcome:
            self._roster.learn(device)
        return outcome[0] if outcome else None

    async def revoke(self, device_id: str) -> Device | None:
        """Take a device out of use for good, with its credentials; None if there is no such device. The devices behind a
        concentrator speak for themselves from then on."""
        now = self._clock.now_ms()

        def work(connection: Connection) -> list[Device]:
            device = rows.find_device(connection, device_id)
            if device is None or device.revoked is not None:
                return [] if device is None else [device]
            children = [child.id for child in rows.children_of(connection, device_id)]
            rows.revoke_device(connection, device_id, now=now)
            for child in children:
                rows.change_device(connection, child, {"concentrator": None})
            return [_must_find(connection, id_) for id_ in (device_id, *children)]

        outcome = await self._city.write(work)
        for device in outcome:
            self._roster.learn(device)
        return outcome[0] if outcome else None

    def in_force(self, device: Device) -> bool:
        """True once the device's gateway acts on this version of it."""
        return self._roster.in_force(device)

    async def device(self, device_id: str) -> Device | None:
        """The device of that id, revoked or not."""
        return await self._city.read(lambda connection: rows.find_device(connection, device_id))

    async def devices(
        self, *, profile: str | None = None, site: int | None = None, after: str | None = None, limit: int
    ) -> list[Device]:
        """Devices by id, those after `after`, revoked ones too; at most `limit`."""
        return await self._city.read(
            lambda connection: rows.list_devices(connection, profile=profile, site=site, after=after, limit=limit)
        )

    def _make(self, wanted: Wanted, device_id: str, now: int, *, field: str) -> Made | Refusal:
        try:
            return self._credentials.make(wanted, device_id, now_ms=now)
        except RequestUnfit as e:
            return Refusal(faults=(Fault(reason=Reason.REQUEST_UNFIT, field=field, text=str(e)),))


def _holdings(connection: Connection, new: NewDevice) -> Holdings:
    return Holdings(
        device_with_id=rows.find_device(connection, new.id),
        device_with_serial=None if new.serial is None else rows.find_serial(connection, new.profile, new.serial),
        site_exists=_site_exists(connection, new.site),
        gateway_exists=new.gateway is None or _is_gateway(connection, new.gateway),
        concentrator=None if new.concentrator is None else rows.find_device(connection, new.concentrator),
    )


def _holdings_for(connection: Connection, device: Device, change: Change) -> Holdings:
    concentrator = change.concentrator if "concentrator" in change.fields else device.concentrator
    return Holdings(
        device_with_id=device,
        device_with_serial=None,
        site_exists=_site_exists(connection, change.site),
        # The gateway it has is not asked for: one that was revoked must not stand in the way of other changes.
        gateway_exists="gateway" not in change.fields
        or change.gateway == device.gateway
        or _is_gateway(connection, change.gateway),
        concentrator=None if concentrator is None else rows.find_device(connection, concentrator),
        has_children=bool(rows.children_of(connection, device.id)),
    )


def _is_gateway(connection: Connection, gateway: str) -> bool:
    found = rows.find_gateway(connection, gateway)
    return found is not None and found.revoked is None


def _site_exists(connection: Connection, site: Place | int | None) -> bool:
    return not isinstance(site, int) or rows.site_exists(connection, site)


def _new_values(connection: Connection, device: Device, change: Change, now: int) -> dict[str, Any]:
    """The columns that become different; none if everything is as asked already."""
    values: dict[str, Any] = {}
    if "endpoint" in change.fields and change.endpoint != device.endpoint:
        values["endpoint"] = change.endpoint
    if "settings" in change.fields:
        settings = merged(device.settings, change.settings)
        if settings != device.settings:
            values["settings"] = settings
    if "site" in change.fields:
        site = rows.settle_site(connection, change.site, now=now)
        if site != (device.site.id if device.site else None):
            values["site_id"] = site
    if "concentrator" in change.fields and change.concentrator != device.concentrator:
        values["concentrator"] = change.concentrator
    return values


def _must_find(connection: Connection, device_id: str) -> Device:
    device = rows.find_device(connection, device_id)
    assert device is not None
    return device
