"""What a bench or a soak asks the platform over HTTP, like any client from outside: lists, series, registration of a fleet.

Owns paging and the mapping of cases to devices. It sees nothing that a user could not see.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from citysense.clock import parse_rfc3339, rfc3339
from citysense.errors import UpstreamError
from citysense_sim.checker import CaseSeen, Stored
from citysense_sim.fleet import Member
from citysense_sim.registration import Registrar, Registration

GAUGE_PROFILE = "generic/water-gauge"
GAUGE_MESSAGE = "report"
GAUGE_METRIC = "water.level"
PAGE = 1_000
RAISE_CM = 15.0
CLEAR_CM = 12.0
TOP_CM = 50.0

NO_HOLD_RULES = f"""\
# Every level comes and goes with the first reading, so that what is measured is the product and not a rule's patience.
schema: 1
rules:
  water-level:
    kind: ladder
    metric: {GAUGE_METRIC}
    kinds: [waterlogging_gauge]
    label: {{zh: 积水, en: Waterlogging}}
    title: {{zh: "{{site}} {{colour}} {{value}}", en: "{{site}} {{colour}} {{value}}"}}
    levels:
      - {{colour: blue, raise: {RAISE_CM}, clear: {CLEAR_CM}}}
      - {{colour: yellow, raise: 25, clear: 21}}
      - {{colour: orange, raise: 40, clear: 35}}
      - {{colour: red, raise: {TOP_CM}, clear: 45}}
    raise_hold: 0s
    clear_hold: 0s
"""


class StackApi:
    """An administrator's view of a running platform."""

    def __init__(self, session: aiohttp.ClientSession, api: str, token: str) -> None:
        self._session = session
        self._api = api
        self._token = token
        self._headers = {"Authorization": f"Bearer {token}"}

    async def register(self, count: int, transport_of: dict[int, str]) -> list[Member]:
        """Register gauges `load-0000`, ...; `transport_of` gives those that do not speak MQTT. Raises Refused."""
        wanted = [
            Registration(
                id=f"load-{index:04d}",
                profile=GAUGE_PROFILE,
                site={
                    "name": f"Load {index}",
                    "lon": 113.40 + index % 40 * 0.002,
                    "lat": 30.33 + index // 40 * 0.002,
                    "datum": "wgs84",
                },
                password=transport_of.get(index, "mqtt") == "mqtt",
            )
            for index in range(count)
        ]
        secrets = await Registrar(self._session, self._api, self._token).create_all(wanted)
        return [
            Member(device=device.id, transport=transport_of.get(index, "mqtt"), secret=secrets[device.id] or "")
            for index, device in enumerate(wanted)
        ]

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        """One GET. Raises UpstreamError for anything but 200."""
        try:
            async with self._session.get(f"{self._api}{path}", params=query, headers=self._headers) as answer:
                body = await answer.json(content_type=None)
                if answer.status != 200 or not isinstance(body, dict):
                    raise UpstreamError(f"GET {path} answered {answer.status}: {body}")
                return body
        except (aiohttp.ClientError, TimeoutError, ValueError) as e:
            raise UpstreamError(f"GET {path} was not answered ({e or type(e).__name__})") from e

    async def items(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """All items of a list, page by page. Raises UpstreamError."""
        query: dict[str, Any] = {"limit": PAGE}
        while True:
            page = await self.get(path, **query)
            for item in page["items"]:
                yield item
            if page["next"] is None:
                return
            query["cursor"] = page["next"]

    async def cases(self) -> list[CaseSeen]:
        """Every case that came from an alert, once for each time it stands there. Raises UpstreamError."""
        alerts = {alert["id"]: alert async for alert in self.items("/api/v1/alerts")}
        cases = [case async for case in self.items("/dispatch/v1/cases") if case["alert"] is not None]
        strange = [case["id"] for case in cases if case["alert"] not in alerts]
        if strange:
            raise UpstreamError(f"case {strange[0]} names an alert that the platform does not show")
        return [
            CaseSeen(device=alerts[case["alert"]]["device"], episode=alerts[case["alert"]]["episode"]) for case in cases
        ]

    async def readings(self, device: str, start_ms: int, end_ms: int) -> list[Stored]:
        """The device's stored levels from start to before end, as they stand in the store. Raises UpstreamError."""
        found: list[Stored] = []
        query: dict[str, Any] = {"metric": GAUGE_METRIC, "start": rfc3339(start_ms), "end": rfc3339(end_ms)}
        while True:
            body = await self.get(f"/api/v1/devices/{device}/series", **query)
            found += [Stored(device, parse_rfc3339(time), value) for time, value, _quality in body["points"]]
            if body["next"] is None:
                return found
            query["cursor"] = body["next"]
