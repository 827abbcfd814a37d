"""The cache of the roster: it never brings back a right that is gone, and says so when that costs something."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from citysense import wire
from citysense.keys import Sealer
from citysense_gateway.devices import Devices
from citysense_gateway.roster import RosterKeeper, takes_rights
from citysense_profiles.catalogue import load_catalogue

CATALOGUE = load_catalogue()
PROFILE = "generic/water-gauge"
ONE = wire.RosterDevice(id="one", profile=PROFILE, salt=b"s", digest=b"d")
TWO = wire.RosterDevice(id="two", profile=PROFILE, psk=b"key")


def roster(version: int, *devices: wire.RosterDevice) -> wire.Roster:
    return wire.Roster(version=version, devices=list(devices))


class Platform:
    """Gives one roster after another; None ends a poll."""

    def __init__(self) -> None:
        self.given: asyncio.Queue[wire.Roster | None] = asyncio.Queue()
        self.polls = 0
        self.polled = asyncio.Condition()

    async def roster(self, version: int) -> wire.Roster | None:
        async with self.polled:
            self.polls += 1
            self.polled.notify_all()
        return await self.given.get()

    async def give(self, given: wire.Roster | None) -> None:
        """Returns once all has been done with it, which the next poll tells."""
        before = self.polls
        await self.given.put(given)
        async with asyncio.timeout(20):
            async with self.polled:
                await self.polled.wait_for(lambda: self.polls > before)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "roster.sealed"
        self.platform = Platform()
        self.devices = Devices(CATALOGUE)

    def keeper(self) -> RosterKeeper:
        client: Any = self.platform
        return RosterKeeper(
            self.path,
            devices=self.devices,
            client=client,
            sealer=Sealer(bytes(32)),
            random=lambda: 0.0,
            on_change=lambda changes: None,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RosterKeeper]:
        keeper = self.keeper()
        keeper.load()
        task = asyncio.create_task(keeper.run())
        async with asyncio.timeout(20):
            while not self.platform.polls:
                await asyncio.sleep(0)
        try:
            yield keeper
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def known_after_a_restart(self) -> set[str]:
        self.devices = Devices(CATALOGUE)
        self.keeper().load()
        return {device.id for device in self.devices}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_revoked_device_does_not_come_back_with_an_old_cache(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench.running() as keeper:
        await bench.platform.give(roster(1, ONE, TWO))
        with monkeypatch.context() as full:
            full.setattr(Path, "replace", no_space)
            await bench.platform.give(roster(2, ONE))
            assert keeper.current.is_set()
            assert bench.known_after_a_restart() == set()
            await bench.platform.give(roster(3, ONE))
        assert "roster.sealed is deleted" in caplog.text
        assert caplog.text.count("No space left") == 1
        # Written as soon as that can be, without another change of the roster.
        await bench.platform.give(None)
    assert bench.known_after_a_restart() == {"one"}
    assert "works again after 2 failed tries" in caplog.text


async def test_an_old_cache_that_lets_in_nobody_too_many_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench.running():
        await bench.platform.give(roster(1, ONE))
        monkeypatch.setattr(Path, "replace", no_space)
        await bench.platform.give(roster(2, ONE, TWO))
        assert bench.known_after_a_restart() == {"one"}


async def test_a_cache_of_the_last_run_is_deleted_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench.running():
        await bench.platform.give(roster(1, ONE, TWO))
    bench.platform.polls = 0
    async with bench.running():
        monkeypatch.setattr(Path, "replace", no_space)
        await bench.platform.give(roster(2, TWO))
    assert bench.known_after_a_restart() == set()


async def test_a_cache_that_cannot_be_deleted_either_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench.running():
        await bench.platform.give(roster(1, ONE, TWO))
        monkeypatch.setattr(Path, "replace", no_space)
        monkeypatch.setattr(Path, "unlink", no_space)
        await bench.platform.give(roster(2, ONE))
    assert "delete it: a start without the platform would serve devices that are revoked" in caplog.text


async def test_the_folder_is_synced_after_the_new_cache_is_in_its_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    replace, sync = Path.replace, os.fsync

    def replaced(path: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(path, target)

    def synced(descriptor: int) -> None:
        steps.append("sync")
        sync(descriptor)

    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(os, "fsync", synced)
    async with bench.running():
        await bench.platform.give(roster(1, ONE))
    assert steps == ["sync", "replace", "sync"]


@pytest.mark.parametrize(
    ("change", "takes"),
    [
        (lambda one: [one, TWO], False),
        (lambda one: [], True),
        (lambda one: [msgspec.structs.replace(one, digest=b"new")], True),
        (lambda one: [msgspec.structs.replace(one, concentrator="hub")], True),
        (lambda one: [msgspec.structs.replace(one, profile="milesight/em400", settings={"a": 1.0})], False),
    ],
    ids=["added", "revoked", "rekeyed", "another concentrator", "another profile"],
)
def test_which_changes_take_rights(change: Callable[[wire.RosterDevice], list[wire.RosterDevice]], takes: bool) -> None:
    assert takes_rights(roster(1, ONE), roster(2, *change(ONE))) == takes
