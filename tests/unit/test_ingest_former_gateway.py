"""What a device's old gateway received before the device was moved is taken from it, and nothing later."""

from __future__ import annotations

import pytest

from citysense import wire
from citysense.durable_log import Entry
from citysense_platform.ingest.accept import Reason, examine
from citysense_platform.registry.roster import Assigned
from citysense_profiles.reading import ReadingClass

MOVED = 5_000


@pytest.mark.parametrize(("received", "taken"), [(4_999, True), (5_000, False), (9_000, False)])
def test_a_former_gateway_is_believed_up_to_the_move(received: int, taken: bool) -> None:
    readings = wire.Readings(
        device="gauge-1",
        profile="p",
        kind="k",
        message="report",
        received=received,
        identity="credential",
        samples=[wire.SampleBody(time=1_000, values={"water.level": 12.3})],
    )
    batch = wire.Batch(spool="s", items=[(1, wire.encode(readings))])
    [item] = examine(
        batch, ReadingClass.STATE, "gw-1", lambda *_: Assigned(site="7", kind="k", until=MOVED), lambda *_: False
    )
    if not taken:
        assert item.outcome is Reason.NOT_ASSIGNED
        return
    assert isinstance(item.outcome, Entry)
    body = wire.decode_body(item.outcome.body)
    assert isinstance(body, wire.Readings)
    assert (body.site, body.gateway) == ("7", "gw-1")
