"""Registers, changes and revokes devices: decisions of `decide` carried out in city.db.

Owns one transaction per request and the passing on of changes to the roster. Never logs or keeps a secret.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from citysense.clock import Clock
from citysense.keys import password_digest
from citysense_platform.city.database import City
from citysense_platform.registry import rows
from citysense_platform.registry.decide import Holdings, Refusal, check_change, check_holdings, check_new, merged
from citysense_platform.registry.device import Change, Device, NewDevice, Password, Place, Provisioned
from citysense_platform.registry.roster import RosterSource
from citysense_profiles.catalogue import Catalogue

PASSWORD_BYTES = 20
SALT_BYTES = 16


def random_password() -> str:
    """160 random bits, printable."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def random_salt() -> bytes:
    """128 random bits."""
    return secrets.token_bytes(SALT_BYTES)


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
        new_password: Callable[[], str],
        new_salt: Callable[[], bytes],
    ) -> None:
        self._city = city
        self._catalogue = catalogue
        self._roster = roster
        self._clock = clock
        self._default_gateway = default_gateway
        self._new_password = new_password
        self._new_salt = new_salt

    async def provision(self, new: NewDevice) -> Provisioned | Refusal:
        """Register `new`; the secret of its credential is in the result and nowhere else."""
        refusal = check_new(new, self._catalogue.get(new.profile))
        if refusal is not None:
            return refusal
        password = self._make_password() if new.credential is not None else None
        now = self._clock.now_ms()

        def work(connection: Connection) -> Device | Refusal:
            refusal = check_holdings(new, _holdings(connection, new))
            if refusal is not None:
                return refusal
            rows.add_device(connection, new, gateway=self._default_gateway, password=password, now=now)
            return _must_find(connection, new.id)

        outcome = await self._city.write(work)
        if isinstance(outcome, Refusal):
            return outcome
        self._roster.learn(outcome)
        return Provisioned(device=outcome, secret=password.secret if password else None)

    async def change(self, device_id: str, change: Change) -> Device | Refusal | None:
        """Make a device different; None if there is no such device."""
        now = self._clock.now_ms()

        def work(connection: Connection) -> Device | Refusal | None:
            device = rows.find_device(connection, device_id)
            if device is None:
                return None
            profile = self._catalogue.get(device.profile)
            refusal = check_change(device, change, profile, site_exists=_site_exists(connection, change.site))
            if refusal is not None:
                return refusal
            values = _new_values(connection, device, change, now)
            if not values:
                return device
            rows.change_device(connection, device_id, values)
            return _must_find(connection, device_id)

        outcome = await self._city.write(work)
        if isinstance(outcome, Device):
            self._roster.learn(outcome)
        return outcome

    async def revoke(self, device_id: str) -> Device | None:
        """Take a device out of use for good, with its credentials; None if there is no such device."""
        now = self._clock.now_ms()

        def work(connection: Connection) -> Device | None:
            device = rows.find_device(connection, device_id)
            if device is None or device.revoked is not None:
                return device
            rows.revoke_device(connection, device_id, now=now)
            return _must_find(connection, device_id)

        outcome = await self._city.write(work)
        if outcome is not None:
            self._roster.learn(outcome)
        return outcome

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

    def _make_password(self) -> Password:
        secret, salt = self._new_password(), self._new_salt()
        return Password(secret=secret, salt=salt, digest=password_digest(salt, secret.encode()))


def _holdings(connection: Connection, new: NewDevice) -> Holdings:
    return Holdings(
        device_with_id=rows.find_device(connection, new.id),
        device_with_serial=None if new.serial is None else rows.find_serial(connection, new.profile, new.serial),
        site_exists=_site_exists(connection, new.site),
    )


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
    return values


def _must_find(connection: Connection, device_id: str) -> Device:
    device = rows.find_device(connection, device_id)
    assert device is not None
    return device
