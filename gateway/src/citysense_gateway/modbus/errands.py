"""Handing mail to a polled device: what waits, the writes that say it, and what the device answered.

Owns the order of telling: the mailbox knows of an attempt before the first request goes out, and of the confirmation
before anything else is done. Knows neither connections nor times.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from citysense_gateway.mail import Mail, MailSource
from citysense_gateway.modbus.connection import Refused
from citysense_gateway.modbus.polled import WritePlan, WritePlanner
from citysense_profiles import Write
from citysense_profiles.errors import EncodeError

_NOT_NOW = (5, 6, 10, 11)
"""Exceptions that do not say no: being done, busy, no path to the unit, no reply from the unit."""


class Put(Enum):
    """What became of the most urgent mail."""

    NOTHING = "nothing"
    """There is none."""
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    """By the device or by its profile."""
    LATER = "later"
    """The device cannot take it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """`mail` and `plan` are there where something was confirmed."""

    put: Put
    mail: Mail | None = None
    plan: WritePlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailing:
    """Where mail comes from, and what it means on a line."""

    source: MailSource
    plan: WritePlanner


async def hand_over(mailing: Mailing, device: str, write: Callable[[Write], Awaitable[None]]) -> Handed:
    """Hand the device its most urgent mail.

    `write` returns when the device has confirmed, raises Refused where it says no; whatever else it raises goes through,
    and the mail's fate stays open.
    """
    for mail in mailing.source.waiting(device):
        try:
            plan = mailing.plan(mail)
        except EncodeError as error:
            await mailing.source.refused(mail, str(error))
            return Handed(put=Put.REFUSED)
        if plan is None:
            return Handed(put=Put.NOTHING)
        if await mailing.source.begin(mail):
            return await _written(mailing.source, mail, plan, write)
    return Handed(put=Put.NOTHING)


async def _written(
    source: MailSource, mail: Mail, plan: WritePlan, write: Callable[[Write], Awaitable[None]]
) -> Handed:
    for request in plan.writes:
        try:
            await write(request)
        except Refused as error:
            if error.code in _NOT_NOW:
                return Handed(put=Put.LATER)
            await source.refused(mail, f"{request.table} {request.address}: {error}")
            return Handed(put=Put.REFUSED)
    await source.delivered(mail)
    return Handed(put=Put.CONFIRMED, mail=mail, plan=plan)
