"""The mailbox: messages for devices, from the order until its outcome is on the platform's record.

Owns the tables `mail`, `outcome` and `orders_taken` of the spool's database and the index in memory over them. Every
step is durable before it is taken; what a door is told to send once is never given out again. Bodies lie sealed on the
disk: a message may hold a passcode. It must not know how a message reaches its device.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from citysense import wire
from citysense.clock import Clock
from citysense.durable_log import DurableLog
from citysense.errors import StorageClosed, StorageError
from citysense.keys import SealBroken, Sealer
from citysense.log_schema import Owner, Step
from citysense.progress import Pulse
from citysense_gateway.dead_letters import printable
from citysense_gateway.devices import Changes, Device, Devices
from citysense_gateway.mail import Mail
from citysense_gateway.mail_queue import DELIVERED, REFUSED, SENT, Ended, Slot, end, in_order, over, to_end
from citysense_gateway.outage import Outage
from citysense_profiles.errors import EncodeError
from citysense_profiles.profile import Profile

MOST_PER_DEVICE = 32
MOST = 10_000
"""Messages that wait at all; of a kilobyte each they take 10 MB in memory."""
UPKEEP_S = 1.0
STRANGE_S = 10.0
"""How long a message may wait for a device that the platform does not name: the roster with it may be on its way still."""
OUTCOMES_AT_ONCE = 500
_CONTENT = {"json": 50, "native": 50, "cbor": 60, "senml": 110}
"""CoAP content formats (RFC 7252 section 12.3, RFC 8428 section 12.3) by the codec of a message."""
_BYTES = 42


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables, where they are missing."""
    for statement in (
        "CREATE TABLE IF NOT EXISTS mail(number INTEGER PRIMARY KEY, id TEXT, device TEXT, sealed BLOB,"
        " handed INTEGER)",
        # Numbers are never given twice, so that what the platform has taken is named by the highest of them.
        "CREATE TABLE IF NOT EXISTS outcome(number INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB)",
        "CREATE TABLE IF NOT EXISTS orders_taken(one INTEGER PRIMARY KEY CHECK(one=1), number INTEGER)",
    ):
        connection.execute(statement)


OWNER = Owner(name="mail", steps=(Step(number=1, name="messages, outcomes, orders", apply=prepare),))
"""The tables as the durable log knows them."""


