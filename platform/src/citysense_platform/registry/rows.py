"""The registry's statements: each takes a connection inside a transaction. No decisions, no waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select, update

from citysense_platform.registry import tables
from citysense_platform.registry.device import (
    Credential,
    CredentialKind,
    Device,
    Former,
    Gateway,
    NewDevice,
    Place,
    Site,
)

# A device has at most one credential that is not revoked, hence one row per device.
_DEVICES = (
    select(
        tables.device,
        tables.site.c.name.label("site_name"),
        tables.site.c.lon,
        tables.site.c.lat,
        tables.site.c.datum,
        tables.credential.c.id.label("credential_number"),
        tables.credential.c.kind.label("credential_kind"),
        tables.credential.c.salt,
        tables.credential.c.digest,
        tables.credential.c.fingerprint,
        tables.credential.c.expires,
        tables.credential.c.sealed,
    )
    .select_from(tables.device)
    .outerjoin(tables.site, tables.site.c.id == tables.device.c.site_id)
    .outerjoin(
        tables.credential,
        (tables.credential.c.device == tables.device.c.id) & tables.credential.c.revoked.is_(None),
    )
)

_GATEWAYS = select(
    tables.gateway.c.id,
    tables.gateway.c.created,
    tables.gateway.c.revoked,
    select(func.count())
    .where(tables.device.c.gateway_id == tables.gateway.c.id, tables.device.c.revoked.is_(None))
    .scalar_subquery()
    .label("devices"),
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


def children_of(connection: Connection, device_id: str) -> list[Device]:
    """Devices in use that `device_id` is the concentrator of, by id."""
    mine = (tables.device.c.concentrator == device_id) & tables.device.c.revoked.is_(None)
    return [_device(row) for row in connection.execute(_DEVICES.where(mine).order_by(tables.device.c.id))]


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


def add_device(
    connection: Connection, new: NewDevice, *, gateway: str, credential: Credential | None, now: int
) -> None:
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
            concentrator=new.concentrator,
        )
    )
    if credential is not None:
        _add_credential(connection, new.id, credential, now=now)


def renew_credential(connection: Connection, device_id: str, credential: Credential, *, now: int) -> None:
    """Put `credential` in the place of the one a device has, as a new version."""
    change_device(connection, device_id, {})
    _end_credentials(connection, device_id, now=now)
    _add_credential(connection, device_id, credential, now=now)


def _add_credential(connection: Connection, device_id: str, credential: Credential, *, now: int) -> None:
    connection.execute(
        insert(tables.credential).values(
            device=device_id,
            kind=str(credential.kind),
            salt=credential.salt,
            digest=credential.digest,
            created=now,
            fingerprint=credential.fingerprint or None,
            expires=credential.expires,
            sealed=credential.sealed or None,
        )
    )


def _end_credentials(connection: Connection, device_id: str, *, now: int) -> None:
    theirs = (tables.credential.c.device == device_id) & tables.credential.c.revoked.is_(None)
    # A key that is of no use any more is not kept, not even sealed.
    connection.execute(update(tables.credential).where(theirs).values(revoked=now, sealed=None))


def change_device(connection: Connection, device_id: str, values: dict[str, Any]) -> None:
    """Set columns of a device as a new version."""
    version = next_version(connection)
    mine = tables.device.c.id == device_id
    connection.execute(update(tables.device).where(mine).values(**values, version=version))


def move_device(connection: Connection, device: Device, gateway: str, *, now: int) -> None:
    """Assign a device to another gateway, as a new version."""
    values = {"gateway_id": gateway, "former_gateway_id": device.gateway, "moved": now}
    change_device(connection, device.id, values)


def revoke_device(connection: Connection, device_id: str, *, now: int) -> None:
    """Mark a device and its credentials as revoked, as a new version."""
    change_device(connection, device_id, {"revoked": now})
    _end_credentials(connection, device_id, now=now)


def keep_gateway(connection: Connection, gateway_id: str, digest: bytes, *, now: int) -> None:
    """Write a gateway's token digest in place of an earlier one."""
    mine = tables.gateway.c.id == gateway_id
    if connection.execute(update(tables.gateway).where(mine).values(token_digest=digest)).rowcount == 0:
        connection.execute(insert(tables.gateway).values(id=gateway_id, token_digest=digest, created=now))


def gateway_digests(connection: Connection) -> dict[str, bytes]:
    """Token digests by gateway id, of those that are not revoked."""
    in_use = select(tables.gateway.c.id, tables.gateway.c.token_digest).where(tables.gateway.c.revoked.is_(None))
    return {row.id: row.token_digest for row in connection.execute(in_use)}


def find_gateway(connection: Connection, gateway_id: str) -> Gateway | None:
    """The gateway of that id, revoked or not."""
    found = connection.execute(_GATEWAYS.where(tables.gateway.c.id == gateway_id)).first()
    return None if found is None else _gateway(found)


def list_gateways(connection: Connection, *, after: str | None, limit: int) -> list[Gateway]:
    """Gateways by id, those after `after`, revoked ones too; at most `limit`."""
    query = _GATEWAYS.order_by(tables.gateway.c.id).limit(limit)
    if after is not None:
        query = query.where(tables.gateway.c.id > after)
    return [_gateway(row) for row in connection.execute(query)]


def revoke_gateway(connection: Connection, gateway_id: str, *, now: int) -> None:
    """Mark a gateway as revoked."""
    connection.execute(update(tables.gateway).where(tables.gateway.c.id == gateway_id).values(revoked=now))


def _gateway(row: Row[Any, Any, Any, Any]) -> Gateway:
    return Gateway(id=row.id, created=row.created, revoked=row.revoked, devices=row.devices)


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
        credential=_credential(row),
        created=row.created,
        revoked=row.revoked,
        version=row.version,
        concentrator=row.concentrator,
        former=None if row.former_gateway_id is None else Former(gateway=row.former_gateway_id, moved=row.moved),
    )


def _credential(row: Row[Any]) -> Credential | None:
    if row.credential_kind is None:
        return None
    return Credential(
        kind=CredentialKind(row.credential_kind),
        number=row.credential_number,
        salt=row.salt,
        digest=row.digest,
        fingerprint=row.fingerprint or b"",
        expires=row.expires,
        sealed=row.sealed or b"",
    )
