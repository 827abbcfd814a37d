"""One request of the uplink: records of a lane to the platform, and what it refuses for ever into the dead letters.

Owns the size of requests and the keeping of refused records. Decides nothing about which records are sent, nor when.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from citysense import wire
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.record_format import Record
from citysense_gateway.counters import FrameCounters
from citysense_gateway.dead_letters import MAX_RAW, Seal, printable, seal_owner
from citysense_gateway.devices import Devices
from citysense_gateway.platform_client import BatchRefused, PlatformClient, TooSlow, Unreachable
from citysense_gateway.spool import Aside, Spool
from citysense_profiles.reading import ReadingClass

log = logging.getLogger(__name__)

READER = "uplink"
MAX_RECORDS = 500
MAX_BYTES = 1 << 20
REFUSED = "platform_refused"
_TOO_LARGE = 413
_FAST_GROWTH, _SLOW_GROWTH = 2.0, 1.1
"""How requests grow again: fast after one record was the reason, slowly after the link was, or every other one would fail."""


class HandOver:
    """The requests of one lane."""

    def __init__(
        self,
        cls: ReadingClass,
        *,
        spool: Spool,
        client: PlatformClient,
        devices: Devices,
        seal: Seal,
        counters: FrameCounters,
        clock: Clock,
        crash: CrashPoints,
    ) -> None:
        self._cls = cls
        self._spool = spool
        self._client = client
        self._devices = devices
        self._seal = seal
        self._counters = counters
        self._clock = clock
        self._crash = crash
        self._most = MAX_RECORDS
        self._growth = _FAST_GROWTH

    @property
    def urgent(self) -> bool:
        """Whether writes for this lane may wait for company: the next request waits for them, and an alarm must not."""
        return self._cls is ReadingClass.SAFETY

    def cut(self, records: Sequence[Record]) -> list[Record]:
        """The first of `records` that make one request: at least one, however long it is."""
        batch: list[Record] = []
        size = 0
        for record in records[: self._most]:
            size += len(record.body)
            if batch and size > MAX_BYTES:
                break
            batch.append(record)
        return batch

    async def send(self, batch: Sequence[Record], *, settled: int, after: int) -> wire.Answer | None:
        """The platform's answer; None when the batch as a whole was refused and will be sent in smaller ones.

        `settled` and `after` as in `wire.Batch`. Raises Unreachable.
        """
        self._crash.at("uplink.before_post")
        body = wire.Batch(
            spool=self._spool.log.spool_id,
            items=[(record.offset, record.body) for record in batch],
            settled=settled,
            after=after,
        )
        try:
            answer = await self._client.submit(self._cls, body)
        except TooSlow:
            # The same records in smaller requests get through a slow link; the platform knows what it has already.
            self._most, self._growth = max(1, len(batch) // 2), _SLOW_GROWTH
            raise
        except BatchRefused as e:
            if len(batch) > 1:
                # Halved until the culprit stands alone: the others are not concerned.
                self._most = max(1, len(batch) // 2)
                return None
            if e.status != _TOO_LARGE:
                # No word on the record itself: another version of the platform, or a proxy before it, refuses whatever
                # comes. Were it final, every reading of the outage would end in the dead letters.
                raise Unreachable(f"the platform takes no request ({e})") from e
            answer = wire.Answer(accepted=[], rejected=[(batch[0].offset, str(e))])
        self._crash.at("uplink.after_post")
        self._most = min(MAX_RECORDS, 1 + int(self._most * self._growth))
        if self._most == MAX_RECORDS:
            self._growth = _FAST_GROWTH
        return answer

    async def give_up(self, batch: Sequence[Record], refused: Mapping[int, str]) -> None:
        """Keep the records that the platform will never take: of readings a dead letter, all else as it is. With the same
        commit they leave their lane, so that none is given up twice."""
        gone = [record for record in batch if record.offset in refused]
        letters: list[wire.DeadLetter] = []
        aside: list[Aside] = []
        for record in gone:
            reason = refused[record.offset]
            body = _decoded(record.body)
            if body is None or isinstance(body, wire.Readings):
                letters.append(self._refused_letter(record.body, body, reason))
            else:
                aside.append(Aside(record=record, reason=printable(reason)))
        if not gone:
            return
        await self._spool.give_up(gone, letters, aside, urgent=self.urgent)
        self._counters.add("uplink.refused", len(letters))
        self._counters.add("uplink.set_aside", len(aside))
        if aside:
            log.error(
                "the platform refused %d dead letters or tombstones (%s); they stay in the spool's table refused_record",
                len(aside),
                aside[0].reason,
            )

    def _refused_letter(self, body: bytes, readings: wire.Readings | None, reason: str) -> wire.DeadLetter:
        device = self._devices.get(readings.device) if readings is not None else None
        owner = seal_owner(device)
        kept = body[:MAX_RAW]
        return wire.DeadLetter(
            received=self._clock.now_ms() if readings is None else readings.received,
            transport=READER,
            source="platform",
            channel=self._cls.value,
            device="" if readings is None else readings.device,
            profile="" if readings is None else readings.profile,
            reason=REFUSED,
            detail=printable(reason),
            size=len(body),
            raw=self._seal(owner, kept) if owner else kept,
            seal=owner,
        )


def _decoded(body: bytes) -> wire.Body | None:
    try:
        return wire.decode_body(body)
    except ValueError:
        return None
