"""/api/v1/devices and /api/v1/profiles: HTTP on one side, the registry on the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Body, Query

from citysense_platform.api.openapi import problem_responses
from citysense_platform.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page
from citysense_platform.api.problems import Problem
from citysense_platform.registry.bodies import (
    ChangeRequest,
    CredentialRequest,
    DeviceBody,
    DeviceRequest,
    NewDeviceBody,
    device_body,
    new_device_body,
)
from citysense_platform.registry.decide import CONFLICTS, Refusal
from citysense_platform.registry.device import Device
from citysense_platform.registry.profile_bodies import ProfileBody, profile_body
from citysense_platform.registry.registry import Registry
from citysense_profiles.catalogue import Catalogue

# Examples name a profile, and profiles are data: they stand in a file of their own.
_EXAMPLES = yaml.safe_load(Path(__file__).with_name("examples.yaml").read_text(encoding="utf-8"))
_REQUEST = _EXAMPLES["request"]
_DEVICE = {**_REQUEST, **_EXAMPLES["device"]}
_FRESH = {**_DEVICE, **_EXAMPLES["fresh"]}
_NOT_FOUND = ("not_found", _EXAMPLES["not_found"])
_UNKNOWN_PROFILE = ("unknown_profile", _EXAMPLES["unknown_profile"])
_ENDPOINT = ("endpoint_not_allowed", _EXAMPLES["endpoint_not_allowed"])
_KIND = ("credential_kind_not_available", _EXAMPLES["credential_kind_not_available"])
_REVOKED = ("revoked", _EXAMPLES["revoked"])


def registry_routes(registry: Registry, catalogue: Catalogue) -> APIRouter:
    """The routes of devices and profiles."""
    router = APIRouter(prefix="/api/v1")
    _add_devices(router, registry, catalogue)
    _add_changes(router, registry, catalogue)
    _add_credentials(router, registry, catalogue)
    _add_profiles(router, catalogue)
    return router


def _add_devices(router: APIRouter, registry: Registry, catalogue: Catalogue) -> None:
    @router.post(
        "/devices",
        tags=["devices"],
        status_code=201,
        summary="Register a device",
        response_model=NewDeviceBody,
        response_model_exclude_unset=True,
        responses={
            201: _example("Registered; the secret is shown this once", _FRESH),
            **problem_responses(
                {409: ("duplicate_id", "there is a device 'gauge-001' already"), 422: _UNKNOWN_PROFILE},
            ),
        },
    )
    async def provision(body: Annotated[DeviceRequest, Body(examples=[_REQUEST])]) -> dict[str, Any]:
        """A site of the same name and position is used again, else it is made."""
        outcome = await registry.provision(body.new_device())
        if isinstance(outcome, Refusal):
            raise refused(outcome)
        return new_device_body(outcome, catalogue.get(outcome.device.profile))

    @router.get(
        "/devices",
        tags=["devices"],
        summary="List devices",
        response_model=Page[DeviceBody],
        response_model_exclude_unset=True,
        responses={200: _example("Devices by id, revoked ones too", {"items": [_DEVICE], "next": None})},
    )
    async def devices(
        profile: Annotated[str | None, Query(max_length=200)] = None,
        site: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Id of a site.")] = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        rows = await registry.devices(profile=profile, site=site, after=cursor, limit=limit + 1)
        listed = page(rows, limit, lambda device: device.id)
        return {**listed, "items": [_body(device, registry, catalogue) for device in listed["items"]]}

    @router.get(
        "/devices/{device_id}",
        tags=["devices"],
        summary="Show a device",
        response_model=DeviceBody,
        response_model_exclude_unset=True,
        responses={200: _example("The device", _DEVICE), **problem_responses({404: _NOT_FOUND})},
    )
    async def device(device_id: str) -> dict[str, Any]:
        """Revoked ones stay readable."""
        return _shown(await registry.device(device_id), device_id, registry, catalogue)


def _add_changes(router: APIRouter, registry: Registry, catalogue: Catalogue) -> None:
    @router.patch(
        "/devices/{device_id}",
        tags=["devices"],
        summary="Change a device's endpoint, settings, site, gateway or concentrator",
        response_model=DeviceBody,
        response_model_exclude_unset=True,
        responses={
            200: _example("As it is now", _DEVICE),
            **problem_responses(
                {
                    404: _NOT_FOUND,
                    409: _REVOKED,
                    422: _ENDPOINT,
                }
            ),
        },
    )
    async def change(
        device_id: str, body: Annotated[ChangeRequest, Body(examples=[{"settings": {"mount.height": 255}}])]
    ) -> dict[str, Any]:
        """The gateway learns it within a second. What was measured before stays as it was stored.

        What a device's old gateway received before it was moved is still taken from it. Downlinks stay with the gateway
        they were given to.
        """
        outcome = await registry.change(device_id, body.change())
        if isinstance(outcome, Refusal):
            raise refused(outcome)
        return _shown(outcome, device_id, registry, catalogue)

    @router.post(
        "/devices/{device_id}/revoke",
        tags=["devices"],
        summary="Take a device out of use for good",
        response_model=DeviceBody,
        response_model_exclude_unset=True,
        responses={
            200: _example(
                "Revoked", {**_DEVICE, "credential": None, "revoked": "2026-11-21T08:00:00.000Z", "version": 2}
            ),
            **problem_responses({404: _NOT_FOUND}),
        },
    )
    async def revoke(device_id: str) -> dict[str, Any]:
        """Its credentials end with it, and the devices that it spoke for have no concentrator any more. Doing it again
        changes nothing."""
        return _shown(await registry.revoke(device_id), device_id, registry, catalogue)


def _add_credentials(router: APIRouter, registry: Registry, catalogue: Catalogue) -> None:
    @router.post(
        "/devices/{device_id}/credential",
        tags=["devices"],
        status_code=201,
        summary="Replace a device's credential",
        response_model=NewDeviceBody,
        response_model_exclude_unset=True,
        responses={
            201: _example("Replaced; the secret is shown this once", _FRESH),
            **problem_responses({404: _NOT_FOUND, 409: _REVOKED, 422: _KIND}),
        },
    )
    async def renew(
        device_id: str, body: Annotated[CredentialRequest, Body(examples=[{"kind": "oscore"}])]
    ) -> dict[str, Any]:
        """The old one is revoked with this answer; the gateway ends what was opened with it within a second."""
        outcome = await registry.renew(device_id, body.wanted())
        if outcome is None:
            raise Problem(404, "not_found", f"there is no device {device_id!r}")
        if isinstance(outcome, Refusal):
            raise refused(outcome)
        return new_device_body(outcome, catalogue.get(outcome.device.profile))


def _add_profiles(router: APIRouter, catalogue: Catalogue) -> None:
    @router.get(
        "/profiles", tags=["profiles"], summary="List the profiles devices can have", response_model=Page[ProfileBody]
    )
    async def profiles() -> dict[str, Any]:
        """All of them, on one page."""
        return {"items": [profile_body(profile) for profile in catalogue], "next": None}


def _shown(device: Device | None, device_id: str, registry: Registry, catalogue: Catalogue) -> dict[str, Any]:
    if device is None:
        raise Problem(404, "not_found", f"there is no device {device_id!r}")
    return _body(device, registry, catalogue)


def _body(device: Device, registry: Registry, catalogue: Catalogue) -> dict[str, Any]:
    return device_body(device, catalogue.get(device.profile), in_force=registry.in_force(device))


def refused(refusal: Refusal) -> Problem:
    """The answer to a request that the registry says no to."""
    first = refusal.faults[0]
    status = 409 if first.reason in CONFLICTS else 422
    errors = [{"field": fault.field, "message": fault.text} for fault in refusal.faults]
    return Problem(status, first.reason.value, first.text, errors=errors)


def _example(description: str, body: object) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": body}}}
