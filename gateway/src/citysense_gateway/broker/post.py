"""Messages for devices that are reached through the broker: which to hand over now, and when again.

The broker's acknowledgement says that the broker has a message, not that the device has: so nothing is reported as delivered
here. A message `once` is handed over once, and its outcome stays open; any other is handed over again, ever more rarely,
until the mailbox takes it back as confirmed, superseded or expired. Owns that pace and who is reached this way; the bytes go
out through whoever calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from citysense.errors import StorageError
from citysense_gateway.broker.link import LinkLost
from citysense_gateway.mail import Mail, MailSource
from citysense_gateway.mqtt.topics import down_topic

AGAIN_S = 30.0
LONGEST_S = 600.0
MOST_DEVICES = 50_000
"""Devices heard through the broker; only registered ones get here, and a flood of them costs the oldest their place."""

Publish = Callable[[Mail, str], Awaitable[bool]]
"""Hands one message to the broker, on a topic; False when it has nobody to give it to, or will not take it."""


@dataclass(slots=True, kw_only=True)
class _Handed:
    device: str
    times: int
    next_at: float


class Post:
    """One per driver. `heard` and `wake` note what there is to do, `deliver` does it."""

    def __init__(self, source: MailSource) -> None:
        self._source = source
        self._heard: dict[str, str] = {}
        self._awake: dict[str, None] = {}
        self._handed: dict[str, _Handed] = {}

    def heard(self, device: str, via: str) -> None:
        """A frame of the device came through the broker, from itself or from the concentrator `via`: so it is reached there,
        and the same way from now on."""
        if self._heard.get(device) != via:
            if len(self._heard) >= MOST_DEVICES and device not in self._heard:
                del self._heard[next(iter(self._heard))]
            self._heard[device] = via
            self._awake[device] = None

    def via(self, device: str) -> str:
        """The concentrator through which the device is reached; empty for none."""
        return self._heard.get(device, "")

    def wake(self, device: str) -> None:
        """Something new waits for the device, wherever it is reached."""
        if device in self._heard:
            self._awake[device] = None

    def forget(self, devices: Iterable[str]) -> None:
        """They are no longer served, or their rights have changed: they and those behind them have to be heard again."""
        gone = frozenset(devices)
        for device in [one for one, via in self._heard.items() if one in gone or via in gone]:
            del self._heard[device]
            self._awake.pop(device, None)

    @property
    def idle(self) -> bool:
        """Nothing was handed over and nothing waits: the common case, in which nobody has to look."""
        return not self._awake and not self._handed

    async def deliver(self, publish: Publish, now: float) -> int:
        """Hand over what is due at monotonic `now`; how many messages the broker took."""
        for handed in self._handed.values():
            if now >= handed.next_at:
                self._awake[handed.device] = None
        taken = 0
        for device in tuple(self._awake):
            # Before the first wait: what wakes the device meanwhile must not be lost.
            self._awake.pop(device, None)
            try:
                taken += await self._deliver_to(device, publish, now)
            except LinkLost:
                self._awake[device] = None
                raise
        return taken

    async def _deliver_to(self, device: str, publish: Publish, now: float) -> int:
        via = self._heard.get(device)
        waiting = () if via is None else self._source.waiting(device)
        here = {mail.id for mail in waiting}
        for gone in [one for one, handed in self._handed.items() if handed.device == device and one not in here]:
            del self._handed[gone]
        taken = 0
        for mail in waiting:
            before = self._handed.get(mail.id)
            if before is not None and now < before.next_at:
                continue
            try:
                if not await self._source.begin(mail):
                    continue
            except StorageError:
                continue  # not on record, so not to be sent; the spool speaks of its own trouble
            times = 1 if before is None else before.times + 1
            again = now + min(AGAIN_S * 2.0 ** (times - 1), LONGEST_S)
            taken += await publish(mail, down_topic(device, mail.message, via or ""))
            self._handed[mail.id] = _Handed(device=device, times=times, next_at=again)
        return taken
