"""Which devices of a line cannot be read, and what is said about it: once when it begins and once when it is over.

Owns the log lines of one line and its part of `ModbusCounters.failing`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from citysense_gateway.modbus.polled import ModbusCounters

_LOG = logging.getLogger(__name__)
_NAMED = 3
"""So many devices are named where a whole line is down; of more, the number is said."""


class Trouble:
    """`line` is its name in the log; `devices` tells all that are polled on it."""

    def __init__(self, line: str, *, devices: Callable[[], Sequence[str]], counters: ModbusCounters) -> None:
        self._line = line
        self._devices = devices
        self._counters = counters
        self._failed: dict[str, int] = {}
        self._tries = 0
        self._shown = 0

    def failed(self, devices: Iterable[str], reason: str) -> None:
        """A poll failed, and with it these devices are out of reach."""
        self._counters.failures += 1
        for device in devices:
            if device not in self._failed:
                _LOG.warning("device %s on %s cannot be read: %s", device, self._line, reason)
            self._failed[device] = self._failed.get(device, 0) + 1
        self.recount()

    def worked(self, device: str) -> None:
        """A poll brought something."""
        tries = self._failed.pop(device, 0)
        if tries:
            _LOG.warning("device %s on %s can be read again, after %d failed polls", device, self._line, tries)
            self.recount()

    def forget(self, device: str) -> None:
        """The device is not polled here any more."""
        self._failed.pop(device, None)
        self.recount()

    def down(self, reason: str) -> int:
        """The line takes no connection; how often it did not by now."""
        self._counters.failures += 1
        self._tries += 1
        if self._tries == 1:
            devices = self._devices()
            told = ", ".join(devices) if len(devices) <= _NAMED else f"{len(devices)} devices"
            _LOG.warning("%s; not read: %s", reason, told)
        self.recount()
        return self._tries

    def up(self) -> None:
        """The line takes a connection."""
        if self._tries:
            _LOG.warning("%s takes connections again, after %d failed tries", self._line, self._tries)
            self._tries = 0
            self.recount()

    def recount(self) -> None:
        """Bring the counter up to date, also after devices came or went."""
        now = len(self._devices()) if self._tries else len(self._failed)
        self._counters.failing += now - self._shown
        self._shown = now
