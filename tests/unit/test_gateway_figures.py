"""The doors' own counters in the heartbeat: what never became a frame is seen there."""

from __future__ import annotations

from citysense_gateway.coap.door import CoapCounters
from citysense_gateway.figures import NOW, door_figures
from citysense_gateway.frame import Reason
from citysense_gateway.modbus.line import ModbusCounters
from citysense_gateway.mqtt.actions import CloseReason
from citysense_gateway.mqtt.fields import Fault
from citysense_gateway.mqtt.limits import MqttCounters


def test_what_the_doors_refuse_before_there_is_a_frame_is_told() -> None:
    mqtt = MqttCounters(
        connections=3, denied_subscriptions=4, connections_accepted=12, publishes=13, sessions_kept=14, handshakes=15
    )
    mqtt.refused.update({Reason.UNDECODABLE: 16, "unavailable": 17})
    mqtt.closed.update({CloseReason.TOO_MANY_CONNECTIONS: 5, Fault.TRUNCATED: 6})
    figures = door_figures(
        mqtt,
        CoapCounters(busy=7, refused=8, malformed=9, unsent=10, crowded_handshakes=18),
        ModbusCounters(devices=11, failing=1, unserved=2),
    )
    wanted = {
        "mqtt.connections": 3,
        "mqtt.connections_accepted": 12,
        "mqtt.denied_subscriptions": 4,
        "mqtt.handshakes": 15,
        "mqtt.publishes": 13,
        "mqtt.refused.unavailable": 17,
        "mqtt.refused.undecodable": 16,
        "mqtt.sessions_kept": 14,
        "mqtt.closed.too_many_connections": 5,
        "mqtt.closed.truncated": 6,
        "coap.busy": 7,
        "coap.refused": 8,
        "coap.malformed": 9,
        "coap.unsent": 10,
        "coap.crowded_handshakes": 18,
        "modbus.devices": 11,
        "modbus.failing": 1,
        "modbus.unserved": 2,
    }
    assert {name: figures[name] for name in wanted} == wanted
    assert {type(value) for value in figures.values()} == {float}


def test_no_figure_is_taken_for_the_fate_of_a_frame() -> None:
    """`rejected.*`, `stored` and their like count frames, each once; the platform tells them by their first word."""
    heads = {name.partition(".")[0] for name in door_figures(MqttCounters(), CoapCounters(), ModbusCounters())}
    assert heads == {"mqtt", "coap", "modbus"}


def test_every_figure_that_can_fall_is_one_of_the_doors() -> None:
    assert set(door_figures(MqttCounters(), CoapCounters(), ModbusCounters())) > NOW
