"""Devices that wait for their messages (RFC 7641): who does, where, and the one notification under way to each.

Owns the registrations and the pace: never more than one unconfirmed notification per device, none to a device that
sleeps. A notification is confirmable; its acknowledgement is the device's word that it has the message. One that stays
unanswered means that the device sleeps: the registration lives on, and the message waits for the next uplink. (RFC 7641
section 4.5 would end it; then a device that sleeps most of its life would register at every wake-up.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from aiocoap import Message

from citysense.clock import Clock
from citysense.errors import CitysenseError
from citysense_gateway.coap.exchanges import End, Exchanges, Handle
from citysense_gateway.coap.mail_resource import Mailbox, reply_with
from citysense_gateway.coap.oscore import Sealing
from citysense_gateway.coap.rendering import LARGEST_BLOCK, rendered
from citysense_gateway.coap.transport import Peer
from citysense_gateway.mail import Mail
from citysense_gateway.outage import Outage

_LOG = logging.getLogger(__name__)
_OBSERVE_NUMBERS = 1 << 24


@dataclass(slots=True, kw_only=True)
class Watch:
    """One registration: where to and under which token, protected how, in blocks of which size."""

    device: str
    peer: Peer
    token: bytes
    sealing: Sealing | None
    exponent: int = LARGEST_BLOCK
    asleep: bool = False


class Observers:
    """All registrations, one per device; a newer one takes its place."""

    def __init__(self, *, exchanges: Exchanges, mailbox: Mailbox, clock: Clock, trouble: Outage) -> None:
        self._exchanges = exchanges
        self._mailbox = mailbox
        self._clock = clock
        self._trouble = trouble
        self._watches: dict[str, Watch] = {}
        self._sending: dict[str, Handle | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0
        self.notified = 0
        """Notifications sent since the start, repeats not counted."""

    def __len__(self) -> int:
        return len(self._watches)

    def add(self, watch: Watch) -> None:
        """Register, or register anew."""
        self._watches[watch.device] = watch

    def remove(self, device: str) -> None:
        """End a registration. What is under way is not repeated any more."""
        self._watches.pop(device, None)
        handle = self._sending.get(device)
        if handle is not None:
            del self._sending[device]
            self._exchanges.withdraw(handle)

    def next_number(self) -> int:
        """The Observe value of the next reply or notification; grows, and wraps at 2^24 (RFC 7641 section 3.4)."""
        self._number = (self._number + 1) % _OBSERVE_NUMBERS
        return self._number

    def heard(self, device: str, peer: Peer, *, proven: bool) -> None:
        """The device is awake, and reachable at `peer` now: send what waits.

        Its address may be another one than at its registration, behind a NAT; only a device that has proved to be
        itself takes its registration along.
        """
        watch = self._watches.get(device)
        if watch is None:
            return
        if proven:
            watch.peer = peer
        watch.asleep = False
        self.mail_came(device)

    def mail_came(self, device: str) -> None:
        """Something new waits for the device."""
        watch = self._watches.get(device)
        if watch is None or watch.asleep or device in self._sending or not self._mailbox.waits(device):
            return
        self._sending[device] = None
        self._start(self._notify(device))

    async def _notify(self, device: str) -> None:
        try:
            mail = await self._mailbox.take(device)
            self._trouble.worked()
        except CitysenseError as e:
            self._trouble.failed(e)
            mail = None
        watch = self._watches.get(device)
        if mail is None or watch is None:
            self._sending.pop(device, None)
            return
        message = rendered(reply_with(mail, observe=self.next_number()), block2=None, exponent=watch.exponent)
        whole = len(mail.payload) == len(message.payload)
        sealed: Message | None = message if watch.sealing is None else watch.sealing.protect(message)
        if sealed is None:
            self._sending.pop(device, None)
            return
        self.notified += 1
        self._sending[device] = self._exchanges.confirm(
            watch.peer,
            sealed,
            watch.token,
            # A message must not arrive after its time.
            until=self._clock.monotonic() + (mail.expires - self._clock.now_ms()) / 1000,
            ended=lambda end: self._ended(mail, whole, end),
        )

    def _ended(self, mail: Mail, whole: bool, end: End) -> None:
        device = mail.device
        self._sending.pop(device, None)
        watch = self._watches.get(device)
        if end is End.RESET:
            self._watches.pop(device, None)
        elif end is End.ACKNOWLEDGED and whole:
            self._sending[device] = None
            self._start(self._confirmed(mail))
        elif watch is not None:
            # Unanswered, or only the first block of it was acknowledged: the device speaks next.
            watch.asleep = True

    async def _confirmed(self, mail: Mail) -> None:
        try:
            await self._mailbox.confirm(mail.device, mail.id)
            self._trouble.worked()
        except CitysenseError as e:
            self._trouble.failed(e)
            return
        finally:
            self._sending.pop(mail.device, None)
        self.mail_came(mail.device)

    def _start(self, steps: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(steps, name="CoAP notification")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a notification failed", exc_info=task.exception())

    async def close(self) -> None:
        """End all registrations and what is under way."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watches.clear()
        self._sending.clear()
