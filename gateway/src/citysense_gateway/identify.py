"""Who sent a frame.

The channel says it: a device is who its credential says. A payload's own id, where the profile marks one and a serial
is registered, must agree with it. Pure; owns no state.
"""

from __future__ import annotations

from dataclasses import dataclass

from citysense_gateway.devices import Device, Devices
from citysense_gateway.frame import Frame, Reason
from citysense_profiles.reading import Decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a frame is not used, in a stable word and in a sentence for a person."""

    reason: Reason
    detail: str


def identify(frame: Frame, devices: Devices) -> Device | Rejection:
    """The device that the frame's channel speaks for."""
    if frame.device is None:
        return Rejection(
            reason=Reason.UNKNOWN_DEVICE, detail="the channel names no device; register the device that sends here"
        )
    device = devices.get(frame.device)
    if device is None:
        return Rejection(
            reason=Reason.UNKNOWN_DEVICE,
            detail=f"{frame.device} is not registered at this gateway, is revoked, or has a profile it does not know",
        )
    if frame.via is not None and device.concentrator != frame.via:
        return Rejection(
            reason=Reason.FOREIGN_TOPIC,
            detail=f"{frame.via} may not speak for {device.id}; register the device with that concentrator",
        )
    return device


def contradiction(device: Device, decoded: Decoded) -> Rejection | None:
    """A rejection when the payload names another device than the channel. Case of letters does not matter: a serial is
    printed on a label in one case and sent in another."""
    if decoded.serial is None or device.serial is None:
        return None
    if decoded.serial.casefold() == device.serial.casefold():
        return None
    return Rejection(
        reason=Reason.IDENTITY_MISMATCH,
        detail=f"the payload's serial is not the one registered for {device.id}; correct the serial, or find the sender",
    )
