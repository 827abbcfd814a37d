"""What a CONNECT that proved its device is answered: refusals, and the terms on which the connection is served.

Owns the negotiation of MQTT 5.0 sections 3.1.2.11 and 3.2.2. Pure functions; who the device is was decided before
(`credentials`), and which session it gets is decided after (`sessions`).
"""

from __future__ import annotations

from typing import NamedTuple

from citysense_gateway.mqtt.limits import MqttSettings
from citysense_gateway.mqtt.packets import Connect, Version, encode_connack
from citysense_gateway.mqtt.properties import Properties, Property, number_of


class Terms(NamedTuple):
    """On what both sides of a connection have agreed. `keep_alive` and `expiry` (of the session) in seconds, 0 for none;
    `max_packet` is the largest that the client takes, in bytes, `max_downlinks` how many it takes unconfirmed. `explain`:
    reason strings are welcome."""

    version: Version = Version.V3_1_1
    keep_alive: int = 0
    expiry: int = 0
    max_packet: int | None = None
    max_downlinks: int = 0
    explain: bool = True

    def fits(self, packet: bytes) -> bool:
        """True if the client takes a packet of that size."""
        return self.max_packet is None or len(packet) <= self.max_packet


def terms_of(packet: Connect, settings: MqttSettings) -> Terms:
    """The terms that a CONNECT asks for, within our bounds."""
    if packet.version is Version.V3_1_1:
        return Terms(
            keep_alive=packet.keep_alive,
            # A client of 3.1.1 that keeps its session cannot say how long.
            expiry=0 if packet.clean_start else settings.max_session_expiry,
            max_downlinks=settings.max_downlinks,
        )
    given = packet.properties
    return Terms(
        version=packet.version,
        keep_alive=min(packet.keep_alive or settings.max_keep_alive, settings.max_keep_alive),
        expiry=min(number_of(given, Property.SESSION_EXPIRY) or 0, settings.max_session_expiry),
        max_packet=number_of(given, Property.MAXIMUM_PACKET_SIZE),
        max_downlinks=min(number_of(given, Property.RECEIVE_MAXIMUM) or settings.max_downlinks, settings.max_downlinks),
        explain=given.get(Property.REQUEST_PROBLEM_INFORMATION) != 0,
    )


def refusal_code(packet: Connect, settings: MqttSettings) -> int | None:
    """Code of the CONNACK that refuses what we do not serve; None when all is well."""
    v5 = packet.version is Version.V5
    if len(packet.client_id) > settings.max_client_id:
        return 0x85 if v5 else 2
    if not v5:
        # MQTT-3.1.3-8 of MQTT 3.1.1: a session that is kept needs a name.
        return 2 if not packet.client_id and not packet.clean_start else None
    if Property.AUTHENTICATION_METHOD in packet.properties or Property.AUTHENTICATION_DATA in packet.properties:
        return 0x8C
    if packet.will and packet.will.retain:
        # MQTT-3.2.2-13. MQTT 3.1.1 cannot be told; there the flag is not looked at, for nothing is ever retained.
        return 0x9A
    return None


def later(terms: Terms, wait: int) -> bytes:
    """CONNACK that asks a device to come back in `wait` seconds.

    0x9F (connection rate exceeded) and not 0x97 (quota exceeded) or 0x89 (server busy): it is the rate of connecting that
    is bounded, whoever connects, and it passes by itself. Of the codes of 3.1.1, 3 (server unavailable) is the one that
    does not make a client doubt its name or password.
    """
    if terms.version is Version.V3_1_1:
        return encode_connack(terms.version, 3)
    told = encode_connack(
        terms.version,
        0x9F,
        properties={Property.REASON_STRING: f"many devices connect at this moment; come back in {wait} s"},
        pairs=(("retry-after", str(wait)),),
    )
    return told if terms.fits(told) else encode_connack(terms.version, 0x9F)


def offer(packet: Connect, terms: Terms, client_id: str, settings: MqttSettings) -> Properties:
    """What CONNACK says about us. Topic aliases are not offered and QoS 2 is, which are the defaults when left out."""
    offered: dict[Property, int | str | bytes] = {
        Property.RECEIVE_MAXIMUM: settings.receive_maximum,
        Property.RETAIN_AVAILABLE: 0,
        Property.MAXIMUM_PACKET_SIZE: settings.max_packet,
        Property.SUBSCRIPTION_ID_AVAILABLE: 0,
        Property.SHARED_AVAILABLE: 0,
    }
    if terms.expiry != (number_of(packet.properties, Property.SESSION_EXPIRY) or 0):
        offered[Property.SESSION_EXPIRY] = terms.expiry
    if terms.keep_alive != packet.keep_alive:
        offered[Property.SERVER_KEEP_ALIVE] = terms.keep_alive
    if not packet.client_id:
        offered[Property.ASSIGNED_CLIENT_ID] = client_id
    return offered
