"""How MQTT sessions are kept in the gateway's file: together, again after a failure, and without what cannot be read."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from citysense.errors import StorageClosed, StorageError
from citysense_gateway.mqtt.packets import Will
from citysense_gateway.mqtt.session import StoredSession
from citysense_gateway.mqtt.stored_sessions import StoredSessions, prepare

WILL = Will(topic="t", payload=b"gone", qos=1, retain=False, delay=3)


class Log:
    """A file in memory whose writer fails as told."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        prepare(self.connection)
        self.failures: list[StorageError] = []
        self.jobs = 0

    async def tidy(self, job: Callable[[sqlite3.Connection], None]) -> None:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        self.jobs += 1
        job(self.connection)

    def select(self, statement: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement).fetchall()


def session(number: int, *, ended_ms: int | None = None) -> StoredSession:
    return StoredSession(
        device=f"gauge-{number}",
        client_id="c",
        expiry=60,
        subscriptions={"x": 1},
        sent={"b": 7, "a": 3},
        ended_ms=ended_ms,
        will=WILL,
        will_due_ms=None,
    )


async def test_what_is_put_is_loaded_and_what_is_dropped_is_not() -> None:
    log = Log()
    store = StoredSessions(log, random=lambda: 0.0)
    for number in range(3):
        store.put(session(number))
    store.put(session(1, ended_ms=5))
    store.drop("gauge-2", "c")
    await store.flush()
    assert log.jobs == 1
    loaded = list(StoredSessions(log, random=lambda: 0.0).load())
    assert loaded == [session(0), session(1, ended_ms=5)]
    assert list(loaded[0].sent) == ["b", "a"]


async def test_a_storm_is_written_in_shares() -> None:
    log = Log()
    store = StoredSessions(log, random=lambda: 0.0)
    for number in range(1_200):
        store.put(session(number))
    await store.flush()
    assert (log.jobs, len(list(store.load()))) == (3, 1_200)


async def test_a_failure_is_told_once_and_the_newest_word_is_written_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log = Log()
    log.failures = [StorageError("no space"), StorageError("no space")]
    store = StoredSessions(log, random=lambda: 0.0)
    store.put(session(1))
    store.put(session(2))
    async with asyncio.timeout(10):
        while log.failures:
            await asyncio.sleep(0)
            store.put(session(1, ended_ms=9))
        while not log.jobs:
            await asyncio.sleep(0.01)
    assert list(store.load()) == [session(1, ended_ms=9), session(2)]
    texts = [record.getMessage() for record in caplog.records]
    assert [text.rpartition(": ")[2] for text in texts] == [
        "no space; trying again until it works",
        "works again after 2 failed tries",
    ]


@pytest.mark.parametrize("error", [StorageError("no space"), StorageClosed("closed")])
async def test_a_stop_does_not_wait_for_a_disk_that_does_not_write(error: StorageError) -> None:
    log = Log()
    log.failures = [error] * 1_000
    store = StoredSessions(log, random=lambda: 1.0)
    store.put(session(1))
    async with asyncio.timeout(10):
        await store.flush()
    assert log.jobs == 0


async def test_what_cannot_be_read_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    store = StoredSessions(log, random=lambda: 0.0)
    store.put(session(1))
    await store.flush()
    log.connection.execute("INSERT INTO mqtt_session VALUES('gauge-9', 'c', x'c1')")
    assert list(store.load()) == [session(1)]
    await store.flush()
    assert log.select("SELECT device FROM mqtt_session") == [("gauge-1",)]
    assert "the session c of gauge-9 cannot be read and is forgotten" in caplog.text
