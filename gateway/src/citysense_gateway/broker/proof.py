"""Proof that the broker binds the device segment of a topic to the account: a publish that must not arrive.

Two accounts that are used for nothing else publish, each under its own name (that must arrive) and under the other's (that
must not), and a client without a name tries too. An acknowledgement of the broker proves nothing: it acknowledges what its
rules then drop (measured with mosquitto 2.0). Owns the order of the attempts and the judgement; the sessions are short-lived
and apart from the one that readings come through, so a backlog there delays nothing here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from citysense.errors import CitysenseError
from citysense_gateway.broker.inbound import Inbound
from citysense_gateway.broker.link import Link, LinkLost, LinkOptions, LinkRefused
from citysense_gateway.broker.options import Account, BrokerOptions
from citysense_gateway.broker.routes import CHILD, NATIVE, PROBE_MESSAGE
from citysense_gateway.broker.trust import Trust

ARRIVES_S = 5.0
"""An allowed publish takes milliseconds; a broker that needs longer is not fit to be asked."""
GRACE_S = 0.5
"""What was published before the last allowed one and comes later than this after it, over another node of a cluster perhaps,
is not waited for."""


class ProofFailed(CitysenseError):
    """The broker does not keep devices apart, or does not show that it does. The text says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One publish: who (None: without a name), where, and what it carries to be known by."""

    sender: str | None
    topic: str
    mark: bytes


def own_topic(user: str) -> str:
    """Where the account may publish."""
    return NATIVE.replace("{device}", user).replace("+", PROBE_MESSAGE)


def foreign_topics(user: str, templates: Iterable[str]) -> list[str]:
    """Every kind of uplink topic in which that account stands, for another one to try."""
    child = CHILD.replace("{device}", user).replace("+", user, 1).replace("+", PROBE_MESSAGE)
    vendor = [template.replace("{device}", user) for template in sorted(set(templates))]
    return [own_topic(user), child, *vendor]


def judge(came: Collection[bytes], allowed: Sequence[Attempt], forbidden: Sequence[Attempt]) -> str | None:
    """What is wrong with the broker's rules, as a sentence; None when nothing is."""
    for attempt in forbidden:
        if attempt.mark in came:
            who = "a client without a name" if attempt.sender is None else f"the account {attempt.sender}"
            change = (
                "forbid anonymous clients"
                if attempt.sender is None
                else "bind the device's segment of the topic to the user name (docs/broker.md has rules that do)"
            )
            return f"{who} could publish to {attempt.topic}, so readings may come from anybody; {change}"
    for attempt in allowed:
        if attempt.mark not in came:
            return (
                f"what {attempt.sender} published to {attempt.topic} did not arrive within {ARRIVES_S:.0f} s; let every"
                " account write cs/v1/USER/up/+ and the gateway read cs/v1/+/up/+"
            )
    return None


class Proof:
    """Makes the attempts. `trust` was renewed; `nonce` gives bytes that were never used before."""

    def __init__(self, options: BrokerOptions, *, trust: Trust, nonce: Callable[[], bytes]) -> None:
        self._options = options
        self._trust = trust
        self._nonce = nonce
        self._came: set[bytes] = set()
        self._news = asyncio.Event()

    async def run(self, templates: Iterable[str]) -> None:
        """Returns when all is well. Raises ProofFailed, LinkLost (the broker went away: proved is nothing)."""
        first, second = self._options.probes
        wanted = list(templates)
        topics = [*foreign_topics(first.user, wanted), *foreign_topics(second.user, wanted)]
        observer = Link(self._link("observer", self._options.account), self._arrived)
        try:
            await observer.open()
            await observer.subscribe(topics)
            allowed: list[Attempt] = []
            forbidden: list[Attempt] = []
            for account, other in ((first, second), (second, first)):
                allowed.append(await self._allowed(account))
                forbidden += await self._forbidden(account, foreign_topics(other.user, wanted))
                # Behind the forbidden ones: when this one is here, they would be.
                allowed.append(await self._allowed(account))
            forbidden += await self._nameless(first.user)
            await asyncio.sleep(GRACE_S)
            if observer.lost.is_set():
                raise LinkLost(observer.why)
        finally:
            observer.close()
        wrong = judge(self._came, allowed, forbidden)
        if wrong is not None:
            raise ProofFailed(wrong)

    def _link(self, role: str, account: Account | None) -> LinkOptions:
        options = self._options
        return LinkOptions(
            host=options.host,
            port=options.port,
            client_id=f"{options.client_id}-{role}",
            account=account,
            tls=self._trust.own if account is options.account else self._trust.nameless,
            protocol=options.protocol,
            durable=False,
        )

    def _arrived(self, messages: list[Inbound]) -> None:
        self._came.update(message.payload for message in messages if not message.retain)
        self._news.set()

    def _attempt(self, sender: str | None, topic: str) -> Attempt:
        return Attempt(sender=sender, topic=topic, mark=self._nonce())

    async def _allowed(self, account: Account) -> Attempt:
        """Publish under the account's own name and wait for it."""
        attempt = self._attempt(account.user, own_topic(account.user))
        link = Link(self._link(f"probe-{account.user}", account), _ignore)
        try:
            await link.open()
            await link.publish(attempt.topic, attempt.mark)
        except LinkRefused as e:
            raise ProofFailed(f"{e}; create the account {account.user}, or correct its password") from e
        finally:
            link.close()
        try:
            async with asyncio.timeout(ARRIVES_S):
                while attempt.mark not in self._came:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as e:
            raise ProofFailed(judge((), [attempt], []) or "") from e
        return attempt

    async def _forbidden(self, account: Account, topics: Sequence[str]) -> list[Attempt]:
        """Publish where the account must not. A broker may cut it off for that, which is as good as any answer."""
        return [await self._try(self._link(f"probe-{account.user}", account), account.user, topic) for topic in topics]

    async def _nameless(self, user: str) -> list[Attempt]:
        return [await self._try(self._link("nameless", None), None, own_topic(user))]

    async def _try(self, options: LinkOptions, sender: str | None, topic: str) -> Attempt:
        attempt = self._attempt(sender, topic)
        link = Link(options, _ignore)
        try:
            await link.open()
            await link.publish(topic, attempt.mark)
        except LinkLost:
            pass  # turned away, or cut off: then nothing arrives, and that is what is looked at
        finally:
            link.close()
        return attempt


def _ignore(_messages: list[Inbound]) -> None:
    """Probes subscribe to nothing."""
