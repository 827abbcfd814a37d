"""Reads cases from city.db: lists in both directions, one with its history, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, Select, func, select

from citysense_platform.city.database import City
from citysense_platform.dispatch.cases import Step
from citysense_platform.dispatch.tables import case, case_history
from citysense_platform.rules.colour import Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFilter:
    """What a list of cases is narrowed to; None means all."""

    colour: Colour | None = None
    step: Step | None = None
    device: str | None = None


class Cases:
    """The cases as stored; rows have the columns of the tables."""

    def __init__(self, city: City) -> None:
        self._city = city

    async def newest(self, wanted: CaseFilter, *, before: int | None, limit: int) -> Sequence[RowMapping]:
        """Up to `limit` cases, the newest first; with `before` only those older than that id."""
        query = _narrowed(wanted).order_by(case.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(case.c.id < before)
        return await self._city.read(lambda connection: connection.execute(query).mappings().all())

    async def after(self, wanted: CaseFilter, *, after: int, limit: int) -> Sequence[RowMapping]:
        """Up to `limit` cases with ids above `after`, in the order in which they were opened."""
        query = _narrowed(wanted).where(case.c.id > after).order_by(case.c.id).limit(limit)
        return await self._city.read(lambda connection: connection.execute(query).mappings().all())

    async def one(self, case_id: int) -> tuple[RowMapping, Sequence[RowMapping]] | None:
        """A case and its history in order; None if there is no such case."""

        def work(connection: Connection) -> tuple[RowMapping, Sequence[RowMapping]] | None:
            found = connection.execute(select(case).where(case.c.id == case_id)).mappings().one_or_none()
            if found is None:
                return None
            history = select(case_history).where(case_history.c.case_id == case_id).order_by(case_history.c.id)
            return found, connection.execute(history).mappings().all()

        return await self._city.read(work)

    async def total(self) -> int:
        """All cases there ever were."""
        query = select(func.count()).select_from(case)
        return int(await self._city.read(lambda connection: connection.execute(query).scalar_one()))


def _narrowed(wanted: CaseFilter) -> Select[tuple[object, ...]]:
    query = select(case)
    if wanted.colour is not None:
        query = query.where(case.c.colour == str(wanted.colour))
    if wanted.step is not None:
        query = query.where(case.c.step == str(wanted.step))
    if wanted.device is not None:
        query = query.where(case.c.device == wanted.device)
    return query
