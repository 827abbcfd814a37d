"""A paho subscriber that does nothing with what it gets: what others' gateways cost before they do any work.

The yardstick of benches. It runs as a process of its own: host, port and topic filter on the command line, then JSON lines
on stdout; for each line on stdin it says how many messages came so far. It must stay what paho's documentation shows.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from citysense.parent import end_with_parent


class EmptySubscriber:
    """Subscribes with QoS 1 and counts."""

    def __init__(self, topic: str, tell: Any) -> None:
        self._topic = topic
        self._tell = tell
        self.received = 0
        self.client = Client(
            CallbackAPIVersion.VERSION2,
            client_id="empty-subscriber",
            clean_session=False,
            protocol=MQTTProtocolVersion.MQTTv311,
        )
        self.client.on_message = self._on_message
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe

    def _on_message(self, _c: Client, _u: Any, _m: MQTTMessage) -> None:
        self.received += 1

    def _on_connect(self, _c: Client, _u: Any, _f: ConnectFlags, reason: ReasonCode, _p: Properties | None) -> None:
        if reason.is_failure:
            self._tell({"failed": f"the broker refused the connection: {reason}"})
        else:
            self.client.subscribe(self._topic, qos=1)

    def _on_subscribe(self, _c: Client, _u: Any, _mid: int, _r: list[ReasonCode], _p: Properties | None) -> None:
        self._tell({"ready": True})


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> int:
    """The process: `python -m citysense_sim.empty_subscriber HOST PORT FILTER`. It ends with its input."""
    end_with_parent(os.environ)
    host, port, topic = sys.argv[1:4]
    subscriber = EmptySubscriber(topic, _tell)
    subscriber.client.connect(host, int(port))
    subscriber.client.loop_start()
    for _ in sys.stdin:
        _tell({"received": subscriber.received})
    subscriber.client.disconnect()
    subscriber.client.loop_stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