class Mailbox:
    """See `mail.MailSource`. `log` is the spool's, with `OWNER` among its owners; call `load` once it is open.

    `told` is set while outcomes wait for the platform. `current` says whether the devices are those that the platform
    names now; until then none is a stranger. `pulse` beats with each round of `run`.
    """

    def __init__(
        self,
        log: DurableLog,
        *,
        devices: Devices,
        sealer: Sealer,
        clock: Clock,
        random: Callable[[], float],
        most: int = MOST,
        most_per_device: int = MOST_PER_DEVICE,
        current: Callable[[], bool] = lambda: False,
        pulse: Pulse | None = None,
    ) -> None:
        self._log = log
        self._devices = devices
        self._sealer = sealer
        self._clock = clock
        self._most = most
        self._most_per_device = most_per_device
        self._current = current
        self._pulse = pulse or Pulse()
        self._strange: dict[str, float] = {}
        self._outage = Outage("mailbox", random)
        self._mail: dict[str, dict[int, Slot]] = {}
        self._by_id: dict[str, Slot] = {}
        self._encoded: dict[int, tuple[Profile, Mail]] = {}
        self._unsaved: list[tuple[int, wire.Outcome]] = []
        self._saving = asyncio.Lock()
        self._remind: set[str] = set()
        self._listeners: list[Callable[[str], None]] = []
        self.taken = 0
        """Number of the last order that is durable here."""
        self.told = asyncio.Event()

    def __len__(self) -> int:
        return len(self._by_id)

    def load(self) -> None:
        """Read what waits. A message that cannot be read, since the key is another one, is refused."""
        rows = self._log.select("SELECT number FROM orders_taken")
        self.taken = int(rows[0][0]) if rows else 0
        for number, order, device, sealed, handed in self._log.select(
            "SELECT number, id, device, sealed, handed FROM mail"
        ):
            try:
                body = self._sealer.open(_owner(device), sealed)
                downlink = msgspec.msgpack.decode(body, type=wire.Downlink)
            except (SealBroken, msgspec.DecodeError) as e:
                self._unsaved.append((number, self._outcome(order, REFUSED, str(e))))
                continue
            self._put(Slot(downlink=downlink, handed=handed))
        if self._log.select("SELECT 1 FROM outcome LIMIT 1"):
            self.told.set()

    # -- orders in, outcomes out --------------------------------------------------------------------------------------

    async def take(self, downlinks: Sequence[wire.Downlink], *, number: int) -> None:
        """Keep the messages of orders up to `number`; returns after the commit. One that comes again is known by its
        number. Raises StorageError where nothing was kept."""
        fresh = [downlink for downlink in downlinks if downlink.number > self.taken]
        rows = [
            (
                downlink.number,
                downlink.id,
                downlink.device,
                self._sealer.seal(_owner(downlink.device), wire.encode(downlink)),
            )
            for downlink in fresh
        ]

        def job(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR IGNORE INTO mail VALUES(?, ?, ?, ?, 0)", rows)
            _remember(connection, number)

        await self._commit(job)
        self.taken = max(self.taken, number)
        for downlink in fresh:
            self._put(Slot(downlink=downlink))
        self._end_surplus({downlink.device for downlink in fresh})
        await self._save_later()
        for device in dict.fromkeys(downlink.device for downlink in fresh):
            self._tell(device)

    async def record(self, outcome: wire.Outcome, *, number: int) -> None:
        """Keep the outcome of an order that was no message, and that orders up to `number` are done; returns after the
        commit. Raises StorageError."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO outcome(body) VALUES(?)", (wire.encode(outcome),))
            _remember(connection, number)

        await self._commit(job)
        self.taken = max(self.taken, number)
        self.told.set()

    def outcomes(self) -> tuple[int, list[wire.Outcome]]:
        """The oldest outcomes that the platform has not taken, and the number up to which they go. Raises StorageError."""
        rows = self._log.select("SELECT number, body FROM outcome ORDER BY number LIMIT ?", (OUTCOMES_AT_ONCE,))
        if not rows:
            self.told.clear()
            return 0, []
        return int(rows[-1][0]), [msgspec.msgpack.decode(body, type=wire.Outcome) for _, body in rows]

    async def on_record(self, number: int) -> None:
        """The platform has the outcomes up to `number`; returns after the commit. Raises StorageError."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM outcome WHERE number<=?", (number,))

        await self._commit(job)

    # -- MailSource ---------------------------------------------------------------------------------------------------

    def waiting(self, device: str) -> tuple[Mail, ...]:
        """See `mail.MailSource`. What the device's profile cannot say is refused, and is not among them."""
        known = self._devices.get(device)
        slots = self._mail.get(device)
        if known is None or not slots:
            return ()
        now = self._clock.now_ms()
        ready = []
        for slot in in_order(slots.values()):
            if slot.spent or slot.downlink.expires <= now:
                continue
            try:
                ready.append(self._mail_of(slot, known))
            except EncodeError as e:
                self._end([end(slot, REFUSED, str(e))])
        return tuple(ready)

    async def begin(self, mail: Mail) -> bool:
        """See `mail.MailSource`. False also where nothing can be written now: the listeners are told again later."""
        slot = self._by_id.get(mail.id)
        now = self._clock.now_ms()
        if slot is None or slot.spent or slot.downlink.expires <= now:
            return False
        if slot.handed:
            return True
        number, sent = slot.downlink.number, self._outcome(mail.id, SENT, "")

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE mail SET handed=? WHERE number=?", (now, number))
            connection.execute("INSERT INTO outcome(body) VALUES(?)", (wire.encode(sent),))

        slot.handing = True
        try:
            await self._commit(job)
        except StorageError as e:
            self._outage.failed(e)
            self._remind.add(mail.device)
            return False
        finally:
            slot.handing = False
        self._outage.worked()
        self.told.set()
        if self._by_id.get(mail.id) is not slot:
            return False
        slot.handed = now
        return True

    async def delivered(self, mail: Mail) -> None:
        """See `mail.MailSource`. Where nothing can be written now it is tried again each second."""
        await self._close(mail, DELIVERED, "")

    async def refused(self, mail: Mail, detail: str) -> None:
        """See `mail.MailSource`; as `delivered`."""
        await self._close(mail, REFUSED, detail)

    def listen(self, on_mail: Callable[[str], None]) -> None:
        """See `mail.MailSource`."""
        self._listeners.append(on_mail)

    def devices_gone(self, gone: Mapping[str, str]) -> None:
        """Refuse what waits for these devices, which are served no longer, each for its reason: a command must not wait for
        somebody who comes back as another. Handed over is none of it from now on; written it is with the next round."""
        for device, reason in gone.items():
            self._end([end(slot, REFUSED, reason) for slot in self._mail.get(device, {}).values()])

    # -- upkeep -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """End what is out of date and write what could not be written, until cancelled. Raises StorageClosed."""
        while True:
            self._pulse.beat()
            await self.tend()
            self._pulse.rest()
            await asyncio.sleep(UPKEEP_S)

    async def tend(self) -> None:
        """One round of `run`."""
        now = self._clock.now_ms()
        late = {slot.downlink.device for slot in self._by_id.values() if slot.downlink.expires <= now}
        self._end_surplus(late)
        self._end_strangers()
        if await self._save_later():
            remind, self._remind = self._remind, set()
            for device in remind:
                self._tell(device)

    async def _close(self, mail: Mail, state: str, detail: str) -> None:
        slot = self._by_id.get(mail.id)
        if slot is not None:
            self._end([Ended(slot=slot, state=state, detail=detail)])
            await self._save_later()

    def _put(self, slot: Slot) -> None:
        self._mail.setdefault(slot.downlink.device, {})[slot.downlink.number] = slot
        self._by_id[slot.downlink.id] = slot

    def _end_surplus(self, devices: Iterable[str]) -> None:
        now = self._clock.now_ms()
        for device in devices:
            slots = tuple(self._mail.get(device, {}).values())
            self._end(to_end(slots, now=now, most=self._most_per_device))
        if len(self._by_id) > self._most:
            self._end(over(self._by_id.values(), self._most, f"more than {self._most} messages wait at the gateway"))

    def _end_strangers(self) -> None:
        """Whoever went while this gateway did not run, or before the order came."""
        if not self._current():
            return
        now = self._clock.monotonic()
        strange = [device for device in self._mail if not self._devices.known(device)]
        self._strange = {device: self._strange.get(device, now) for device in strange}
        late = [device for device, since in self._strange.items() if now - since >= STRANGE_S]
        self.devices_gone(dict.fromkeys(late, "this gateway serves no such device"))

    def _end(self, ended: Iterable[Ended]) -> None:
        """Out of the index now, out of the file with the next write."""
        for one in ended:
            downlink = one.slot.downlink
            of_device = self._mail.get(downlink.device, {})
            of_device.pop(downlink.number, None)
            if not of_device:
                self._mail.pop(downlink.device, None)
            self._by_id.pop(downlink.id, None)
            self._encoded.pop(downlink.number, None)
            self._unsaved.append((downlink.number, self._outcome(downlink.id, one.state, one.detail)))

    async def _save_later(self) -> bool:
        """Write the ends that are not written yet; False where that has to wait. Raises StorageClosed."""
        async with self._saving:
            batch, self._unsaved = self._unsaved, []
            if not batch:
                return True

            def job(connection: sqlite3.Connection) -> None:
                connection.executemany("DELETE FROM mail WHERE number=?", [(number,) for number, _ in batch])
                connection.executemany(
                    "INSERT INTO outcome(body) VALUES(?)", [(wire.encode(outcome),) for _, outcome in batch]
                )

            try:
                await self._commit(job)
            except StorageClosed:
                raise
            except StorageError as e:
                self._unsaved = [*batch, *self._unsaved]
                self._outage.failed(e)
                return False
        self._outage.worked()
        self.told.set()
        return True

    async def _commit(self, job: Callable[[sqlite3.Connection], None]) -> None:
        def plan(connection: sqlite3.Connection) -> tuple[Sequence[Any], None]:
            job(connection)
            return (), None

        # Urgent: a door that hands a message over waits for it, and messages are few.
        await self._log.append(plan, urgent=True)

    def _mail_of(self, slot: Slot, device: Device) -> Mail:
        """Raises EncodeError."""
        downlink = slot.downlink
        known = self._encoded.get(downlink.number)
        if known is not None and known[0] is device.profile:
            return known[1]
        payload, content = _encoded(downlink, device)
        mail = Mail(
            id=downlink.id,
            device=downlink.device,
            message=downlink.message,
            payload=payload,
            content=content,
            values=downlink.values,
            expires=downlink.expires,
            priority=downlink.priority,
            once=downlink.once,
        )
        self._encoded[downlink.number] = (device.profile, mail)
        return mail

    def _outcome(self, order: str, state: str, detail: str) -> wire.Outcome:
        return wire.Outcome(id=order, state=state, time=self._clock.now_ms(), detail=printable(detail))

    def _tell(self, device: str) -> None:
        for listener in self._listeners:
            listener(device)


def why_gone(changes: Changes) -> dict[str, str]:
    """The devices that are served no longer, each with the reason."""
    reasons = {device: f"this gateway does not know its profile {profile}" for device, profile in changes.unsupported}
    reasons |= dict(changes.unfit)
    return {
        device: reasons.get(device, "the device is revoked, or another gateway's now") for device in changes.removed
    }


def _owner(device: str) -> str:
    return f"device/{device}"


def _remember(connection: sqlite3.Connection, number: int) -> None:
    connection.execute(
        "INSERT INTO orders_taken VALUES(1, ?) ON CONFLICT DO UPDATE SET number=max(number, excluded.number)", (number,)
    )


def _encoded(downlink: wire.Downlink, device: Device) -> tuple[bytes, int]:
    """Payload and content format. Raises EncodeError."""
    profile, message = device.profile, downlink.message
    if message not in profile.messages or profile.is_upward(message):
        raise EncodeError("devices of this profile take no such message", profile=profile.id, message=message)
    if not profile.is_sent(message):
        # Written over Modbus: the line makes the requests itself.
        return b"", _BYTES
    content = _CONTENT.get(profile.file.messages[message].codec.type, _BYTES)
    return profile.encode(message, downlink.values, content=content, settings=device.settings), content
