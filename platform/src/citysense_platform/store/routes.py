"""GET /api/v1/devices/{id}/latest and /series.

Owns the bodies and the refusals of reading telemetry; which store answers is nobody's business here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query

from citysense.clock import parse_rfc3339, rfc3339
from citysense_platform.api.problems import RETRY_AFTER_S, Problem
from citysense_platform.store.points import END_OF_TIME, Value
from citysense_platform.store.port import StoreUnavailable, TelemetryStore
from citysense_profiles.vocabulary import Metric, ValueType, Vocabulary

log = logging.getLogger(__name__)

Known = Callable[[str], Awaitable[bool]]
"""Answers whether a device of that id is registered, or ever was."""

MOST_POINTS = 100_000
"""Points of one answer: about 5 MB of JSON; more comes with `next`."""


def telemetry_routes(store: TelemetryStore, vocabulary: Vocabulary, known: Known) -> APIRouter:
    """Routes that read telemetry."""
    router = APIRouter(tags=["telemetry"])

    @router.get("/api/v1/devices/{device}/latest")
    async def latest(device: str) -> dict[str, Any]:
        """The newest value of every metric, by event time."""
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

    @router.get("/api/v1/devices/{device}/series")
    async def series(
        device: str,
        metric: Annotated[str, Query(description="a metric of the vocabulary")],
        start: Annotated[str, Query(description="RFC 3339, inclusive")],
        end: Annotated[str, Query(description="RFC 3339, exclusive")],
        limit: Annotated[int, Query(ge=1, le=MOST_POINTS)] = MOST_POINTS,
        cursor: Annotated[str | None, Query(description="`next` of the page before")] = None,
    ) -> dict[str, Any]:
        """Values of one metric in [start, end), oldest first."""
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
        raise Problem(404, "device_not_found", "no device of this id is registered")


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
    return Problem(
        503,
        "store_unavailable",
        "the telemetry store does not answer now; readings wait in the platform's log, alerts are not concerned",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def _metric(vocabulary: Vocabulary, name: str) -> Metric | None:
    return vocabulary.metric(name) if name in vocabulary else None


def _shown(value: Value, metric: Metric | None) -> Value:
    """InfluxDB keeps every number as float; whole states are shown as the integers they are."""
    if metric is not None and metric.type is ValueType.INTEGER and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
