"""Requests about mail: the next message in a reply, as a notification, block by block, and its confirmation.

Owns their order against the mailbox: a message counts as handed over before it is sent, and as delivered when the device
says so. Who may ask is decided by the door.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from random import Random
from typing import Any

from citysense.clock import Clock
from citysense.errors import CitysenseError
from citysense_gateway.coap import replies
from citysense_gateway.coap.answers import Answers, Caller, block_of
from citysense_gateway.coap.exchanges import Exchanges
from citysense_gateway.coap.mail_resource import Mailbox, reply_with
from citysense_gateway.coap.observe import Observers, Watch
from citysense_gateway.coap.rendering import LARGEST_BLOCK
from citysense_gateway.coap.replies import Code, MailTarget, Reply, Target
from citysense_gateway.coap.uploads import Block
from citysense_gateway.mail import MailSource
from citysense_gateway.outage import Outage

_LOG = logging.getLogger(__name__)


class MailService:
    """Hands out the mail of `source`; `observers` has the registrations."""

    def __init__(
        self, source: MailSource, exchanges: Exchanges, answers: Answers, *, clock: Clock, random: Random
    ) -> None:
        self._answers = answers
        self._mailbox = Mailbox(source)
        self._trouble = Outage("CoAP mailbox", random.random)
        self.observers = Observers(exchanges=exchanges, mailbox=self._mailbox, clock=clock, trouble=self._trouble)
        self._tasks: set[asyncio.Task[None]] = set()
        source.listen(self.observers.mail_came)

    def forget(self, device: str) -> None:
        """The device is gone or somebody else now."""
        self.observers.remove(device)
        self._mailbox.forget(device)

    async def stop(self) -> None:
        """End registrations, and requests under way."""
        await self.observers.close()
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def answer(self, caller: Caller, target: Target, block: Block | None) -> None:
        """Answer a frame that is committed: with the next message where the device asked for it, or right before it."""
        reply = Reply(code=Code.CHANGED)
        if target.with_mail:
            if self._answers.unverified(caller):
                # The next frame brings it back, and then the reply may be a large one.
                reply = Reply(code=Code.CHANGED, echo=self._answers.echo_for(caller))
            elif self._fits_reply(target.device):
                self._start(self._answer_with_mail(caller, target, block))
                return
        self._answers.respond(caller, reply, block1=block)
        self._heard(caller, target.device)

    def serve(self, caller: Caller, target: MailTarget) -> None:
        """Serve a request for a message, or a confirmation of one."""
        if self._answers.unverified(caller):
            # Before a message counts as handed over, and before anything is sent to an address unasked.
            self._answers.challenge(caller)
        elif target.confirmed is not None:
            self._start(self._confirm(caller, target.device, target.confirmed))
        else:
            self._get_mail(caller, target.device)

    def _heard(self, caller: Caller, device: str) -> None:
        self.observers.heard(device, caller.exchange.peer, proven=caller.device is not None)

    def _fits_reply(self, device: str) -> bool:
        """Whether something waits that fits one datagram; larger ones are fetched, block by block."""
        mail = self._mailbox.peek(device)
        return mail is not None and len(mail.payload) <= 1 << (LARGEST_BLOCK + 4)

    async def _answer_with_mail(self, caller: Caller, target: Target, block: Block | None) -> None:
        reply = Reply(code=Code.CHANGED)
        try:
            mail = await self._mailbox.take(target.device)
            reply = reply_with(mail, code=Code.CHANGED)
            self._trouble.worked()
        except CitysenseError as e:
            # The frame is committed all the same; the message waits on.
            self._trouble.failed(e)
        self._answers.respond(caller, reply, block1=block)

    def _get_mail(self, caller: Caller, device: str) -> None:
        options = caller.message.opt
        block2 = block_of(options.block2)
        if block2 is not None and block2.number:
            mail = self._mailbox.current(device)
            gone = Reply(code=Code.INCOMPLETE, text="that message is no longer at hand; begin again")
            self._answers.respond(caller, gone if mail is None else reply_with(mail))
        elif options.observe == 0:
            self.observers.add(
                Watch(
                    device=device,
                    peer=caller.exchange.peer,
                    token=caller.exchange.message.token,
                    sealing=caller.sealing,
                    exponent=LARGEST_BLOCK if block2 is None else min(block2.exponent, LARGEST_BLOCK),
                )
            )
            # What waits comes as a notification, so that its acknowledgement says that it was received.
            self._answers.respond(caller, Reply(code=Code.CONTENT, observe=self.observers.next_number()))
            self.observers.mail_came(device)
        else:
            if options.observe == 1:
                self.observers.remove(device)
            self._start(self._give_mail(caller, device))

    async def _give_mail(self, caller: Caller, device: str) -> None:
        try:
            reply = reply_with(await self._mailbox.take(device))
            self._trouble.worked()
        except CitysenseError as e:
            self._trouble.failed(e)
            reply = replies.unavailable("cannot look now; ask again")
        self._answers.respond(caller, reply)

    async def _confirm(self, caller: Caller, device: str, mail_id: str) -> None:
        reply = Reply(code=Code.NOT_FOUND, text="no such message waits")
        try:
            if await self._mailbox.confirm(device, mail_id):
                reply = Reply(code=Code.DELETED)
            self._trouble.worked()
        except CitysenseError as e:
            self._trouble.failed(e)
            reply = replies.unavailable("cannot note it now; send it again")
        self._answers.respond(caller, reply)
        self._heard(caller, device)

    def _start(self, steps: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(steps, name="CoAP mail")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a request about mail failed", exc_info=task.exception())
