"""What all conversations of a door share.

Owns the list only; each part of it has its own module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from citysense_gateway.frame import PasswordCheck
from citysense_gateway.gaps import Gaps
from citysense_gateway.mqtt.budget import Budget
from citysense_gateway.mqtt.credentials import CertificateCheck
from citysense_gateway.mqtt.limits import MqttCounters, MqttSettings
from citysense_gateway.mqtt.sessions import Sessions
from citysense_gateway.mqtt.topics import SpeaksFor, TopicRights


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """`admit` is asked for each CONNECT, with whether its sender can be told a time (MQTT 5), and says None or in how many
    seconds to come back; `new_client_id` names the nameless."""

    check_password: PasswordCheck
    check_certificate: CertificateCheck
    topic_rights: TopicRights
    speaks_for: SpeaksFor
    admit: Callable[[bool], int | None]
    new_client_id: Callable[[], str]
    sessions: Sessions
    settings: MqttSettings
    counters: MqttCounters
    gaps: Gaps
    """Told the verdicts with the times of arrival, in seconds since 1970."""
    budget: Budget
