"""A device's mailbox over CoAP: the form of a message on its way down, and its confirmation.

Owns which message a device has in hand, so that its later blocks and its DELETE find it. Time to live, priority,
superseding and "at most once" are the mailbox's own; nothing is sent that it has not been told of before.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from citysense_gateway.coap.replies import DOWN, Code, Reply
from citysense_gateway.mail import Mail, MailSource

MAX_IN_HAND = 8
"""Messages per device that were sent and not confirmed. A device gets one at a time."""
_ETAG_BYTES = 8
"""RFC 7252 section 5.10.6."""


class Mailbox:
    """The messages of all devices, as CoAP hands them over."""

    def __init__(self, source: MailSource) -> None:
        self._source = source
        self._in_hand: dict[str, OrderedDict[str, Mail]] = {}

    def waits(self, device: str) -> bool:
        """Whether there is something to hand over."""
        return bool(self._source.waiting(device))

    def peek(self, device: str) -> Mail | None:
        """What `take` would try first."""
        waiting = self._source.waiting(device)
        return waiting[0] if waiting else None

    async def take(self, device: str) -> Mail | None:
        """The next message, which now counts as handed over; None where nothing is left to send."""
        for mail in self._source.waiting(device):
            if await self._source.begin(mail):
                in_hand = self._in_hand.setdefault(device, OrderedDict())
                in_hand[mail.id] = mail
                in_hand.move_to_end(mail.id)
                if len(in_hand) > MAX_IN_HAND:
                    in_hand.popitem(last=False)
                return mail
        return None

    def current(self, device: str) -> Mail | None:
        """The message that was handed over last and is not confirmed: later blocks are of this one."""
        in_hand = self._in_hand.get(device)
        return next(reversed(in_hand.values())) if in_hand else None

    async def confirm(self, device: str, mail_id: str) -> bool:
        """The device has it. False: there is no such message, or no longer."""
        in_hand = self._in_hand.get(device, OrderedDict())
        mail = in_hand.get(mail_id) or next((m for m in self._source.waiting(device) if m.id == mail_id), None)
        if mail is None:
            return False
        await self._source.delivered(mail)
        in_hand.pop(mail_id, None)
        if not in_hand:
            self._in_hand.pop(device, None)
        return True

    def forget(self, device: str) -> None:
        """The device is gone or somebody else now."""
        self._in_hand.pop(device, None)


def reply_with(mail: Mail | None, *, code: Code = Code.CONTENT, observe: int | None = None) -> Reply:
    """The reply that carries `mail`, or says that nothing waits: then it has neither payload nor Location-Path.

    Location-Path is what to DELETE when the message has been carried out; Location-Query `m=` names it.
    """
    if mail is None:
        return Reply(code=code, observe=observe)
    return Reply(
        code=code,
        payload=mail.payload,
        content=mail.content,
        etag=etag(mail.id),
        location=("v1", mail.device, DOWN, mail.id),
        query=(f"m={mail.message}",),
        observe=observe,
    )


def etag(mail_id: str) -> bytes:
    """The ETag of a message: its id where that fits, else a digest of it."""
    data = mail_id.encode()
    return data if 0 < len(data) <= _ETAG_BYTES else hashlib.sha256(data).digest()[:_ETAG_BYTES]
