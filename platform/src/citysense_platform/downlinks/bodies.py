"""The JSON of downlinks: what may stand in a request, and what an answer looks like."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints
from sqlalchemy import RowMapping

from citysense.clock import rfc3339
from citysense.wire import Value
from citysense_platform.downlinks.decide import NewDownlink
from citysense_platform.downlinks.downlinks import Sent
from citysense_platform.downlinks.order import By, State
from citysense_platform.store.points import END_OF_TIME

DAY_S = 86_400
DEFAULT_TTL_S = DAY_S
"""A device on a battery reports, and so can be reached, once a day."""
MAX_TTL_S = 7 * DAY_S
"""What has waited for a week is no longer what anybody wants."""
LONGEST_TEXT = 200
LARGEST_INT = 2**63 - 1


def _value(given: object) -> Value:
    if isinstance(given, bool):
        return given
    if isinstance(given, str):
        if len(given) > LONGEST_TEXT or not given.isprintable():
            raise ValueError(f"a text is printable and has at most {LONGEST_TEXT} characters")
        return given
    if isinstance(given, int) and abs(given) <= LARGEST_INT:
        return given
    if isinstance(given, float) and isfinite(given):
        return given
    raise ValueError("a value is a finite number, a text, true or false")


OneValue = Annotated[float | int | str | bool, PlainValidator(_value, json_schema_input_type=float | str | bool)]


MetricName = Annotated[str, StringConstraints(max_length=100, pattern=r"^[!-~]+$")]


class DownlinkRequest(BaseModel):
    """A message for a device."""

    model_config = ConfigDict(extra="forbid")

    message: Annotated[str, StringConstraints(min_length=1, max_length=100)] = Field(
        description="A downward message of the device's profile."
    )
    values: dict[MetricName, OneValue] = Field(
        {}, max_length=100, description="By metric, in the vocabulary's units; checked against the profile at once."
    )
    ttl: Annotated[int, Field(strict=True, ge=1, le=MAX_TTL_S)] = Field(
        DEFAULT_TTL_S, description="Seconds for which it is worth delivering."
    )
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = Field(0, description="The highest goes first.")
    supersedes: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[!-~]+$")] | None = Field(
        None, description="An undelivered older message to the device with the same text here is dropped for this one."
    )
    once: Annotated[bool, Field(strict=True)] = Field(
        False,
        description="Hand it over at most once; its outcome may then be unknown. Else it is repeated until the device "
        "confirms it. Needed for whatever is no plain quantity.",
    )

    def new_downlink(self) -> NewDownlink:
        """The same as a value of ours."""
        return NewDownlink(
            message=self.message,
            values=self.values,
            ttl=self.ttl,
            priority=self.priority,
            supersedes=self.supersedes or "",
            once=self.once,
        )


class DownlinkBody(BaseModel):
    """A message for a device as it stands."""

    id: str
    device: str
    gateway: str
    message: str
    values: dict[str, float | int | str | bool]
    priority: int
    supersedes: str | None
    once: bool
    created: str
    expires: str
    handed: str | None = Field(description="When the gateway was given it; from then on it cannot be called back.")
    state: State = Field(
        description="waiting, sent (handed to the device, not confirmed), delivered, expired, superseded, refused (by "
        "the device or its profile), cancelled, or unknown (handed over once, never confirmed)."
    )
    detail: str
    changed: str


class ChangeBody(BaseModel):
    """One change of state, and who said so."""

    at: str
    state: State
    detail: str
    by: By


class DownlinkHistoryBody(DownlinkBody):
    """A message with all that happened to it, the oldest first."""

    history: list[ChangeBody]


def downlink_body(sent: Sent) -> dict[str, Any]:
    """The JSON of a message."""
    order, message = sent.order, sent.message
    return {
        "id": order.id,
        "device": order.device,
        "gateway": order.gateway,
        "message": message.message,
        "values": message.values,
        "priority": message.priority,
        "supersedes": message.supersedes or None,
        "once": message.once,
        "created": rfc3339(order.created),
        "expires": rfc3339(message.expires),
        "handed": None if order.handed is None else rfc3339(order.handed),
        "state": order.state,
        "detail": order.detail,
        "changed": _moment(order.changed),
    }


def history_body(history: Sequence[RowMapping]) -> list[dict[str, Any]]:
    """The JSON of a message's history."""
    return [{**row, "at": _moment(row["at"])} for row in history]


def _moment(ms: int) -> str:
    """What a gateway's clock said, as a time that can be written."""
    return rfc3339(min(max(ms, 0), END_OF_TIME - 1))
