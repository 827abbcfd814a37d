"""Registers devices through the platform's HTTP API, the way an installer would.

Owns the three questions (is it there, make it, has its address moved) and their errors. It waits out a platform that
is not up yet; it never keeps a secret itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from citysense.errors import Refused, UpstreamError

RETRY_S = 0.5
PARALLEL = 16
"""Registrations at once: the registry has one writer, so more would only stand in its queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What the API is told of one device. `password` asks for a credential."""

    id: str
    profile: str
    site: dict[str, Any]
    settings: dict[str, float | str] = field(default_factory=dict)
    endpoint: str | None = None
    serial: str | None = None
    password: bool = False

    def body(self) -> dict[str, Any]:
        """The request's JSON."""
        body: dict[str, Any] = {
            "id": self.id,
            "profile": self.profile,
            "site": self.site,
            "endpoint": self.endpoint,
            "serial": self.serial,
            "settings": self.settings,
        }
        if self.password:
            body["credential"] = {"kind": "password"}
        return body


class Registrar:
    """Talks to /api/v1/devices with an administrator's token."""

    def __init__(self, session: aiohttp.ClientSession, api: str, token: str) -> None:
        self._session = session
        self._url = f"{api.rstrip('/')}/api/v1/devices"
        self._headers = {"Authorization": f"Bearer {token}"}

    async def create(self, device: Registration) -> str | None:
        """Register a new device; its password, if it asked for one. Raises DeviceExists, Refused."""
        status, answer = await self._ask("POST", self._url, device.body())
        if status == 409 and answer.get("code") == "duplicate_id":
            raise DeviceExists(f"device {device.id} is registered already")
        if status != 201:
            raise Refused(f"the platform refuses to register {device.id}: {_words(status, answer)}")
        secret = (answer.get("credential") or {}).get("secret")
        if device.password and not isinstance(secret, str):
            raise Refused(f"the platform registered {device.id} but gave no password")
        return secret

    async def create_all(self, devices: Sequence[Registration]) -> dict[str, str | None]:
        """Register many at once; passwords by device. Raises as `create`."""
        turns = asyncio.Semaphore(PARALLEL)

        async def one(device: Registration) -> tuple[str, str | None]:
            async with turns:
                return device.id, await self.create(device)

        tasks = [asyncio.create_task(one(device)) for device in devices]
        try:
            return dict(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()  # after a refusal the rest need not be asked

    async def find(self, device: str) -> dict[str, Any] | None:
        """What the platform knows of the device, None if it is not registered. Raises Refused."""
        status, answer = await self._ask("GET", f"{self._url}/{device}", None)
        if status == 404:
            return None
        if status != 200:
            raise Refused(f"the platform does not show {device}: {_words(status, answer)}")
        return answer

    async def in_force(self, device: str) -> bool:
        """True once the device's gateway acts on what was registered. Raises Refused."""
        known = await self.find(device)
        return known is not None and bool(known.get("in_force"))

    async def move(self, device: str, endpoint: str) -> None:
        """The device listens elsewhere now. Raises Refused."""
        status, answer = await self._ask("PATCH", f"{self._url}/{device}", {"endpoint": endpoint})
        if status not in (200, 204):
            raise Refused(f"the platform refuses the new endpoint of {device}: {_words(status, answer)}")

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        """Ask until there is an answer that means something: a platform that starts or restarts is waited for."""
        while True:
            try:
                return await self._ask_once(method, url, body)
            except UpstreamError:
                await asyncio.sleep(RETRY_S)

    async def _ask_once(self, method: str, url: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        try:
            async with self._session.request(method, url, json=body, headers=self._headers) as answer:
                if answer.status >= 500 or answer.status == 429:
                    raise UpstreamError(f"{url} answered {answer.status}")
                content = await answer.json(content_type=None)
                return answer.status, content if isinstance(content, dict) else {}
        except (aiohttp.ClientError, TimeoutError, ValueError) as e:
            raise UpstreamError(f"{url} does not answer ({e or type(e).__name__})") from e


class DeviceExists(Refused):
    """The id is taken."""


def _words(status: int, answer: dict[str, Any]) -> str:
    return f"{status} {answer.get('code', '')} {answer.get('detail') or answer.get('title') or answer}".strip()
