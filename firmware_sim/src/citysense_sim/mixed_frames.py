"""Gauges of which every tenth frame is damaged: whose good frames must not suffer, and whose bad ones must be kept as
they came.

Owns the damage (`damaged`, pure), the gauges' numbering and the book of what was sent bad. Good frames go into the
ledger like everybody's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiocoap

from citysense.clock import Clock
from citysense_sim.coap_link import CoapLink
from citysense_sim.fleet import CBOR_CONTENT, POLL_S, Doors, Member, Report
from citysense_sim.ledger import Key, Ledger, Sent
from citysense_sim.link import Fate, Link
from citysense_sim.mqtt_link import MqttLink

BAD_EVERY = 10


def damaged(payload: bytes, number: int) -> bytes:
    """A frame that nobody can read, made of one that everybody can: cut, begun with a byte that begins nothing (0xFF is no
    UTF-8, and in CBOR the end of what never began), or followed by too much. `number` chooses which.

    Cut at its last byte only, so that frames which differ in time or number are still different.
    """
    match number % 3:
        case 0:
            return payload[:-1]
        case 1:
            return b"\xff" + payload
        case _:
            return payload + payload[:1]


class _Gauge:
    """Numbering of one gauge and the names of its good frames that are under way."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.link: Link | None = None
        self.number = self.seq = self.last_time = 0
        self.good: dict[int, Key] = {}


class MixedFrames:
    """Connect with `start`, send a frame of everybody with `send`, end with `stop`."""

    def __init__(
        self, members: Sequence[Member], *, report: Report, doors: Doors, boot: int, clock: Clock, ledger: Ledger
    ) -> None:
        self._gauges = [_Gauge(member) for member in members]
        self._report, self._doors, self._boot = report, doors, boot
        self._clock, self._ledger = clock, ledger
        self._contexts: list[aiocoap.Context] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.bad: dict[str, list[bytes]] = {member.device: [] for member in members}
        """Damaged frames by device, in the order in which they were handed to the device's link."""
        self.good_refused = 0
        """Good frames that the gateway called bad, or that a device had to drop."""

    @property
    def unacked(self) -> int:
        """Frames without a final answer, good and bad."""
        return sum(gauge.link.unacked for gauge in self._gauges if gauge.link is not None)

    async def start(self) -> None:
        """Begin to connect."""
        for gauge in self._gauges:
            gauge.link = await self._link(gauge)
            self._tasks.append(asyncio.create_task(gauge.link.run(), name=f"link {gauge.member.device}"))

    async def _link(self, gauge: _Gauge) -> Link:
        def on_fate(number: int, fate: Fate) -> None:
            key = gauge.good.pop(number, None)
            if key is not None and fate is Fate.ACKED:
                self._ledger.acked(key)
            elif key is not None:
                self.good_refused += 1

        member, doors, message = gauge.member, self._doors, self._report.message
        if member.transport == "coap":
            context = await aiocoap.Context.create_client_context(transports=["udp6"])
            self._contexts.append(context)
            uri = f"coap://{doors.host}:{doors.coap_port}/v1/{member.device}/{message}"
            return CoapLink(context, uri=uri, content=CBOR_CONTENT, on_fate=on_fate)
        return MqttLink(
            device=member.device,
            secret=member.secret,
            topic=f"cs/v1/{member.device}/up/{message}",
            host=doors.host,
            port=doors.mqtt_port,
            on_fate=on_fate,
        )

    async def send(self, value: float) -> None:
        """One frame of every gauge; the gauges are at different places of their ten. Synced to the ledger before."""
        frames = [self._frame(index, gauge, value) for index, gauge in enumerate(self._gauges)]
        await self._ledger.sync()
        for gauge, payload in zip(self._gauges, frames, strict=True):
            assert gauge.link is not None
            gauge.link.push(gauge.number, payload)
            gauge.number += 1

    def _frame(self, index: int, gauge: _Gauge, value: float) -> bytes:
        device = gauge.member.device
        gauge.last_time = max(self._clock.now_ms(), gauge.last_time + 1)
        report = self._report
        payload = report.profile.encode(
            report.message,
            {report.metric: value},
            content=CBOR_CONTENT if gauge.member.transport == "coap" else None,
            time=gauge.last_time,
            boot=self._boot,
            seq=gauge.seq,
        )
        if (gauge.number + index) % BAD_EVERY == 0:
            bad = damaged(payload, gauge.number // BAD_EVERY)
            self.bad[device].append(bad)
            return bad
        row = Sent(device, self._boot, gauge.seq, gauge.last_time, value)
        self._ledger.sent(row)
        gauge.good[gauge.number] = row.key
        gauge.seq += 1
        return payload

    async def drain(self, within: float) -> bool:
        """Wait until every frame has its answer; False if that took longer than `within` seconds."""
        deadline = self._clock.monotonic() + within
        while self.unacked:
            if self._clock.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def stop(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for context in self._contexts:
            await context.shutdown()
