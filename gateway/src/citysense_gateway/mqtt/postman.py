"""Brings mail from the mailbox to connected devices, and what became of it back.

Owns the order of the two promises: the mailbox knows that a message goes out before it does, and hears of the outcome
until it has it on disk. What is due and how it looks on the wire is the conversation's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from citysense.errors import StorageClosed, StorageError
from citysense_gateway.mail import Mail, MailSource
from citysense_gateway.mqtt.session import Session
from citysense_gateway.mqtt.sessions import Sessions
from citysense_gateway.outage import Outage


class Postman:
    """One round at a time for each session. `children_of` and `concentrator_of` tell who takes mail for whom."""

    def __init__(
        self,
        mail: MailSource,
        *,
        sessions: Sessions,
        children_of: Callable[[str], Iterable[str]],
        concentrator_of: Callable[[str], str],
        random: Callable[[], float],
    ) -> None:
        self._mail = mail
        self._sessions = sessions
        self._children_of = children_of
        self._concentrator_of = concentrator_of
        self._rounds: dict[Session, asyncio.Task[None]] = {}
        self._again: set[Session] = set()
        self._stalled: set[Session] = set()
        self._carried: dict[str, Session] = {}
        self._trouble = Outage("MQTT door: mailbox", random)

    def start(self) -> None:
        """Hear of new mail from now on."""
        self._mail.listen(self.call)

    def call(self, device: str) -> None:
        """Something new waits for `device`: see who can take it, itself or its concentrator."""
        for name in (device, self._concentrator_of(device)):
            for session in self._sessions.live(name) if name else ():
                self.visit(session)

    def opened(self, session: Session) -> None:
        """A session has a connection again: what it sent before and what waits no more is forgotten."""
        if session.has_outgoing:
            session.outgoing.keep_only(self._waiting(session))

    def visit(self, session: Session) -> None:
        """Take the session's outcomes and bring its mail, soon."""
        if session in self._rounds:
            self._again.add(session)
        elif session.subscriptions or (session.has_outgoing and session.outgoing.outcomes):
            task = asyncio.get_running_loop().create_task(self._guarded(session))
            self._rounds[session] = task
            task.add_done_callback(lambda _: self._finished(session))

    def left(self, session: Session) -> None:
        """The session has lost its connection: others of the device may take what it had."""
        for mail_id in [mail_id for mail_id, carrier in self._carried.items() if carrier is session]:
            del self._carried[mail_id]
        self.call(session.device)

    def tick(self) -> None:
        """Call about once a second: where the mailbox could not write, try again."""
        stalled, self._stalled = self._stalled, set()
        for session in stalled:
            self.visit(session)

    async def close(self) -> None:
        """Wait for rounds under way; connections have ended before."""
        while self._rounds:
            await asyncio.wait(self._rounds.values())

    def _finished(self, session: Session) -> None:
        del self._rounds[session]
        if session in self._again:
            self._again.discard(session)
            self.visit(session)

    async def _guarded(self, session: Session) -> None:
        try:
            await self._round(session)
        except StorageClosed:
            # The process is going down; the mailbox's own file says what was handed over.
            return
        except StorageError as error:
            self._trouble.failed(error)
            self._stalled.add(session)
        else:
            self._trouble.worked()

    async def _round(self, session: Session) -> None:
        done: set[str] = set()
        while True:
            self._again.discard(session)
            await self._report(session, done)
            holder = session.holder
            waiting = [mail for mail in self._waiting(session) if mail.id not in done and self._is_free(mail, session)]
            mail = holder.next_mail(waiting) if holder is not None else None
            if mail is None:
                if session in self._again:
                    continue
                return
            self._carried[mail.id] = session
            began = False
            try:
                began = await self._mail.begin(mail)
            finally:
                # The connection may be another one by now, or none: then nothing went out and nothing is confirmed.
                if not (began and session.holder is holder and holder is not None and holder.send_mail(mail)):
                    done.add(mail.id)
                    self._carried.pop(mail.id, None)

    async def _report(self, session: Session, done: set[str]) -> None:
        outcomes = session.outgoing.outcomes
        while outcomes:
            mail, refusal = outcomes[0]
            if refusal:
                await self._mail.refused(mail, refusal)
            else:
                await self._mail.delivered(mail)
            outcomes.popleft()
            done.add(mail.id)
            self._carried.pop(mail.id, None)

    def _is_free(self, mail: Mail, session: Session) -> bool:
        return self._carried.get(mail.id, session) is session

    def _waiting(self, session: Session) -> list[Mail]:
        """What waits for the session's device, then for those behind it."""
        waiting = list(self._mail.waiting(session.device))
        if any("/child/" in topic_filter for topic_filter in session.subscriptions):
            for child in self._children_of(session.device):
                waiting += self._mail.waiting(child)
        return waiting
