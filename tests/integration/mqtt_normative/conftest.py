"""The door that all tests of this folder talk to, and the markers that tie a test to numbered statements."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

# Tests are no package, so what the files of this folder share is found by its path below tests/.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
pytest.register_assert_rewrite("integration.mqtt_normative.wire", "integration.mqtt_normative.doors")

from integration.mqtt_normative.doors import Bench, serving  # noqa: E402 - found by the path above


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mqtt5(*numbers): shows these statements of MQTT 5.0")
    config.addinivalue_line("markers", "mqtt311(*numbers): shows these statements of MQTT 3.1.1")


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    """A door on loopback with a clock that stands, a sink that stores everything, and a mailbox."""
    async with serving() as one:
        yield one
