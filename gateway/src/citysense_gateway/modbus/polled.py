"""What is polled and written, as the driver is told it, and what the driver counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from citysense_gateway.devices import Device, Devices
from citysense_gateway.mail import Mail
from citysense_profiles import Read, Write
from citysense_profiles.codecs.field import Outgoing, by_name
from citysense_profiles.errors import EncodeError, RefusedError


@dataclass(frozen=True, slots=True, kw_only=True)
class PolledDevice:
    """A register map of a device: the reads of `plan`, every `every` seconds, as one frame.

    A device with several maps stands once for each of them, with the same endpoint. `message` names the profile's
    message; None means its first map.
    """

    id: str
    endpoint: str
    plan: tuple[Read, ...]
    every: float
    message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePlan:
    """The requests that tell a device something, in their order; `resend_every` in seconds where it must hear it again
    and again."""

    writes: tuple[Write, ...]
    resend_every: float | None


WritePlanner = Callable[[Mail], WritePlan | None]
"""What a mail means on the line; None where its device is not served any more. Raises EncodeError where the profile
cannot say it."""


@dataclass(slots=True, kw_only=True)
class ModbusCounters:
    """`devices`, `failing` and `unserved` are now; the others are totals since start."""

    devices: int = 0
    """All that were set, also failing and unserved ones."""
    failing: int = 0
    """Devices whose last poll failed."""
    unserved: int = 0
    """Devices that are not polled at all: their endpoint, period or profile is wrong."""
    polls: int = 0
    """Polls that were answered or failed."""
    failures: int = 0
    """Requests without a reply that can be trusted, and connections that did not open."""
    refused_reads: int = 0
    """Reads that a device answered with an exception."""
    unstored: int = 0
    """Polls whose frame could not be stored."""
    resyncs: int = 0
    """Reads that only proved a slave to be in step."""
    written: int = 0
    """Messages that devices confirmed, without repeats."""
    refused_writes: int = 0
    """Messages that a device or its profile refused."""


def polled_maps(device: Device) -> tuple[PolledDevice, ...]:
    """All register maps of a device that are sent upward; none where it has no endpoint.

    A profile says one pace for the device; each map has it.
    """
    if device.endpoint is None:
        return ()
    profile = device.profile
    maps = [
        PolledDevice(
            id=device.id,
            endpoint=device.endpoint,
            plan=profile.plan_reads(name),
            every=profile.report_every,
            message=name,
        )
        for name in profile.messages
        if not profile.is_sent(name) and profile.file.messages[name].direction == "up"
    ]
    if maps:
        return tuple(maps)
    # Kept, so that it is counted and told as a device that cannot be served.
    return (PolledDevice(id=device.id, endpoint=device.endpoint, plan=(), every=profile.report_every, message=None),)


def planner_for(devices: Devices) -> WritePlanner:
    """Plans with the profiles of the devices that are served at that moment."""

    def plan(mail: Mail) -> WritePlan | None:
        device = devices.get(mail.device)
        if device is None:
            return None
        values = _names(device, mail)
        writes = device.profile.plan_writes(mail.message, values, settings=device.settings)
        return WritePlan(writes=writes, resend_every=device.profile.resend_every(mail.message))

    return plan


def _names(device: Device, mail: Mail) -> dict[str, Any]:
    """The mail's values by the names of the message's fields.

    They come by metric in the vocabulary's units. What is no metric of the message, such as a mode that only this
    product has, goes by its name as it is. Raises EncodeError.
    """
    profile = device.profile
    if mail.message not in profile.messages:
        raise EncodeError("devices of this profile take no such message", profile=profile.id, message=mail.message)
    metrics = profile.message_metrics(mail.message)
    said = Outgoing(values={name: value for name, value in mail.values.items() if name in metrics})
    try:
        named = by_name(said, profile.fields(mail.message))
    except RefusedError as error:
        raise EncodeError(str(error), profile=profile.id, message=mail.message) from error
    return named | {name: value for name, value in mail.values.items() if name not in metrics}
