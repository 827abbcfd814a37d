"""Has dead letters read again, after a profile was mended or a device registered.

Owns which letters can be, with named reasons for a no, and the orders to the gateways that kept them. A sealed frame
goes back as it is: only its gateway can open it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection

from citysense import wire
from citysense.clock import Clock
from citysense_platform.city.database import City
from citysense_platform.downlinks import rows
from citysense_platform.downlinks.order import Order, OrderKind, State
from citysense_platform.downlinks.order_book import OrderBook
from citysense_platform.events.dead_letters import DeadLetter
from citysense_platform.registry.rows import find_gateway

MAX_RAW = 65_536
"""Bytes that a gateway keeps of a frame; of a longer one the end is missing."""
MOST_OPEN = 1_000
"""Letters on their way to one gateway: at 64 kB each they are 64 MB of city.db. More can be asked for once these are read."""


class Refused(StrEnum):
    """Why a letter cannot be read again."""

    NOT_FOUND = "not_found"
    NO_RAW = "no_raw"
    CUT = "cut"
    NOT_OF_A_GATEWAY = "not_of_a_gateway"
    GATEWAY_GONE = "gateway_gone"
    UNDER_WAY = "under_way"
    READ_ALREADY = "read_already"
    TOO_MANY = "too_many"

    @property
    def sentence(self) -> str:
        """The same for a person."""
        return _SENTENCES[self]


_SENTENCES = {
    Refused.NOT_FOUND: "there is no dead letter of this id; days beyond the retention are deleted",
    Refused.NO_RAW: "nothing was kept of the frame",
    Refused.CUT: f"only the first {MAX_RAW} bytes of the frame were kept",
    Refused.NOT_OF_A_GATEWAY: "it is no frame of a device; the platform wrote it itself",
    Refused.GATEWAY_GONE: "the gateway that kept it is revoked",
    Refused.UNDER_WAY: "its gateway has been asked already",
    Refused.READ_ALREADY: "it was read again and what it says is stored",
    Refused.TOO_MANY: f"{MOST_OPEN} letters are on their way to its gateway; ask again once they are read",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What became of a request: (letter, order) for those on their way, (letter, why) for the others."""

    orders: Sequence[tuple[str, str]]
    refused: Sequence[tuple[str, Refused]]


def refuse(letter: wire.DeadLetter, *, gateway_in_use: bool, standing: Order | None, on_the_way: int) -> Refused | None:
    """Why `letter` cannot be read again. `standing` is the newest order to do so, `on_the_way` counts its gateway's."""
    if not letter.gateway:
        return Refused.NOT_OF_A_GATEWAY
    if not letter.raw:
        return Refused.NO_RAW
    if letter.size > MAX_RAW:
        return Refused.CUT
    if standing is not None and standing.closed is None:
        return Refused.UNDER_WAY
    if standing is not None and standing.state in (State.STORED, State.DUPLICATE):
        return Refused.READ_ALREADY
    if not gateway_in_use:
        return Refused.GATEWAY_GONE
    return Refused.TOO_MANY if on_the_way >= MOST_OPEN else None


class LettersAgain:
    """The dead letters that are read again."""

    def __init__(self, city: City, orders: OrderBook, clock: Clock) -> None:
        self._city = city
        self._orders = orders
        self._clock = clock

    async def ask(self, letters: Sequence[DeadLetter]) -> Asked:
        """Have the gateways that kept these letters read them again."""
        now = self._clock.now_ms()

        def work(connection: Connection) -> Asked:
            placed: list[tuple[str, str]] = []
            refused: list[tuple[str, Refused]] = []
            standing = rows.newest_of_letters(connection, [one.id for one in letters])
            gateways: dict[str, _Way] = {}
            for one in letters:
                name = one.letter.gateway
                way = gateways.get(name) or _way(connection, name)
                why = refuse(
                    one.letter, gateway_in_use=way.in_use, standing=standing.get(one.id), on_the_way=way.letters
                )
                if why is not None:
                    refused.append((one.id, why))
                    gateways[name] = way
                    continue
                gateways[name] = _Way(in_use=True, letters=way.letters + 1)
                placed.append((one.id, _place(connection, one, now)))
            return Asked(orders=placed, refused=refused)

        asked = await self._city.write(work)
        if asked.orders:
            self._orders.wake()
        return asked

    async def orders(self, letters: Sequence[str]) -> dict[str, Order]:
        """For each of these letters the newest order to read it again, if there is one."""
        if not letters:
            return {}
        return await self._city.read(lambda connection: rows.newest_of_letters(connection, letters))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """A gateway as far as letters go: is it in use, and how many are on their way to it."""

    in_use: bool
    letters: int


def _way(connection: Connection, gateway: str) -> _Way:
    found = find_gateway(connection, gateway)
    in_use = found is not None and found.revoked is None
    return _Way(in_use=in_use, letters=rows.count_open(connection, OrderKind.LETTER, gateway))


def _place(connection: Connection, one: DeadLetter, now: int) -> str:
    place = rows.next_place(connection, OrderKind.LETTER, now=now)
    body = wire.encode(wire.Reprocess(number=place.number, id=place.id, letter=one.letter))
    rows.add(
        connection,
        Order(
            number=place.number,
            id=place.id,
            kind=OrderKind.LETTER,
            gateway=one.letter.gateway,
            device=one.letter.device,
            letter=one.id,
            once=False,
            created=now,
            expires=None,
            handed=None,
            state=State.WAITING,
            detail="",
            changed=now,
            closed=None,
            body=body,
        ),
    )
    return place.id
