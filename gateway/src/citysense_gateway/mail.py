"""Messages for devices, as doors and drivers see them: what waits, and what became of it.

Owns the vocabulary between the mailbox and whoever can reach a device (MQTT session, CoAP exchange, Modbus line). Nothing
here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from citysense_profiles.reading import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One message on its way to a device.

    `payload` is what the device's profile made of `values`; empty for a device that is written over Modbus. `content`
    is its CoAP content format. `expires` in ms since 1970. `once`: handed over at most once.
    """

    id: str
    device: str
    message: str
    payload: bytes
    content: int
    values: Mapping[str, Value]
    expires: int
    priority: int
    once: bool


class MailSource(Protocol):
    """Where doors get mail. Everything is told before it is done: what was handed over once must not be so again."""

    def waiting(self, device: str) -> tuple[Mail, ...]:
        """What the device should get now, the most urgent first, then the oldest; expired mail is left out, and so is
        mail `once` that was handed over before."""
        ...

    async def begin(self, mail: Mail) -> bool:
        """About to hand `mail` over; true after the commit of that. False: it is not to be sent any more (expired,
        superseded, handed over before)."""
        ...

    async def delivered(self, mail: Mail) -> None:
        """The device has confirmed it; returns after the commit."""
        ...

    async def refused(self, mail: Mail, detail: str) -> None:
        """The device, or its profile, will never take it; returns after the commit."""
        ...

    def listen(self, on_mail: Callable[[str], None]) -> None:
        """Have `on_mail` called with the device's id whenever something new waits for it."""
        ...
