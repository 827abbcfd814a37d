"""Follows a running platform for the live view: one small request a second, and what it says as a value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from citysense.errors import UpstreamError
from citysense_gateway.folder_lock import NAME, Holder

_STANDINGS = {"ok": "reading", "late": "away"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Figures of one moment. Counts are since the processes' start, cases and alerts since the data folder's."""

    gateway_seen: bool
    frames: dict[str, int]
    stored: int
    duplicate: int
    rejected: dict[str, int]
    unavailable: int
    short_of_space: list[str]
    waiting: int
    alerts: dict[str, int]
    cases: int
    frame_to_case: dict[str, float]
    newest_case: dict[str, str] | None
    ready: bool
    unready: list[str]


class StatusFeed:
    """Asks the API for its status."""

    def __init__(self, session: aiohttp.ClientSession, api: str, token: str) -> None:
        self._session = session
        self._api = api
        self._headers = {"Authorization": f"Bearer {token}"}

    async def read(self) -> Status:
        """The status now. Raises UpstreamError while the platform does not answer."""
        try:
            async with self._session.get(f"{self._api}/api/v1/status", headers=self._headers) as answer:
                if answer.status != 200:
                    raise UpstreamError(f"{self._api} answered {answer.status} to the question for its status")
                body: dict[str, Any] = await answer.json()
        except (aiohttp.ClientError, TimeoutError) as e:
            raise UpstreamError(f"{self._api} does not answer ({e or type(e).__name__})") from e
        return Status(**{name: body[name] for name in Status.__dataclass_fields__})


async def broker_standing(session: aiohttp.ClientSession, data: Path) -> str:
    """How the gateway of `data` stands with the city's broker: reading, away or refused; where to look if it does not say."""
    log = data / "logs" / "gateway.log"
    try:
        # Without taking the lock to see whether it is held: the gateway may be starting, and would find it taken.
        holder = msgspec.json.decode((data / NAME).read_bytes(), type=Holder)
        async with session.get(f"http://127.0.0.1:{holder.status_port}/readyz") as answer:
            checks: list[dict[str, str]] = (await answer.json())["checks"]
    except (OSError, msgspec.DecodeError, aiohttp.ClientError, TimeoutError, ValueError, KeyError):
        return f"see {log}"
    states = [check["state"] for check in checks if check["name"] == "broker"]
    return _STANDINGS.get(states[0], f"refused: see {log}") if states else f"see {log}"
