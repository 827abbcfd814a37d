"""The downlinks of one session: what is on its way to the device, under which packet id, and what is due next.

Owns the bookkeeping of QoS 1 towards the device (MQTT 5.0 section 4.3.2 and 4.4). Pure: it neither asks the mailbox nor
writes to the socket, and must not decide what a message means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from citysense_gateway.mail import Mail

_LAST_ID = 0xFFFF


class Outcome(NamedTuple):
    """What became of a message. `refusal` says why the device will never take it; empty: it has confirmed it."""

    mail: Mail
    refusal: str = ""


class Sending(NamedTuple):
    """How a message goes out: QoS 1 with a packet id, else QoS 0."""

    packet_id: int | None
    dup: bool


class Outgoing:
    """State of one session's downlinks. Messages are told apart by `Mail.id`."""

    __slots__ = ("_in_flight", "_last_id", "_sent_before", "_unconfirmed", "outcomes")

    def __init__(self, sent_before: Mapping[str, int] | None = None) -> None:
        """`sent_before` are packet ids by message: what an earlier connection of the session sent and nobody confirmed."""
        self._in_flight: dict[int, Mail] = {}
        self._sent_before = dict(sent_before or {})
        self._unconfirmed: set[str] = set()
        self._last_id = 0
        self.outcomes: deque[Outcome] = deque()
        """What the mailbox has yet to be told, in the order in which it was learned."""

    @property
    def in_flight(self) -> int:
        """Messages sent with QoS 1 and not answered."""
        return len(self._in_flight)

    @property
    def record(self) -> dict[str, int]:
        """Packet ids by message, in the order of sending: what has to survive the connection."""
        return self._sent_before | {mail.id: packet_id for packet_id, mail in self._in_flight.items()}

    def holds(self, mail_id: str) -> bool:
        """True while the message is sent and its end not known to the mailbox."""
        return (
            mail_id in self._unconfirmed
            or any(mail.id == mail_id for mail in self._in_flight.values())
            or any(outcome.mail.id == mail_id for outcome in self.outcomes)
        )

    def next_mail(self, waiting: Iterable[Mail], limit: int) -> Mail | None:
        """What to send next of all that waits: first what was sent before, in that order (MQTT-4.6.0-1), then as given.

        None when nothing is due or `limit` messages are on their way.
        """
        if len(self._in_flight) >= limit:
            return None
        every = {mail.id: mail for mail in waiting}
        self._unconfirmed &= every.keys()
        due = {mail_id: mail for mail_id, mail in every.items() if not self.holds(mail_id)}
        for mail_id in self._sent_before:
            if mail_id in due:
                return due[mail_id]
        return next(iter(due.values()), None)

    def keep_only(self, waiting: Iterable[Mail]) -> None:
        """Free the packet ids of what an earlier connection sent and what waits no more: expired, replaced, or `once`."""
        ids = {mail.id for mail in waiting}
        self._sent_before = {mail_id: number for mail_id, number in self._sent_before.items() if mail_id in ids}

    def send(self, mail: Mail, qos: int) -> Sending:
        """Note that `mail` goes out now."""
        if not qos:
            self._unconfirmed.add(mail.id)
            return Sending(None, False)
        before = self._sent_before.pop(mail.id, None)
        packet_id = before if before is not None else self._free_id()
        self._in_flight[packet_id] = mail
        return Sending(packet_id, before is not None)

    def refuse(self, mail: Mail, why: str) -> None:
        """Note that `mail` can never be sent in this session."""
        self._sent_before.pop(mail.id, None)
        self.outcomes.append(Outcome(mail, why))

    def answered(self, packet_id: int, reason: int) -> bool:
        """Note a PUBACK; false where nothing was sent under that id."""
        mail = self._in_flight.pop(packet_id, None)
        if mail is None:
            return False
        refusal = f"the device answered with reason code 0x{reason:02x}" if reason >= 0x80 else ""
        self.outcomes.append(Outcome(mail, refusal))
        return True

    def disconnected(self) -> None:
        """The connection is gone: what was not answered is to be sent again, but what may go out only once."""
        for packet_id, mail in self._in_flight.items():
            if not mail.once:
                self._sent_before[mail.id] = packet_id
        self._in_flight.clear()
        self._unconfirmed.clear()

    def _free_id(self) -> int:
        taken = self._in_flight.keys() | self._sent_before.values()
        while True:
            self._last_id = self._last_id % _LAST_ID + 1
            if self._last_id not in taken:
                return self._last_id
