"""What is kept of a point that InfluxDB will never take."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense_platform.events.event_store import EventStore
from citysense_platform.parts import _telemetry
from citysense_platform.store.points import Point
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import load_vocabulary

NOW = 1_795_190_934_423


@dataclass
class Settings:
    """The part of the options that choose a telemetry store."""

    data: Path
    influx: str | None
    influx_token: str = ""
    rules: Path | None = None
    profiles: Path | None = None
    speed: float = 1.0
    responsible_unit: str = ""


async def refusing(request: web.Request) -> web.Response:
    """Refuses every line and quotes it."""
    said = json.dumps({"message": "unable to parse " + (await request.read()).hex() + " lock.event=opened"})
    return web.Response(status=400, text=said, headers={"X-Influxdb-Version": "v2.7"})


async def pong(_: web.Request) -> web.Response:
    return web.Response(status=204, headers={"X-Influxdb-Version": "v2.7"})


def point(device: str, **values: str | float) -> Point:
    named = {metric.replace("__", "."): value for metric, value in values.items()}
    return Point(device=device, site="1", kind="door_lock", time=NOW, received=NOW, values=named)


async def test_a_refused_point_is_kept_whole_unless_it_is_personal(tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_get("/ping", pong)
    app.router.add_post("/api/v2/write", refusing)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}?org=city&bucket=long"
    events = EventStore(tmp_path / "events", clock=SetClock(NOW))
    await events.open(log_id="log-1")
    options = Settings(data=tmp_path, influx=url)
    store = _telemetry(options, events, load_vocabulary(), SetClock(NOW), CrashPoints())
    await store.open(log_id="log-1")
    try:
        points = [point("gauge-1", water__level=1.0), point("lock-1", battery__voltage=3.0, lock__event="opened")]
        await store.write(points, lane_cursors=dict.fromkeys(ReadingClass, 1))
        kept = {one.letter.device: one.letter for one in (await events.dead_letters(10))[0]}
    finally:
        await store.close()
        await events.close()
        await runner.cleanup()
    plain, personal = kept["gauge-1"], kept["lock-1"]
    assert b"water.level=1.0" in plain.raw
    assert "unable to parse" in plain.detail
    assert (personal.reason, personal.raw) == ("store_refused", b"")
    assert personal.size > 0
    assert "opened" not in str(personal)
