"""/api/v1/gateways: enrolling, watching and revoking the gateways of the city."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from citysense.clock import rfc3339
from citysense_platform.api.openapi import problem_responses
from citysense_platform.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page
from citysense_platform.api.problems import Problem
from citysense_platform.ingest.gateways import GatewayState
from citysense_platform.registry.bodies import Id
from citysense_platform.registry.device import Gateway
from citysense_platform.registry.gateways import Gateways

_NOT_FOUND = ("not_found", "there is no gateway 'gateway-2'")


class GatewayRequest(BaseModel):
    """A gateway to be enrolled."""

    model_config = ConfigDict(extra="forbid")

    id: Id = Field(description="Chosen by you, never reused.")


class GatewayBody(BaseModel):
    """A gateway, and what it said of itself last; nulls until it has said something since the platform's start."""

    id: str
    created: str
    revoked: str | None
    devices: int = Field(description="Devices in use that are assigned to it.")
    heartbeat: str | None = Field(description="When its last sign of life arrived; one comes each second.")
    roster_version: int | None = Field(description="The version of the registry that it acts on.")
    figures: dict[str, float] = Field(description="Its counters since its start, as /metrics has them.")


class NewGatewayBody(GatewayBody):
    """A gateway just enrolled. The token is shown this once."""

    token: str = Field(description="For the gateway's own settings; it sends it with each request.")


def gateway_routes(
    gateways: Gateways,
    *,
    latest: Callable[[], Mapping[str, GatewayState]],
    held: Callable[[str], int | None],
) -> APIRouter:
    """The routes of gateways. `latest` gives the last heartbeats, `held` the registry's version that a gateway has."""
    router = APIRouter(prefix="/api/v1/gateways", tags=["gateways"])

    def body(gateway: Gateway) -> dict[str, Any]:
        state = latest().get(gateway.id)
        return {
            "id": gateway.id,
            "created": rfc3339(gateway.created),
            "revoked": None if gateway.revoked is None else rfc3339(gateway.revoked),
            "devices": gateway.devices,
            "heartbeat": None if state is None else rfc3339(state.arrived),
            "roster_version": held(gateway.id),
            "figures": {} if state is None else dict(state.heartbeat.counters),
        }

    def shown(gateway: Gateway | None, gateway_id: str) -> dict[str, Any]:
        if gateway is None:
            raise Problem(404, "not_found", f"there is no gateway {gateway_id!r}")
        return body(gateway)

    @router.post(
        "",
        status_code=201,
        summary="Enrol a gateway",
        response_model=NewGatewayBody,
        responses=problem_responses({409: ("duplicate_id", "there is a gateway 'gateway-2' already")}),
    )
    async def enrol(asked: Annotated[GatewayRequest, Body(examples=[{"id": "gateway-2"}])]) -> dict[str, Any]:
        """Devices come to it by their field `gateway`. It may submit for them and for no others."""
        enrolled = await gateways.enrol(asked.id)
        if enrolled is None:
            text = f"there is or was a gateway {asked.id!r} already; an id is not given out twice"
            raise Problem(409, "duplicate_id", text, errors=[{"field": "id", "message": text}])
        return {**body(enrolled.gateway), "token": enrolled.token}

    @router.get("", summary="List gateways", response_model=Page[GatewayBody])
    async def listed(limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> dict[str, Any]:
        """By id, revoked ones too."""
        found = page(await gateways.gateways(after=cursor, limit=limit + 1), limit, lambda gateway: gateway.id)
        return {**found, "items": [body(gateway) for gateway in found["items"]]}

    @router.get(
        "/{gateway_id}",
        summary="Show a gateway",
        response_model=GatewayBody,
        responses=problem_responses({404: _NOT_FOUND}),
    )
    async def one(gateway_id: str) -> dict[str, Any]:
        """Revoked ones stay readable."""
        return shown(await gateways.gateway(gateway_id), gateway_id)

    @router.post(
        "/{gateway_id}/revoke",
        summary="End a gateway's token for good",
        response_model=GatewayBody,
        responses=problem_responses({404: _NOT_FOUND}),
    )
    async def revoke(gateway_id: str) -> dict[str, Any]:
        """Nothing is taken from it any more. Its devices stay assigned to it until they are moved."""
        return shown(await gateways.revoke(gateway_id), gateway_id)

    return router
