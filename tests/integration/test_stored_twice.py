"""The oracle that looks for readings which came through twice can go red, and is not fooled by what looks alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from citysense import wire
from citysense.cli.stored_twice import StoredTwice
from citysense.clock import SystemClock
from citysense.durable_log import Entry
from citysense.errors import StorageError
from citysense_platform.ingest.log import platform_log
from citysense_profiles.reading import ReadingClass
from citysense_sim.ledger import Key


def entry(seq: int, *, device: str = "gauge-1", boot: int = 1, cls: ReadingClass = ReadingClass.SAFETY) -> Entry:
    body = wire.Readings(
        device=device,
        profile="generic/water-gauge",
        kind="waterlogging_gauge",
        message="report",
        received=1,
        identity="password",
        samples=[wire.SampleBody(time=seq, values={"water.level": 1.0})],
        boot=boot,
        seq=seq,
    )
    return Entry(cls=cls, body=wire.encode(body), device=device, time=seq)


async def test_what_stands_twice_is_found_however_late(tmp_path: Path) -> None:
    log = platform_log(tmp_path / "log.db", clock=SystemClock())
    log.open()
    twice = StoredTwice(tmp_path / "log.db")
    try:
        alike = [entry(2, device="gauge-2"), entry(2, boot=2), entry(2, cls=ReadingClass.BULK), entry(-1, boot=-1)]
        await log.append_entries([entry(0), entry(3), entry(2), *alike, entry(-1, boot=-1)], urgent=True)
        twice.look()
        assert (twice.twice, twice.records) == ([], 6)
        await log.append_entries([entry(1), entry(3)], urgent=True)
        twice.look()
        assert twice.twice == [Key("gauge-1", 1, 3)]
        await log.append_entries([entry(4), entry(0), entry(4, device="gauge-2")], urgent=True)
        twice.look()
        assert twice.twice == [Key("gauge-1", 1, 3), Key("gauge-1", 1, 0)]
        assert twice.records == 11
    finally:
        log.close()


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"log\.db cannot be read"):
        StoredTwice(tmp_path / "log.db").look()
