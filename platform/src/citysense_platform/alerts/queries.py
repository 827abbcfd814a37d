"""Reads alerts from city.db: lists, one with its history, and the counts of the live view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from citysense_platform.alerts.decide import AlertState
from citysense_platform.alerts.tables import alert, alert_history
from citysense_platform.city.database import City
from citysense_platform.rules.colour import COLOURS, Colour


class Alerts:
    """The alerts as stored; rows have the columns of the tables."""

    def __init__(self, city: City) -> None:
        self._city = city

    async def newest(
        self, *, state: AlertState | None, colour: Colour | None, device: str | None, before: int | None, limit: int
    ) -> Sequence[RowMapping]:
        """Up to `limit` alerts, the newest first; with `before` only those older than that id."""
        wanted = select(alert).order_by(alert.c.id.desc()).limit(limit)
        if state is not None:
            wanted = wanted.where(alert.c.state == str(state))
        if colour is not None:
            wanted = wanted.where(alert.c.colour == str(colour))
        if device is not None:
            wanted = wanted.where(alert.c.device == device)
        if before is not None:
            wanted = wanted.where(alert.c.id < before)
        return await self._city.read(lambda connection: connection.execute(wanted).mappings().all())

    async def one(self, alert_id: int) -> tuple[RowMapping, Sequence[RowMapping]] | None:
        """An alert and its history in order; None if there is no such alert."""

        def work(connection: Connection) -> tuple[RowMapping, Sequence[RowMapping]] | None:
            found = connection.execute(select(alert).where(alert.c.id == alert_id)).mappings().one_or_none()
            if found is None:
                return None
            history = select(alert_history).where(alert_history.c.alert_id == alert_id).order_by(alert_history.c.id)
            return found, connection.execute(history).mappings().all()

        return await self._city.read(work)

    async def open_by_colour(self) -> dict[str, int]:
        """How many alerts are not resolved, for each of the four colours."""
        wanted = (
            select(alert.c.colour, func.count())
            # Named one by one, so that the index on (state, colour) answers it alone.
            .where(alert.c.state.in_((str(AlertState.FIRING), str(AlertState.ACKNOWLEDGED))))
            .group_by(alert.c.colour)
        )
        rows: Sequence[Any] = await self._city.read(lambda connection: connection.execute(wanted).all())
        counted = {colour: int(count) for colour, count in rows}
        return {str(colour): counted.get(str(colour), 0) for colour in COLOURS}
