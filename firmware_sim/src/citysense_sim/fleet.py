"""Many native water gauges in one process, for load: real connections, real bytes, one frame when it is told to.

Owns the gauges' numbering, their links and the count of what is open. When to send what is the caller's plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiocoap

from citysense.clock import Clock
from citysense.errors import UpstreamError
from citysense_profiles.profile import Profile
from citysense_sim.coap_link import CoapLink
from citysense_sim.ledger import Key, Ledger, Sent
from citysense_sim.link import Fate, Link
from citysense_sim.mqtt_link import MqttLink

CBOR_CONTENT = 60
CONNECTS_AT_ONCE = 50
"""A listener's queue holds a hundred or so; more at once would be tried again a second later by the kernel."""
POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One gauge of the fleet. `transport` is mqtt (needs a secret) or coap."""

    device: str
    transport: str
    secret: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where the gateway listens."""

    host: str
    mqtt_port: int
    coap_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What every frame of the fleet is: the profile's message, carrying one number."""

    profile: Profile
    message: str
    metric: str


class _Gauge:
    """Numbering of one member and what waits for its acknowledgement."""

    __slots__ = ("last_time", "link", "member", "next_seq")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.next_seq = 0
        self.last_time = 0
        self.link: Link | None = None


class Fleet:
    """Connect with `start`, send with `make` and `push`, end with `stop`. All gauges are in the same `boot`."""

    def __init__(
        self,
        members: Sequence[Member],
        *,
        report: Report,
        doors: Doors,
        boot: int,
        clock: Clock,
        ledger: Ledger | None = None,
    ) -> None:
        self._gauges = [_Gauge(member) for member in members]
        self._report = report
        self._doors, self._boot, self._clock = doors, boot, clock
        self._ledger = ledger
        self._contexts: list[aiocoap.Context] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.unacked = 0
        """Frames pushed whose fate is open."""
        self.refused = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._gauges)

    async def start(self, within: float) -> None:
        """Connect everybody; returns when the gateway has let all of them in. Raises UpstreamError after `within` seconds."""
        deadline = self._clock.monotonic() + within
        for first in range(0, len(self._gauges), CONNECTS_AT_ONCE):
            group = self._gauges[first : first + CONNECTS_AT_ONCE]
            for gauge in group:
                gauge.link = await self._link(gauge.member)
                self._tasks.append(asyncio.create_task(gauge.link.run(), name=f"link {gauge.member.device}"))
            while not all(gauge.link is not None and gauge.link.ready for gauge in group):
                if self._clock.monotonic() > deadline:
                    waiting = [
                        gauge.member.device for gauge in self._gauges if gauge.link is None or not gauge.link.ready
                    ]
                    raise UpstreamError(
                        f"{len(waiting)} of {len(self)} gauges were not let in within {within:.0f} s, first {waiting[0]}"
                    )
                await asyncio.sleep(POLL_S)

    async def _link(self, member: Member) -> Link:
        def on_fate(number: int, fate: Fate) -> None:
            self._close(Key(member.device, self._boot, number), fate)

        doors = self._doors
        if member.transport == "coap":
            # A socket each, as in the field; see CoapLink.
            context = await aiocoap.Context.create_client_context(transports=["udp6"])
            self._contexts.append(context)
            uri = f"coap://{doors.host}:{doors.coap_port}/v1/{member.device}/{self._report.message}"
            return CoapLink(context, uri=uri, content=CBOR_CONTENT, on_fate=on_fate)
        topic = f"cs/v1/{member.device}/up/{self._report.message}"
        return MqttLink(
            device=member.device,
            secret=member.secret,
            topic=topic,
            host=doors.host,
            port=doors.mqtt_port,
            on_fate=on_fate,
        )

    def _close(self, key: Key, fate: Fate) -> None:
        self.unacked -= 1
        if fate is Fate.ACKED:
            if self._ledger is not None:
                self._ledger.acked(key)
        elif fate is Fate.REFUSED:
            self.refused += 1
        else:
            self.dropped += 1

    def make(self, index: int, value: float) -> Sent:
        """A new reading of one gauge, now. Its event time is later than that of the reading before."""
        gauge = self._gauges[index]
        gauge.last_time = max(self._clock.now_ms(), gauge.last_time + 1)
        row = Sent(gauge.member.device, self._boot, gauge.next_seq, gauge.last_time, value)
        gauge.next_seq += 1
        if self._ledger is not None:
            self._ledger.sent(row)
        return row

    def push(self, index: int, row: Sent) -> None:
        """Send what `make` gave. Raises EncodeError where the profile cannot say the value."""
        gauge = self._gauges[index]
        assert gauge.link is not None
        content = CBOR_CONTENT if gauge.member.transport == "coap" else None
        report = self._report
        payload = report.profile.encode(
            report.message, {report.metric: row.value}, content=content, time=row.time, boot=row.boot, seq=row.seq
        )
        self.unacked += 1
        gauge.link.push(row.seq, payload)

    async def drain(self, within: float) -> bool:
        """Wait until every frame's fate is known; False if that took longer than `within` seconds."""
        deadline = self._clock.monotonic() + within
        while self.unacked:
            if self._clock.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def stop(self) -> None:
        """Close all connections. Raises what ended a link before."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for context in self._contexts:
            await context.shutdown()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
