"""An MQTT session: what outlives the connection of a device (MQTT 5.0 section 4.1), and how it is kept.

Owns the state and its record for the disk. Which sessions there are is `sessions`' business, what a connection may do
`conversation`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import msgspec

from citysense_gateway.frame import Receipt
from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.actions import CloseReason, Delivery
from citysense_gateway.mqtt.outgoing import Outgoing
from citysense_gateway.mqtt.packets import Will
from citysense_gateway.mqtt.topics import matches

_NO_SUBSCRIPTIONS: Mapping[str, int] = MappingProxyType({})


class Holder(Protocol):
    """A connection, as its session sees it."""

    def finish(self, reason: CloseReason) -> None:
        """Send what is due, say why where the protocol can, and hang up."""
        ...

    def next_mail(self, waiting: Sequence[Mail]) -> Mail | None:
        """What of `waiting` the device is to get next; None for nothing, or nothing at this moment."""
        ...

    def send_mail(self, mail: Mail) -> bool:
        """Send it; false if the device cannot have it now."""
        ...

    def repeat_receipt(self, device: str, receipt: Receipt) -> None:
        """Tell a device, or one behind it, once more up to where its messages are there without a gap."""
        ...


class StoredSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as it is kept. `ended_ms` in ms since 1970, None while connected; `expiry` in seconds.

    What came in with QoS 2 is not here: a repeat over a restart of ours is told by the spool, in the transaction that
    stores the frame.
    """

    device: str
    client_id: str
    expiry: int
    subscriptions: dict[str, int]
    sent: dict[str, int]
    """Packet ids by message, of downlinks that were sent and not confirmed, in the order of sending."""
    ended_ms: int | None
    will: Will | None
    will_due_ms: int | None


class SessionStore(Protocol):
    """Where sessions survive a restart. A lost one does no harm: the device is told that there is none."""

    def load(self) -> Iterable[StoredSession]:
        """All that are kept; called once, before the first `put`."""
        ...

    def put(self, session: StoredSession) -> None:
        """Keep it soon, in place of the one of the same device and client id."""
        ...

    def drop(self, device: str, client_id: str) -> None:
        """Forget it soon."""
        ...

    async def flush(self) -> None:
        """Return when everything up to now is kept, or cannot be."""
        ...


class Session:
    """One session. `holder` is its connection, None while there is none; then `ended_ms` says since when.

    `expiry` in seconds: how long it is kept without a connection, 0 for not at all. `will_due_ms` is set while a will
    waits for its moment. Compared by identity.
    """

    __slots__ = (
        "_outgoing",
        "_subscriptions",
        "_unreleased",
        "client_id",
        "device",
        "ended_ms",
        "excused",
        "expiry",
        "holder",
        "opened",
        "stored",
        "will",
        "will_due_ms",
    )

    def __init__(self, device: str, client_id: str) -> None:
        self.device = device
        self.client_id = client_id
        self.expiry = 0
        self.holder: Holder | None = None
        self.opened = 0
        """Which opening of all it was, counted up: the newest session of a device gets its mail."""
        self.ended_ms: int | None = None
        self.excused = False
        """Its connection broke because of us, by a restart: what the device left for its own end does not apply."""
        self.stored = False
        """The store has a record of it."""
        self.will: Will | None = None
        self.will_due_ms: int | None = None
        # Made when needed: most sessions only ever publish.
        self._subscriptions: dict[str, int] | None = None
        self._unreleased: dict[int, Delivery | bytes] | None = None
        self._outgoing: Outgoing | None = None

    @property
    def subscriptions(self) -> Mapping[str, int]:
        """Granted QoS by topic filter."""
        return _NO_SUBSCRIPTIONS if self._subscriptions is None else self._subscriptions

    def subscribe(self, topic_filter: str, qos: int) -> None:
        """Add or replace a subscription."""
        if self._subscriptions is None:
            self._subscriptions = {}
        self._subscriptions[topic_filter] = qos

    def unsubscribe(self, topic_filter: str) -> bool:
        """Remove a subscription; false when there is none."""
        return self._subscriptions is not None and self._subscriptions.pop(topic_filter, None) is not None

    def wants(self, topic: str) -> int | None:
        """The highest QoS of all subscriptions to `topic`; None without any."""
        if not self._subscriptions:
            return None
        granted = [qos for wanted, qos in self._subscriptions.items() if matches(wanted, topic)]
        return max(granted, default=None)

    @property
    def unreleased(self) -> dict[int, Delivery | bytes]:
        """QoS 2 messages between PUBLISH and PUBREL by packet id: the delivery while there is no verdict on it, then only
        its digest."""
        if self._unreleased is None:
            self._unreleased = {}
        return self._unreleased

    @property
    def outgoing(self) -> Outgoing:
        """Downlinks."""
        if self._outgoing is None:
            self._outgoing = Outgoing()
        return self._outgoing

    @property
    def has_outgoing(self) -> bool:
        """False where no downlink was ever looked for."""
        return self._outgoing is not None

    def record(self) -> StoredSession:
        """Its state for the disk."""
        return StoredSession(
            device=self.device,
            client_id=self.client_id,
            expiry=self.expiry,
            subscriptions=dict(self.subscriptions),
            sent=self._outgoing.record if self._outgoing else {},
            ended_ms=self.ended_ms,
            will=self.will,
            will_due_ms=self.will_due_ms,
        )

    @classmethod
    def restored(cls, record: StoredSession) -> Session:
        """The session of a record, without a connection."""
        session = cls(record.device, record.client_id)
        session.expiry = record.expiry
        session.ended_ms = record.ended_ms
        session.will = record.will
        session.will_due_ms = record.will_due_ms
        session._subscriptions = dict(record.subscriptions) or None
        session._outgoing = Outgoing(record.sent) if record.sent else None
        return session
