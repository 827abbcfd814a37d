"""GET /api/v1/devices/{id}/latest and /series.

Owns the bodies and the refusals of reading telemetry; which store answers is nobody's business here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from citysense.clock import parse_rfc3339, rfc3339
from citysense_platform.api.openapi import problem_responses
from citysense_platform.api.paging import Cursor
from citysense_platform.api.problems import RETRY_AFTER_S, Problem
from citysense_platform.store.points import END_OF_TIME, Value
from citysense_platform.store.port import StoreUnavailable, TelemetryStore
from citysense_profiles.reading import Quality
from citysense_profiles.vocabulary import Metric, ValueType, Vocabulary

log = logging.getLogger(__name__)

Known = Callable[[str], Awaitable[bool]]
"""Answers whether a device of that id is registered, or ever was."""

NOT_FOUND = ("not_found", "there is no device 'gauge-001'")
"""Code and an example of the detail, for the document."""
MOST_POINTS = 100_000
"""Points of one answer: about 5 MB of JSON; more comes with `next`."""


class LatestValueBody(BaseModel):
    """The newest value of a metric. `time` is when it was measured, `received` when the gateway had it."""

    value: Value
    unit: str
    time: str
    received: str
    quality: Quality


class LatestBody(BaseModel):
    """The newest value of every metric of a device, by metric; empty for a device that was never heard."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "device": "gauge-001",
                    "metrics": {
                        "water.level": {
                            "value": 12.3,
                            "unit": "cm",
                            "time": "2026-11-20T16:08:54.423Z",
                            "received": "2026-11-20T16:08:54.500Z",
                            "quality": "good",
                        }
                    },
                }
            ]
        }
    )

    device: str
    metrics: dict[str, LatestValueBody]


class SeriesBody(BaseModel):
    """Values of one metric, oldest first: [time of measuring, value, quality]. `next` is null on the last page."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "device": "gauge-001",
                    "metric": "water.level",
                    "unit": "cm",
                    "points": [["2026-11-20T16:08:54.423Z", 12.3, "good"]],
                    "next": "2026-11-20T16:08:55.423Z",
                }
            ]
        }
    )

    device: str
    metric: str
    unit: str
    points: list[tuple[str, Value, Quality]]
    next: str | None


_UNAVAILABLE = (
    "store_unavailable",
    "the telemetry store does not answer now; readings wait in the platform's log, alerts are not concerned",
)
_REFUSALS = problem_responses({404: NOT_FOUND, 503: _UNAVAILABLE})


def telemetry_routes(store: TelemetryStore, vocabulary: Vocabulary, known: Known) -> APIRouter:
    """Routes that read telemetry."""
    router = APIRouter(prefix="/api/v1/devices", tags=["telemetry"])

    @router.get(
        "/{device}/latest",
        summary="Show the newest value of every metric, by event time",
        response_model=LatestBody,
        responses=_REFUSALS,
    )
    async def latest(device: str) -> dict[str, Any]:
        await require_device(known, device)
        try:
            values = await store.latest(device)
        except StoreUnavailable as e:
            raise _unavailable(e) from e
        metrics = {
            one.metric: {
                "value": _shown(one.value, metric),
                "unit": metric.unit if metric else "",
                "time": rfc3339(one.time),
                "received": rfc3339(one.received),
                "quality": one.quality.value,
            }
            for one in values
            for metric in [_metric(vocabulary, one.metric)]
        }
        return {"device": device, "metrics": metrics}

    @router.get(
        "/{device}/series",
        summary="Show the values of one metric in [start, end), oldest first",
        response_model=SeriesBody,
        responses=_REFUSALS,
    )
    async def series(
        device: str,
        metric: Annotated[str, Query(description="a metric of the vocabulary")],
        start: Annotated[str, Query(description="RFC 3339, inclusive")],
        end: Annotated[str, Query(description="RFC 3339, exclusive")],
        limit: Annotated[int, Query(ge=1, le=MOST_POINTS)] = MOST_POINTS,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        word = _metric(vocabulary, metric)
        if word is None:
            raise Problem(422, "unknown_metric", "this metric is not in the vocabulary")
        start_ms, end_ms = span(start if cursor is None else cursor, end)
        await require_device(known, device)
        try:
            points = await store.series(device, metric, start_ms, end_ms, limit + 1)
        except StoreUnavailable as e:
            raise _unavailable(e) from e
        shown = [[rfc3339(point.time), _shown(point.value, word), point.quality.value] for point in points[:limit]]
        following = rfc3339(points[limit].time) if len(points) > limit else None
        return {"device": device, "metric": metric, "unit": word.unit, "points": shown, "next": following}

    return router


async def require_device(known: Known, device: str) -> None:
    """Raises Problem 404 for a device that nobody has registered."""
    if not await known(device):
        raise Problem(404, "not_found", f"there is no device {device!r}")


def moment(name: str, text: str) -> int:
    """Milliseconds of a time in a request. Raises Problem 422."""
    try:
        # A "+" that was not escaped arrives as a space.
        ms = parse_rfc3339(text.replace(" ", "+"))
    except (ValueError, OverflowError) as e:
        raise Problem(422, "bad_time", f"{name} is no RFC 3339 time; write 2026-11-20T03:00:00Z") from e
    return min(max(ms, 0), END_OF_TIME)


def span(start: str, end: str) -> tuple[int, int]:
    """Milliseconds of start and end. Raises Problem 422 unless both are times and start is before end."""
    start_ms, end_ms = moment("start", start), moment("end", end)
    if start_ms >= end_ms:
        raise Problem(
            422, "bad_range", f"start {rfc3339(start_ms)} is not before end; exchange them or widen the range"
        )
    return start_ms, end_ms


def _unavailable(error: StoreUnavailable) -> Problem:
    log.warning("telemetry could not be read: %s", error)
    return Problem(503, *_UNAVAILABLE, headers={"Retry-After": str(RETRY_AFTER_S)})


def _metric(vocabulary: Vocabulary, name: str) -> Metric | None:
    return vocabulary.metric(name) if name in vocabulary else None


def _shown(value: Value, metric: Metric | None) -> Value:
    """InfluxDB keeps every number as float; whole states are shown as the integers they are."""
    if metric is not None and metric.type is ValueType.INTEGER and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
