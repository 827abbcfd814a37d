"""/api/v1/devices/{id}/downlinks and /api/v1/downlinks: HTTP on one side, `Downlinks` on the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Body

from citysense_platform.api.openapi import problem_responses
from citysense_platform.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page
from citysense_platform.api.problems import Problem
from citysense_platform.dispatch.listing import id_in_cursor
from citysense_platform.downlinks.bodies import (
    DownlinkBody,
    DownlinkHistoryBody,
    DownlinkRequest,
    downlink_body,
    history_body,
)
from citysense_platform.downlinks.decide import CONFLICTS, Fault
from citysense_platform.downlinks.downlinks import Downlinks
from citysense_platform.store.routes import Known, require_device

# Examples name a message of a profile, and profiles are data: they stand in a file of their own.
_EXAMPLES = yaml.safe_load(Path(__file__).with_name("examples.yaml").read_text(encoding="utf-8"))
_NO_DEVICE = ("not_found", _EXAMPLES["no_device"])
_NO_DOWNLINK = ("not_found", _EXAMPLES["no_downlink"])


def downlink_routes(downlinks: Downlinks, known: Known) -> APIRouter:
    """The routes of messages for devices."""
    router = APIRouter(prefix="/api/v1", tags=["downlinks"])

    @router.post(
        "/devices/{device_id}/downlinks",
        status_code=202,
        summary="Send a message to a device",
        response_model=DownlinkBody,
        responses={
            202: {"content": {"application/json": {"example": _EXAMPLES["downlink"]}}},
            **problem_responses(
                {
                    404: _NO_DEVICE,
                    409: ("too_many_waiting", _EXAMPLES["too_many_waiting"]),
                    422: ("value_not_possible", _EXAMPLES["value_not_possible"]),
                }
            ),
        },
    )
    async def send(
        device_id: str, body: Annotated[DownlinkRequest, Body(examples=[_EXAMPLES["request"]])]
    ) -> dict[str, Any]:
        """It waits for the device: with MQTT until it is connected, with CoAP until it reports, with Modbus until its
        next turn. What unlocks or starts something is not meant to go this way."""
        outcome = await downlinks.send(device_id, body.new_downlink())
        if outcome is None:
            raise Problem(404, "not_found", f"there is no device {device_id!r}")
        if isinstance(outcome, Fault):
            raise _refused(outcome)
        return downlink_body(outcome)

    @router.get(
        "/devices/{device_id}/downlinks",
        summary="List a device's messages, newest first",
        response_model=Page[DownlinkBody],
        responses=problem_responses({404: _NO_DEVICE}),
    )
    async def listed(device_id: str, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> dict[str, Any]:
        await require_device(known, device_id)
        rows = await downlinks.newest(device_id, before=id_in_cursor(cursor), limit=limit + 1)
        found = page(rows, limit, lambda sent: str(sent.order.number))
        return {**found, "items": [downlink_body(sent) for sent in found["items"]]}

    @router.get(
        "/downlinks/{downlink_id}",
        summary="Show a message with its history",
        response_model=DownlinkHistoryBody,
        responses=problem_responses({404: _NO_DOWNLINK}),
    )
    async def one(downlink_id: str) -> dict[str, Any]:
        found = await downlinks.one(downlink_id)
        if found is None:
            raise _not_found(downlink_id)
        sent, history = found
        return {**downlink_body(sent), "history": history_body(history)}

    @router.delete(
        "/downlinks/{downlink_id}",
        summary="Call a message back",
        response_model=DownlinkBody,
        responses=problem_responses({404: _NO_DOWNLINK, 409: ("not_waiting", _EXAMPLES["not_waiting"])}),
    )
    async def cancel(downlink_id: str) -> dict[str, Any]:
        """Possible until its gateway has it; from then on a new message with the same `supersedes` takes its place. It
        stays in the list as cancelled."""
        found = await downlinks.cancel(downlink_id)
        if found is None:
            raise _not_found(downlink_id)
        sent, in_time = found
        if not in_time:
            where = "its gateway has it" if sent.order.closed is None else f"it is {sent.order.state}"
            raise Problem(409, "not_waiting", f"{downlink_id} cannot be called back: {where}")
        return downlink_body(sent)

    return router


def _not_found(downlink_id: str) -> Problem:
    return Problem(404, "not_found", f"there is no downlink {downlink_id!r}")


def _refused(fault: Fault) -> Problem:
    status = 409 if fault.reason in CONFLICTS else 422
    return Problem(status, fault.reason.value, fault.text, errors=[{"field": fault.field, "message": fault.text}])
