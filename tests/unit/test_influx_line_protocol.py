"""Lines and queries: read back by a reader of the test's own, whatever the names and texts hold."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_platform.store import influx_queries as queries
from citysense_platform.store.line_protocol import line_of, writable
from citysense_platform.store.points import Point, Value
from citysense_platform.store.port import Latest, StoreUnavailable
from citysense_profiles.reading import Quality

letters = st.characters(codec="utf-8")
names = st.text(letters, min_size=1, max_size=20)
values = st.one_of(
    st.booleans(),
    st.text(letters, max_size=30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63 - 1),
)
times = st.integers(0, 253_402_300_799_999)


def split(text: str, separator: str, *, quotes: bool) -> list[str]:
    """Parts between separators that neither a backslash nor, with `quotes`, a string hides."""
    parts, part, inside, i = [], "", False, 0
    while i < len(text):
        c = text[i]
        if c == "\\" and i + 1 < len(text):
            part += text[i : i + 2]
            i += 2
            continue
        if quotes and c == '"':
            inside = not inside
        if c == separator and not inside:
            parts.append(part)
            part = ""
        else:
            part += c
        i += 1
    return [*parts, part]


def plain(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text)


def read(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"'):
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    return int(text[:-1]) if text.endswith("i") else float(text)


def parse(line: str) -> tuple[str, dict[str, str], dict[str, Value], int]:
    head, fields, moment = split(line, " ", quotes=True)
    kind, *tags = split(head, ",", quotes=False)
    pairs = [split(tag, "=", quotes=False) for tag in tags]
    values = [split(field, "=", quotes=True) for field in split(fields, ",", quotes=True)]
    return (
        plain(kind),
        {plain(key): plain(value) for key, value in pairs},
        {plain(key): read(value) for key, value in values},
        int(moment),
    )


@given(
    device=names,
    site=names | st.just(""),
    kind=names,
    metrics=st.dictionaries(names, values, min_size=1, max_size=4),
    time=times,
)
def test_a_line_says_what_the_point_says(
    device: str, site: str, kind: str, metrics: dict[str, Value], time: int
) -> None:
    suspect = frozenset(list(metrics)[:1])
    point = Point(device=device, site=site, kind=kind, time=time, received=7, values=metrics, suspect=suspect)
    found_kind, tags, fields, moment = parse(line_of(point).decode())
    assert (found_kind, moment) == (writable(kind), time)
    assert tags == {"device": writable(device)} | ({"site": writable(site)} if site else {})
    expected: dict[str, Value] = {}
    for metric, value in metrics.items():
        expected[writable(metric)] = value if isinstance(value, bool | str) else float(value)
        if metric in suspect:
            expected[writable(metric) + ".q"] = "suspect"
    assert fields == expected | {"received": 7}
    assert all(type(fields[key]) is type(value) for key, value in expected.items())


@given(names, names)
def test_names_stay_different_and_hold_nothing_that_breaks_a_line(one: str, other: str) -> None:
    assert (writable(one) == writable(other)) == (one == other)
    assert not re.search(r'[\x00-\x1f\x7f\\"#]', writable(one))


def test_ids_of_ours_stand_as_they_are() -> None:
    point = Point(
        device="gauge-001",
        site="site-1",
        kind="waterlogging_gauge",
        time=1,
        received=2,
        values={"water.level": 12, "gauge.full": True},
        suspect=frozenset({"water.level"}),
    )
    assert line_of(point) == (
        b"waterlogging_gauge,device=gauge-001,site=site-1"
        b' water.level=12.0,water.level.q="suspect",gauge.full=true,received=2i 1'
    )


@given(names)
def test_a_quoted_text_ends_where_it_should(name: str) -> None:
    for quoted, quote in ((queries.text(name), "'"), (queries.identifier(name), '"')):
        inner = quoted[1:-1]
        assert quoted[0] == quoted[-1] == quote
        assert not re.search(rf"(?<!\\)(\\\\)*{quote}", inner)
        assert not re.search(r"(?<!\\)(\\\\)*\\$", inner)
        assert inner.replace(f"\\{quote}", quote).replace("\\\\", "\\") == name or "\\" in name


def test_a_query_cannot_ask_beyond_the_servers_time() -> None:
    query = queries.series_query("d", "water.level", -5, 10**15, 10)
    assert "time >= 0ms AND time < 9223372036853ms" in query
    assert math.log2(9223372036853 * 1e6) < 63


def test_latest_takes_the_newest_of_two_kinds() -> None:
    body = (
        b'{"results":[{"series":[{"name":"a","columns":["time","value","received","quality"],"values":[[5,1.5,6,null]]}]},'
        b'{"series":[{"name":"b","columns":["time","value","received","quality"],"values":[[9,2,10,"suspect"]]}]},{}]}'
    )
    fields = [("a", "water.level"), ("b", "water.level"), ("b", "pile.state")]
    assert queries.latest_of(fields, queries.parse_reply(body)) == [
        Latest(metric="water.level", value=2.0, time=9, received=10, quality=Quality.SUSPECT)
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"error":"database not found"}', b'{"results":[{"error":"shard closed"}]}', b"\xff"],
)
def test_an_answer_that_is_none_is_an_outage(body: bytes) -> None:
    with pytest.raises(StoreUnavailable):
        queries.parse_reply(body)
