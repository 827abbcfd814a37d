"""InfluxQL: the questions we ask, safely quoted, and what the answers mean. Pure.

Owns the shape of `/query`'s JSON. The one query language that InfluxDB 1.x, 2.x and 3.x answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from citysense_platform.store.line_protocol import QUALITY_SUFFIX, RECEIVED, writable
from citysense_platform.store.points import Value
from citysense_platform.store.port import Latest, SeriesPoint, StoreUnavailable
from citysense_profiles.reading import Quality

_LAST = "last_"
"""What InfluxQL puts before the name of a field in `last(*)`."""


_LAST_MS = (1 << 63) // 1_000_000 - 1
"""InfluxDB counts nanoseconds in 63 bits: its time ends in the year 2262."""


class _Series(msgspec.Struct):
    columns: list[str]
    name: str = ""
    values: list[list[Value | None]] = []


class _Result(msgspec.Struct):
    series: list[_Series] = []
    error: str = ""


class Reply(msgspec.Struct):
    """The body of an answer of `/query`: one result per statement, or an error."""

    results: list[_Result] = []
    error: str = ""


Field = tuple[Annotated[str, "measurement"], Annotated[str, "field"]]


def parse_reply(body: bytes) -> Reply:
    """The answer in `body`. Raises StoreUnavailable when it is none, or when the server reports a fault in it."""
    try:
        reply = msgspec.json.decode(body, type=Reply)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise StoreUnavailable(f"InfluxDB's answer cannot be read ({e}): {body[:80]!r}") from e
    for error in (reply.error, *(result.error for result in reply.results)):
        if error:
            raise StoreUnavailable(f"InfluxDB refused a query: {error}")
    return reply


def identifier(name: str) -> str:
    """`name` quoted as a field, measurement or database."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def text(value: str) -> str:
    """`value` quoted as a string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _of_device(device: str) -> str:
    return f'"device"={text(writable(device))}'


def create_database(name: str) -> str:
    """Makes the database unless it is there (1.x only)."""
    return f"CREATE DATABASE {identifier(name)}"


def fields_query(device: str) -> str:
    """Asks which fields the device has ever had, in which measurement."""
    return f"SELECT last(*) FROM /.*/ WHERE {_of_device(device)}"  # noqa: S608  # quoted by `text`


def fields_of(reply: Reply) -> list[Field]:
    """Measurement and metric of each field, without those that only describe another."""
    fields = []
    for series in _series(reply):
        names = [column.removeprefix(_LAST) for column in series.columns if column.startswith(_LAST)]
        metrics = {name for name in names if name != RECEIVED and not name.endswith(QUALITY_SUFFIX)}
        values = dict(zip(series.columns, series.values[0], strict=True)) if series.values else {}
        fields += [(series.name, metric) for metric in sorted(metrics) if values.get(_LAST + metric) is not None]
    return fields


def latest_query(device: str, fields: Sequence[Field]) -> str:
    """One statement per field: its newest value with the time, reception and quality of that same moment."""
    return ";".join(
        f'SELECT last({identifier(metric)}) AS "value", {identifier(RECEIVED)} AS "received",'  # noqa: S608  # all quoted
        f' {identifier(metric + QUALITY_SUFFIX)} AS "quality" FROM {identifier(kind)} WHERE {_of_device(device)}'
        for kind, metric in fields
    )


def latest_of(fields: Sequence[Field], reply: Reply) -> list[Latest]:
    """The newest value of each metric, by name; `fields` as in the query."""
    newest: dict[str, Latest] = {}
    for (_, metric), result in zip(fields, reply.results, strict=True):
        for row in _rows(result):
            time, value, received = row["time"], row["value"], row.get("received")
            if value is None or not isinstance(time, int):
                continue
            known = newest.get(metric)
            if known is None or known.time < time:
                newest[metric] = Latest(
                    metric=metric,
                    value=_number(value),
                    time=time,
                    received=int(received) if isinstance(received, int | float) else time,
                    quality=_quality(row.get("quality")),
                )
    return [newest[metric] for metric in sorted(newest)]


def series_query(device: str, metric: str, start_ms: int, end_ms: int, limit: int) -> str:
    """Values of a metric in [start, end), oldest first, at most `limit` from each measurement."""
    start_ms, end_ms = (min(max(moment, 0), _LAST_MS) for moment in (start_ms, end_ms))
    return (
        f'SELECT {identifier(metric)} AS "value", {identifier(metric + QUALITY_SUFFIX)} AS "quality" FROM /.*/'  # noqa: S608
        f" WHERE {_of_device(device)} AND time >= {start_ms}ms AND time < {end_ms}ms ORDER BY time ASC LIMIT {limit}"
    )


def series_of(reply: Reply, limit: int) -> list[SeriesPoint]:
    """The points of all measurements in one order: a device that changed its kind keeps one history."""
    points = [
        SeriesPoint(time=time, value=_number(value), quality=_quality(row.get("quality")))
        for result in reply.results
        for row in _rows(result)
        if isinstance(time := row["time"], int) and (value := row["value"]) is not None
    ]
    return sorted(points, key=lambda point: point.time)[:limit]


def _series(reply: Reply) -> Iterator[_Series]:
    for result in reply.results:
        yield from result.series


def _rows(result: _Result) -> Iterator[dict[str, Value | None]]:
    for series in result.series:
        for values in series.values:
            yield dict(zip(series.columns, values, strict=True))


def _number(value: Value) -> Value:
    """Numbers are float in the database; its JSON writes 12.0 as 12."""
    return value if isinstance(value, bool | str) else float(value)


def _quality(text: Value | None) -> Quality:
    return Quality.SUSPECT if text == Quality.SUSPECT.value else Quality.GOOD
