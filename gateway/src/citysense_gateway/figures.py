"""The doors' own counters as figures of the heartbeat.

Owns their names. What is refused before there is a frame shows up here and nowhere else; the fates of frames are in
`counters`.
"""

from __future__ import annotations

from citysense_gateway.coap.door import CoapCounters
from citysense_gateway.modbus.line import ModbusCounters
from citysense_gateway.mqtt.limits import MqttCounters

NOW = frozenset(
    {
        "mqtt.connections",
        "mqtt.handshakes",
        "mqtt.held_bytes",
        "mqtt.held_up",
        "mqtt.sessions_kept",
        "coap.observers",
        "coap.sessions",
        "coap.handshakes",
        "coap.uploads",
        "modbus.devices",
        "modbus.failing",
        "modbus.unserved",
    }
)
"""Figures that can fall."""


def door_figures(mqtt: MqttCounters, coap: CoapCounters, modbus: ModbusCounters) -> dict[str, float]:
    """By flat names; totals since start, except those in `NOW`."""
    figures = {
        "mqtt.connections": mqtt.connections,
        "mqtt.connections_accepted": mqtt.connections_accepted,
        "mqtt.handshakes": mqtt.handshakes,
        "mqtt.publishes": mqtt.publishes,
        "mqtt.held_bytes": mqtt.held_bytes,
        "mqtt.held_up": mqtt.held_up,
        "mqtt.sessions_kept": mqtt.sessions_kept,
        "mqtt.sessions_opened": mqtt.sessions_opened,
        "mqtt.denied_subscriptions": mqtt.denied_subscriptions,
        "mqtt.sessions_resumed": mqtt.sessions_resumed,
        "mqtt.put_off": mqtt.put_off,
        "mqtt.downlinks": mqtt.downlinks,
        "mqtt.wills": mqtt.wills,
        "coap.busy": coap.busy,
        "coap.refused": coap.refused,
        "coap.malformed": coap.malformed,
        "coap.repeats": coap.repeats,
        "coap.unsent": coap.unsent,
        "coap.unproven": coap.unproven,
        "coap.replays": coap.replays,
        "coap.challenged": coap.challenged,
        "coap.observers": coap.observers,
        "coap.notified": coap.notified,
        "coap.sessions": coap.sessions,
        "coap.handshakes": coap.handshakes,
        "coap.failed_handshakes": coap.failed_handshakes,
        "coap.crowded_handshakes": coap.crowded_handshakes,
        "coap.uploads": coap.uploads,
        "modbus.devices": modbus.devices,
        "modbus.failing": modbus.failing,
        "modbus.unserved": modbus.unserved,
        "modbus.failures": modbus.failures,
        "modbus.refused_reads": modbus.refused_reads,
        "modbus.polls": modbus.polls,
        "modbus.resyncs": modbus.resyncs,
        "modbus.written": modbus.written,
        "modbus.refused_writes": modbus.refused_writes,
        "modbus.unstored": modbus.unstored,
    }
    figures.update({f"mqtt.closed.{reason}": count for reason, count in mqtt.closed.items()})
    figures.update({f"mqtt.refused.{reason}": count for reason, count in mqtt.refused.items()})
    return {name: float(value) for name, value in figures.items()}
