"""Endpoints of polled devices: the four forms, and the part that is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_gateway.modbus.endpoint import Endpoint, EndpointError, Line, Link, parse_endpoint


@pytest.mark.parametrize(
    ("text", "line", "unit"),
    [
        ("modbus+tcp://10.0.0.7:1502/3", Line(link=Link.TCP, host="10.0.0.7", port=1502), 3),
        ("modbus+tcp://gauge.example/1", Line(link=Link.TCP, host="gauge.example", port=502), 1),
        ("modbus+tcp://[fd00::7]:502/255", Line(link=Link.TCP, host="fd00::7", port=502), 255),
        ("modbus+tcp://10.0.0.7/0", Line(link=Link.TCP, host="10.0.0.7", port=502), 0),
        ("modbus+rtu-tcp://10.0.0.8:4001/247", Line(link=Link.RTU_TCP, host="10.0.0.8", port=4001), 247),
        ("modbus+tls://10.0.0.9/1", Line(link=Link.TLS, host="10.0.0.9", port=802), 1),
        (
            "modbus+rtu:///dev/ttyUSB0?baud=9600&parity=N&unit=1",
            Line(link=Link.RTU, path="/dev/ttyUSB0", baud=9600, parity="N", stop=1),
            1,
        ),
        (
            "modbus+rtu:///dev/serial/by-id/usb-1?unit=17&stop=2&baud=19200&parity=E",
            Line(link=Link.RTU, path="/dev/serial/by-id/usb-1", baud=19200, parity="E", stop=2),
            17,
        ),
    ],
)
def test_the_forms(text: str, line: Line, unit: int) -> None:
    assert parse_endpoint(text) == Endpoint(line=line, unit=unit)


@pytest.mark.parametrize(
    ("text", "timeout"),
    [
        ("modbus+tcp://10.0.0.7/1?timeout=2", 2.0),
        ("modbus+rtu-tcp://10.0.0.8:4001/7?timeout=0.3", 0.3),
        ("modbus+rtu:///dev/ttyUSB0?baud=9600&unit=1&timeout=1.5", 1.5),
        ("modbus+rtu:///dev/ttyUSB0?baud=9600&unit=1", None),
    ],
)
def test_a_unit_may_have_a_timeout_of_its_own_on_a_line_that_it_shares(text: str, timeout: float | None) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint.timeout == timeout
    assert endpoint.line == parse_endpoint(text.replace("&timeout=1.5", "").split("?timeout")[0]).line


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "form"),
        ("10.0.0.7:502/1", "form"),
        ("tcp://10.0.0.7:502/1", "form"),
        ("modbus+udp://10.0.0.7:502/1", "form"),
        ("modbus+tcp://10.0.0.7:502/1 ", "form"),
        ("modbus+tcp://10.0.0.7:5\n02/1", "form"),
        ("modbus+tcp://[fd00::7:502/1", "form"),
        ("modbus+tcp://10.0.0.7:502/1#x", "form"),
        ("modbus+tcp://10.0.0.7:502/1?baud=9600", "baud"),
        ("modbus+tcp://10.0.0.7:502/1?", "form"),
        ("modbus+tcp://10.0.0.7:502/1?timeout=", "timeout"),
        ("modbus+tcp://10.0.0.7:502/1?timeout=0.01", "timeout"),
        ("modbus+tcp://10.0.0.7:502/1?timeout=31", "timeout"),
        ("modbus+tcp://10.0.0.7:502/1?timeout=1e1", "timeout"),
        ("modbus+tcp://10.0.0.7:502/1?timeout=1&timeout=2", "form"),
        ("modbus+tcp:///1", "host"),
        ("modbus+tcp://:502/1", "host"),
        ("modbus+tcp://user:secret@10.0.0.7:502/1", "host"),
        ("modbus+tcp://10.0.0.7:0/1", "port"),
        ("modbus+tcp://10.0.0.7:65536/1", "port"),
        ("modbus+tcp://10.0.0.7:modbus/1", "port"),
        ("modbus+rtu-tcp://10.0.0.7/1", "port"),
        ("modbus+tcp://10.0.0.7:502", "unit"),
        ("modbus+tcp://10.0.0.7:502/", "unit"),
        ("modbus+tcp://10.0.0.7:502/256", "unit"),
        ("modbus+tcp://10.0.0.7:502/-1", "unit"),
        ("modbus+tcp://10.0.0.7:502/1/2", "unit"),
        ("modbus+tcp://10.0.0.7:502/²", "unit"),
        ("modbus+rtu-tcp://10.0.0.7:4001/0", "unit"),
        ("modbus+rtu-tcp://10.0.0.7:4001/248", "unit"),
        ("modbus+rtu://dev/ttyUSB0?baud=9600&unit=1", "host"),
        ("modbus+rtu:?baud=9600&unit=1", "path"),
        ("modbus+rtu:///?baud=9600&unit=1", "path"),
        ("modbus+rtu:///etc/passwd?baud=9600&unit=1", "path"),
        ("modbus+rtu:///dev/../etc/passwd?baud=9600&unit=1", "path"),
        ("modbus+rtu:///dev/ttyUSB0?unit=1", "baud"),
        ("modbus+rtu:///dev/ttyUSB0?baud=fast&unit=1", "baud"),
        ("modbus+rtu:///dev/ttyUSB0?baud=1&unit=1", "baud"),
        ("modbus+rtu:///dev/ttyUSB0?baud=9600&parity=X&unit=1", "parity"),
        ("modbus+rtu:///dev/ttyUSB0?baud=9600&stop=3&unit=1", "stop"),
        ("modbus+rtu:///dev/ttyUSB0?baud=9600", "unit"),
        ("modbus+rtu:///dev/ttyUSB0?baud=9600&unit=0", "unit"),
        ("modbus+rtu:///dev/ttyUSB0?baud=9600&unit=1&unit=2", "form"),
        ("modbus+rtu:///dev/ttyUSB0?baud=9600&unit=1&speed=2", "speed"),
    ],
)
def test_what_is_wrong_is_named(text: str, part: str) -> None:
    with pytest.raises(EndpointError) as caught:
        parse_endpoint(text)
    assert caught.value.part == part
    assert repr(text) in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_an_endpoint_or_an_endpoint_error(text: str) -> None:
    for start in ("", "modbus+tcp://", "modbus+rtu://", "modbus+rtu-tcp://h:1/"):
        try:
            endpoint = parse_endpoint(start + text)
        except EndpointError:
            continue
        assert 0 <= endpoint.unit <= 255


def test_a_line_reads_as_an_address() -> None:
    assert str(parse_endpoint("modbus+tcp://[fd00::7]:502/1").line) == "[fd00::7]:502"
    assert str(parse_endpoint("modbus+rtu:///dev/ttyUSB0?baud=9600&unit=1").line) == "/dev/ttyUSB0"
