"""MQTT sessions in the gateway's own file, so that they outlive its process.

Owns the table `mqtt_session`. Writes are collected and go out together on the file's one writer; nobody waits for them,
because a device whose session is lost is told so and begins anew.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from citysense.errors import StorageClosed, StorageError
from citysense.log_schema import Owner, Step
from citysense_gateway.mqtt.session import StoredSession
from citysense_gateway.outage import Outage

_log = logging.getLogger(__name__)
_CHUNK = 500
"""Rows in one go: about 5 ms, which an urgent commit may have to wait."""
_LOOK_AGAIN_S = 0.1
"""While waiting for a last write, which gives up only once it has failed."""
_decoder = msgspec.msgpack.Decoder(StoredSession)
_Key = tuple[str, str]


class Log(Protocol):
    """What is needed of the durable log."""

    async def tidy(self, job: Callable[[sqlite3.Connection], None]) -> None:
        """Run `job` on the writer; returns after the commit."""
        ...

    def select(self, statement: str) -> list[tuple[Any, ...]]:
        """Read."""
        ...


def prepare(connection: sqlite3.Connection) -> None:
    """Make the table where it is missing."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS mqtt_session(device TEXT, client TEXT, state BLOB, PRIMARY KEY(device, client))"
        " WITHOUT ROWID"
    )


OWNER = Owner(name="mqtt", steps=(Step(number=1, name="sessions", apply=prepare),))


class StoredSessions:
    """See `session.SessionStore`. `log` has `OWNER` among its owners and is open before `load`."""

    def __init__(self, log: Log, *, random: Callable[[], float]) -> None:
        self._log = log
        self._changes: dict[_Key, StoredSession | None] = {}
        self._writing: asyncio.Task[None] | None = None
        self._trouble = Outage("MQTT door: keeping sessions", random)

    def load(self) -> Iterable[StoredSession]:
        """All that are kept; what cannot be read is forgotten. Raises StorageError."""
        for device, client, state in self._log.select("SELECT device, client, state FROM mqtt_session"):
            try:
                yield _decoder.decode(state)
            except msgspec.MsgspecError as error:
                _log.warning("the session %s of %s cannot be read and is forgotten: %s", client, device, error)
                self.drop(device, client)

    def put(self, session: StoredSession) -> None:
        """Keep it soon."""
        self._change((session.device, session.client_id), session)

    def drop(self, device: str, client_id: str) -> None:
        """Forget it soon."""
        self._change((device, client_id), None)

    async def flush(self) -> None:
        """Return when everything up to now is kept, or cannot be."""
        while self._writing is not None and not self._writing.done():
            if self._trouble.failures:
                self._writing.cancel()
            await asyncio.wait({self._writing}, timeout=_LOOK_AGAIN_S)

    def _change(self, key: _Key, session: StoredSession | None) -> None:
        # In the order of the last change, so that the newest word on a session is the one that is written.
        self._changes.pop(key, None)
        self._changes[key] = session
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._changes:
            # One turn of the loop: what a storm of connections changes goes out together.
            await asyncio.sleep(0)
            batch = dict(list(self._changes.items())[:_CHUNK])
            for key in batch:
                del self._changes[key]
            try:
                await self._log.tidy(_job(batch))
            except StorageClosed:
                return
            except StorageError as error:
                self._changes = batch | self._changes
                await asyncio.sleep(self._trouble.failed(error))
            else:
                self._trouble.worked()


def _job(batch: dict[_Key, StoredSession | None]) -> Callable[[sqlite3.Connection], None]:
    kept = [(*key, msgspec.msgpack.encode(session)) for key, session in batch.items() if session is not None]
    gone = [key for key, session in batch.items() if session is None]

    def job(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT OR REPLACE INTO mqtt_session VALUES(?, ?, ?)", kept)
        connection.executemany("DELETE FROM mqtt_session WHERE device=? AND client=?", gone)

    return job
