"""The registry's statements: each takes a connection inside a transaction. No decisions, no waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select, update

from citysense_platform.registry import tables
from citysense_platform.registry.device import Device, NewDevice, Password, Place, Site

# A device has at most one credential that is not revoked, hence one row per device.
_DEVICES = (
    select(
        tables.device,
        tables.site.c.name.label("site_name"),
        tables.site.c.lon,
        tables.site.c.lat,
        tables.site.c.datum,
        tables.credential.c.kind.label("credential_kind"),
        tables.credential.c.salt,
        tables.credential.c.digest,
    )
    .select_from(tables.device)
    .outerjoin(tables.site, tables.site.c.id == tables.device.c.site_id)
    .outerjoin(
        tables.credential,
        (tables.credential.c.device == tables.device.c.id) & tables.credential.c.revoked.is_(None),
    )
)


def find_device(connection: Connection, device_id: str) -> Device | None:
    """The device of that id, revoked or not."""
    return _first(connection, _DEVICES.where(tables.device.c.id == device_id))


def find_serial(connection: Connection, profile: str, serial: str) -> Device | None:
    """The device in use with that profile and serial."""
    return _first(
        connection,
        _DEVICES.where(
            tables.device.c.profile == profile, tables.device.c.serial == serial, tables.device.c.revoked.is_(None)
        ),
    )


def list_devices(
    connection: Connection, *, profile: str | None, site: int | None, after: str | None, limit: int
) -> list[Device]:
    """Devices by id, those after `after`, revoked ones too; at most `limit`."""
    query = _DEVICES.order_by(tables.device.c.id).limit(limit)
    if profile is not None:
        query = query.where(tables.device.c.profile == profile)
    if site is not None:
        query = query.where(tables.device.c.site_id == site)
    if after is not None:
        query = query.where(tables.device.c.id > after)
    return [_device(row) for row in connection.execute(query)]


def changed_devices(connection: Connection, *, since: int) -> list[Device]:
    """Devices whose last change came after version `since`, revoked ones too, oldest change first."""
    query = _DEVICES.where(tables.device.c.version > since).order_by(tables.device.c.version)
    return [_device(row) for row in connection.execute(query)]


def current_version(connection: Connection) -> int:
    """The registry's version: grows by one with each change of a device."""
    return int(connection.execute(select(tables.registry_version.c.version)).scalar_one())


def next_version(connection: Connection) -> int:
    """Count one change."""
    version = tables.registry_version.c.version
    connection.execute(update(tables.registry_version).values(version=version + 1))
    return current_version(connection)


def site_exists(connection: Connection, site_id: int) -> bool:
    """Whether there is a site of that id."""
    return connection.execute(select(tables.site.c.id).where(tables.site.c.id == site_id)).first() is not None


def settle_site(connection: Connection, site: Place | int | None, *, now: int) -> int | None:
    """The id of `site`, which is made if no site has that name and position yet."""
    if not isinstance(site, Place):
        return site
    same = (
        (tables.site.c.name == site.name)
        & (tables.site.c.lon == site.lon)
        & (tables.site.c.lat == site.lat)
        & (tables.site.c.datum == site.datum)
    )
    known = connection.execute(select(tables.site.c.id).where(same)).scalar()
    if known is not None:
        return int(known)
    values = {"name": site.name, "lon": site.lon, "lat": site.lat, "datum": site.datum, "created": now}
    return _key(connection.execute(insert(tables.site).values(values)).inserted_primary_key)


def add_device(connection: Connection, new: NewDevice, *, gateway: str, password: Password | None, now: int) -> None:
    """Write device, site and credential as a new version."""
    connection.execute(
        insert(tables.device).values(
            id=new.id,
            profile=new.profile,
            site_id=settle_site(connection, new.site, now=now),
            gateway_id=gateway,
            endpoint=new.endpoint,
            serial=new.serial,
            settings=dict(new.settings),
            created=now,
            version=next_version(connection),
        )
    )
    if password is not None:
        values = {"kind": "password", "salt": password.salt, "digest": password.digest, "created": now}
        connection.execute(insert(tables.credential).values(device=new.id, **values))


def change_device(connection: Connection, device_id: str, values: dict[str, Any]) -> None:
    """Set columns of a device as a new version."""
    version = next_version(connection)
    mine = tables.device.c.id == device_id
    connection.execute(update(tables.device).where(mine).values(**values, version=version))


def revoke_device(connection: Connection, device_id: str, *, now: int) -> None:
    """Mark a device and its credentials as revoked, as a new version."""
    change_device(connection, device_id, {"revoked": now})
    theirs = (tables.credential.c.device == device_id) & tables.credential.c.revoked.is_(None)
    connection.execute(update(tables.credential).where(theirs).values(revoked=now))


def keep_gateway(connection: Connection, gateway_id: str, digest: bytes, *, now: int) -> None:
    """Write a gateway's token digest in place of an earlier one."""
    mine = tables.gateway.c.id == gateway_id
    if connection.execute(update(tables.gateway).where(mine).values(token_digest=digest)).rowcount == 0:
        connection.execute(insert(tables.gateway).values(id=gateway_id, token_digest=digest, created=now))


def gateway_digests(connection: Connection) -> dict[str, bytes]:
    """Token digests by gateway id."""
    rows = connection.execute(select(tables.gateway.c.id, tables.gateway.c.token_digest))
    return {row.id: row.token_digest for row in rows}


def _first(connection: Connection, query: Select[Any]) -> Device | None:
    row = connection.execute(query).first()
    return None if row is None else _device(row)


def _key(primary_key: Sequence[Any] | None) -> int:
    assert primary_key is not None
    return int(primary_key[0])


def _device(row: Row[Any]) -> Device:
    site = None
    if row.site_id is not None:
        place = Place(name=row.site_name, lon=row.lon, lat=row.lat, datum=row.datum)
        site = Site(id=row.site_id, place=place)
    return Device(
        id=row.id,
        profile=row.profile,
        site=site,
        gateway=row.gateway_id,
        endpoint=row.endpoint,
        serial=row.serial,
        settings=row.settings,
        credential=row.credential_kind,
        salt=row.salt or b"",
        digest=row.digest or b"",
        created=row.created,
        revoked=row.revoked,
        version=row.version,
    )
