"""Which sessions there are: opening, resumption, take-over, expiry and wills (MQTT 5.0 sections 3.1.2, 3.1.3.2, 4.1).

Owns all sessions of the door in memory and tells the store what is to survive. Publishes nothing and hangs up on
nobody: it returns whom to cut and which wills are due. Times are milliseconds since 1970, given by the caller.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from citysense_gateway.mqtt.actions import CloseReason
from citysense_gateway.mqtt.deadlines import Deadlines
from citysense_gateway.mqtt.limits import MqttSettings
from citysense_gateway.mqtt.packets import Will
from citysense_gateway.mqtt.session import Holder, Session, SessionStore


class LastWord(NamedTuple):
    """A will whose moment has come."""

    device: str
    client_id: str
    will: Will


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """An accepted CONNECT. `expiry` in seconds, already within our bounds."""

    device: str
    client_id: str
    clean: bool
    expiry: int
    will: Will | None
    holder: Holder


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """`present`: it is the session that was there before. `cut` are connections that end before CONNACK goes out."""

    session: Session
    present: bool
    cut: tuple[tuple[Holder, CloseReason], ...] = ()
    wills: tuple[LastWord, ...] = ()


class Sessions:
    """Sessions by device and client id."""

    def __init__(self, *, settings: MqttSettings, store: SessionStore | None = None) -> None:
        self._settings = settings
        self._store = store
        self._devices: dict[str, dict[str, Session]] = {}
        self._offline: Deadlines[Session] = Deadlines()
        self._openings = itertools.count(1)

    @property
    def offline(self) -> int:
        """Sessions that wait for their device, or for the moment of its will."""
        return len(self._offline)

    def load(self, now_ms: int) -> None:
        """Take over what the store kept. A device that was connected gets time to come back before its will is
        published: the connection broke because of us."""
        for record in self._store.load() if self._store else ():
            session = Session.restored(record)
            session.stored = True
            if session.ended_ms is None:
                session.ended_ms, session.excused = now_ms, True
                if session.will is not None:
                    pause = max(session.will.delay, self._settings.will_after_restart)
                    session.will_due_ms = now_ms + pause * 1000
            self._devices.setdefault(session.device, {})[session.client_id] = session
            self._watch(session)

    def live(self, device: str) -> Iterator[Session]:
        """The sessions of a device that are connected, the newest first."""
        of_device = self._devices.get(device)
        if of_device is None:
            return iter(())
        connected = [session for session in of_device.values() if session.holder is not None]
        return iter(sorted(connected, key=lambda session: -session.opened))

    def open(self, opening: Opening, now_ms: int) -> Opened:
        """Give a connection its session: the one that is there, or a new one."""
        before = self._devices.get(opening.device, {}).get(opening.client_id)
        cut: list[tuple[Holder, CloseReason]] = []
        wills: list[LastWord] = []
        if before is not None and before.holder is None and self._ends_at(before) <= now_ms:
            wills += self._last_word(before)
            self._end(before)
            before = None
        of_device = self._devices.setdefault(opening.device, {})
        if before is not None:
            wills += self._interrupt(before, opening)
            if before.holder is not None:
                cut.append((before.holder, CloseReason.TAKEN_OVER))
        present = before is not None and not opening.clean and before.expiry > 0
        session = before if before is not None and present else Session(opening.device, opening.client_id)
        if present:
            if session.has_outgoing:
                session.outgoing.disconnected()
            session.excused = False
        elif before is not None:
            before.holder, session.stored = None, before.stored
        session.holder, session.opened, session.ended_ms = opening.holder, next(self._openings), None
        session.expiry, session.will = opening.expiry, opening.will
        of_device[opening.client_id] = session
        self._keep(session)
        while len(of_device) > self._settings.max_sessions:
            victim = _to_give_up(of_device, session)
            wills += self._last_word(victim)
            if victim.holder is not None:
                cut.append((victim.holder, CloseReason.TOO_MANY_SESSIONS))
            self._end(victim)
        return Opened(session=session, present=present, cut=tuple(cut), wills=tuple(wills))

    def release(self, session: Session, holder: Holder, now_ms: int, *, reason: object) -> tuple[LastWord, ...]:
        """The connection `holder` ended for `reason`; nothing happens if it has lost the session before.

        The will is dropped on a regular end. It waits over our own shutdown, whose cause is not the device.
        """
        if session.holder is not holder:
            return ()
        session.holder = None
        session.ended_ms = now_ms
        if session.has_outgoing:
            session.outgoing.disconnected()
        if reason is CloseReason.SHUTTING_DOWN:
            session.ended_ms = None
            self._keep(session)
            return ()
        if reason is CloseReason.CLIENT_DISCONNECT:
            session.will = None
        if session.expiry == 0:
            last = self._last_word(session)
            self._end(session)
            return last
        word: tuple[LastWord, ...] = ()
        if session.will is not None and session.will.delay:
            session.will_due_ms = now_ms + session.will.delay * 1000
        else:
            word = self._last_word(session)
        self._keep(session)
        self._watch(session)
        return word

    def changed(self, session: Session) -> None:
        """Something that has to survive is different."""
        self._keep(session)

    def due(self, now_ms: int) -> tuple[LastWord, ...]:
        """Call about once a second: sessions that have expired go, and wills whose delay is over are returned."""
        words: list[LastWord] = []
        for session in self._offline.take(now_ms / 1000):
            if session.will_due_ms is not None and session.will_due_ms <= now_ms:
                words += self._last_word(session)
                self._keep(session)
            if self._ends_at(session) <= now_ms:
                words += self._last_word(session)
                self._end(session)
            else:
                self._watch(session)
        return tuple(words)

    def drop(self, device: str) -> list[Holder]:
        """Forget all sessions of a device whose rights have ended, with their wills; its connections are returned."""
        sessions = list(self._devices.get(device, {}).values())
        holders = [session.holder for session in sessions if session.holder is not None]
        for session in sessions:
            self._end(session)
        return holders

    def _interrupt(self, before: Session, opening: Opening) -> tuple[LastWord, ...]:
        """The will of the connection that `opening` follows: dropped where the session goes on before the delay is over
        (MQTT-3.1.3-9), or where the connection broke because of us; published where the session ends."""
        self._offline.forget(before)
        goes_on = not opening.clean and before.expiry > 0
        if before.excused or (goes_on and before.will is not None and before.will.delay > 0):
            before.will = before.will_due_ms = None
            return ()
        return self._last_word(before)

    def _last_word(self, session: Session) -> tuple[LastWord, ...]:
        will, session.will, session.will_due_ms = session.will, None, None
        return () if will is None else (LastWord(session.device, session.client_id, will),)

    def _ends_at(self, session: Session) -> int:
        """When a session without a connection ends; one that is not kept only waits for the moment of its will."""
        assert session.ended_ms is not None
        if session.expiry == 0:
            return max(session.ended_ms, session.will_due_ms or 0)
        return session.ended_ms + session.expiry * 1000

    def _watch(self, session: Session) -> None:
        due = self._ends_at(session)
        if session.will_due_ms is not None:
            # A session that ends takes its will along, whatever the delay.
            due = min(due, session.will_due_ms)
        self._offline.file(session, due / 1000)

    def _keep(self, session: Session) -> None:
        if self._store is None:
            return
        if session.expiry > 0 or session.will is not None:
            self._store.put(session.record())
            session.stored = True
        else:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        if self._store is not None and session.stored:
            self._store.drop(session.device, session.client_id)
            session.stored = False

    def _end(self, session: Session) -> None:
        session.holder = None
        self._offline.forget(session)
        self._forget(session)
        of_device = self._devices.get(session.device, {})
        if of_device.get(session.client_id) is session:
            del of_device[session.client_id]
            if not of_device:
                del self._devices[session.device]


def _to_give_up(of_device: dict[str, Session], newest: Session) -> Session:
    """Which session has to go for a newer one: that without a connection first, then the oldest. A device that makes up a
    new client id at each start would lock itself out otherwise."""
    others = (session for session in of_device.values() if session is not newest)
    return min(others, key=lambda session: (session.holder is not None, session.opened))
