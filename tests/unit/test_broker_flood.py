"""The flood's packets: what a bench sends must be what a device would."""

from __future__ import annotations

import json

import pytest

from citysense.errors import SetupError
from citysense_gateway.broker.inbound import take_publishes
from citysense_sim.mqtt_flood_packets import Template, connect_packet, encode_length, packets

PAYLOAD = '{"boot": 1, "seq": {seq}, "t": {t}, "v": {"water.level": {value}, "note": "100%"}}'


def test_every_packet_of_a_template_is_a_whole_publish_with_its_own_values() -> None:
    template = Template("cs/v1/g/up/report", PAYLOAD)
    stream = b"".join(template.packet(bytes((0, seq + 1)), seq, 1_795_190_934_423, seq / 10) for seq in range(3))
    found, at = take_publishes(stream, 0, v5=False, largest=1000)
    assert at == len(stream)
    assert [message.packet_id for message in found] == [1, 2, 3]
    assert {message.topic for message in found} == {b"cs/v1/g/up/report"}
    assert [json.loads(message.payload) for message in found] == [
        {"boot": 1, "seq": seq, "t": 1_795_190_934_423, "v": {"water.level": seq / 10, "note": "100%"}}
        for seq in range(3)
    ]


def test_a_field_that_stands_twice_is_refused() -> None:
    with pytest.raises(SetupError, match="twice"):
        Template("t", "{seq}{seq}")


def test_lengths_and_packets_found_in_a_stream() -> None:
    assert [encode_length(number) for number in (0, 127, 128, 16_384)] == [b"\0", b"\x7f", b"\x80\x01", b"\x80\x80\x01"]
    stream = b"\x40\x02\x00\x07" + b"\x30\x80\x01" + bytes(128) + b"\x40\x02\x00"
    assert [(first, len(body)) for first, body, _ in packets(stream)] == [(0x40, 2), (0x30, 128)]


def test_connect_carries_user_and_password_or_neither() -> None:
    assert connect_packet("g", "pw") == b"\x10\x14\x00\x04MQTT\x04\xc2\x00\x00\x00\x01g\x00\x01g\x00\x02pw"
    assert connect_packet("g", "") == b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01g"
