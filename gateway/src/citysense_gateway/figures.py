"""The doors' own counters as figures of the heartbeat.

Owns their names. What is refused before there is a frame shows up here and nowhere else; the fates of frames are in
`counters`.
"""

from __future__ import annotations

from citysense_gateway.coap.door import CoapCounters
from citysense_gateway.modbus.line import ModbusCounters
from citysense_gateway.mqtt.limits import MqttCounters


def door_figures(mqtt: MqttCounters, coap: CoapCounters, modbus: ModbusCounters) -> dict[str, float]:
    """By flat names; totals since start, except connections, uploads, devices, failing and unserved, which are now."""
    figures = {
        "mqtt.connections": mqtt.connections,
        "mqtt.denied_subscriptions": mqtt.denied_subscriptions,
        "coap.busy": coap.busy,
        "coap.refused": coap.refused,
        "coap.malformed": coap.malformed,
        "coap.repeats": coap.repeats,
        "coap.unsent": coap.unsent,
        "coap.uploads": coap.uploads,
        "modbus.devices": modbus.devices,
        "modbus.failing": modbus.failing,
        "modbus.unserved": modbus.unserved,
        "modbus.failures": modbus.failures,
        "modbus.refused_reads": modbus.refused_reads,
    }
    figures.update({f"mqtt.closed.{reason}": count for reason, count in mqtt.closed.items()})
    return {name: float(value) for name, value in figures.items()}
