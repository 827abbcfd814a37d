"""The gateways' latest signs of life, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from citysense.wire import Heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayState:
    """The last heartbeat of a gateway and when it arrived (ms since 1970, the platform's clock)."""

    heartbeat: Heartbeat
    arrived: int


class GatewayStates:
    """The last heartbeat of every gateway since the start; they come once a second, so nothing needs storing."""

    def __init__(self) -> None:
        self._states: dict[str, GatewayState] = {}

    def note(self, gateway: str, heartbeat: Heartbeat, *, arrived: int) -> None:
        """Keep `heartbeat` as the latest of an authenticated gateway."""
        self._states[gateway] = GatewayState(heartbeat=heartbeat, arrived=arrived)

    def latest(self) -> Mapping[str, GatewayState]:
        """By gateway."""
        return dict(self._states)
