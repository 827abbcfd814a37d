"""What a CONNECT leads to: a session, a refusal, or a trace of somebody who is not who they say.

Owns the order of the questions: who it is, whether that is served here, whether now is a good time, whether the will is
the device's own, whether the client takes our terms. Changes nothing; the conversation carries the answer out.
"""

from __future__ import annotations

from typing import NamedTuple

from citysense_gateway.frame import Reason
from citysense_gateway.mqtt.actions import CloseReason, Delivery
from citysense_gateway.mqtt.connecting import Terms, later, offer, refusal_code
from citysense_gateway.mqtt.credentials import Certificate, Refused, device_of
from citysense_gateway.mqtt.frames import refused_frame, stranger_frame
from citysense_gateway.mqtt.packets import Connect, Version, encode_connack
from citysense_gateway.mqtt.properties import Properties
from citysense_gateway.mqtt.surroundings import Surroundings
from citysense_gateway.mqtt.topics import origin_of

_TOO_LARGE = 0x95


class Impostor(NamedTuple):
    """CONNACK says no after the verdict on `trace`: who guesses passwords is no faster than our commits. `proven`: the
    credential was right, and what was asked for with it was not."""

    trace: Delivery
    proven: bool


class TurnedAway(NamedTuple):
    """A device that is not served, or not now. `told` is its CONNACK, empty where it can take none."""

    told: bytes
    reason: CloseReason


class Welcome(NamedTuple):
    """`device` gets a session under `client_id`, and a CONNACK with `properties`."""

    device: str
    client_id: str
    properties: Properties


def greet(
    packet: Connect,
    terms: Terms,
    *,
    certificate: Certificate | None,
    around: Surroundings,
    source: str,
    now_ms: int,
) -> Impostor | TurnedAway | Welcome:
    """Decide on a CONNECT from the peer `source`, received at `now_ms`, on the `terms` that it asks for."""
    device = device_of(packet, certificate, around.check_password, around.check_certificate)
    if isinstance(device, Refused):
        stranger = stranger_frame(device.device, source=source, now_ms=now_ms)
        return Impostor(Delivery(stranger, reason=device.reason, detail=device.detail), proven=False)
    refusal = refusal_code(packet, around.settings)
    if refusal is not None:
        return TurnedAway(encode_connack(terms.version, refusal), CloseReason.CONNECT_REFUSED)
    wait = around.admit(packet.version is Version.V5)
    if wait is not None:
        return TurnedAway(later(terms, wait), CloseReason.BUSY)
    will = packet.will
    if will and origin_of(device, will.topic, around.topic_rights, around.speaks_for) is None:
        frame = refused_frame(device, will.topic, will.payload, source=source, now_ms=now_ms)
        detail = "the will's topic is not the device's own"
        return Impostor(Delivery(frame, reason=Reason.FOREIGN_TOPIC, detail=detail), proven=True)
    client_id = packet.client_id or around.new_client_id()
    properties = offer(packet, terms, client_id, around.settings)
    if not terms.fits(encode_connack(terms.version, 0, properties=properties)):
        # MQTT-3.1.2-24: a client that cannot even take our terms cannot be served.
        told = encode_connack(terms.version, _TOO_LARGE)
        return TurnedAway(told if terms.fits(told) else b"", CloseReason.CONNECT_REFUSED)
    return Welcome(device, client_id, properties)
