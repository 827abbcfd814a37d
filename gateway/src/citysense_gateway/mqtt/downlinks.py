"""What a session's connection sends to its device: which message is due, and as which packet.

Owns topics, limits and expiry of downlinks on the wire. Pure functions over a session and the terms of its connection;
the mailbox is asked by `postman`.
"""

from __future__ import annotations

from collections.abc import Sequence

from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.connecting import Terms
from citysense_gateway.mqtt.packets import encode_publish
from citysense_gateway.mqtt.session import Session
from citysense_gateway.mqtt.topics import down_topic


def next_mail(session: Session, terms: Terms, waiting: Sequence[Mail]) -> Mail | None:
    """What of `waiting` is to be sent next; None for nothing, or nothing at this moment."""
    wanted = [mail for mail in waiting if _qos(session, mail) is not None]
    return session.outgoing.next_mail(wanted, terms.max_downlinks)


def packet_for(session: Session, terms: Terms, mail: Mail, now_ms: int) -> bytes | None:
    """The packet that carries `mail`, noted as sent; None where it is not to be sent: its time is over, the device does not
    want it any more, or it can never take it, which is noted too."""
    qos = _qos(session, mail)
    if qos is None or mail.expires <= now_ms:
        return None
    topic = _topic(session, mail)
    # What is left of a message's life, at least a second: 0 would be none (MQTT 5.0 section 3.3.2.3.3).
    expiry = max(1, (mail.expires - now_ms) // 1000)
    size = len(encode_publish(terms.version, topic, mail.payload, packet_id=1 if qos else None, expiry=expiry))
    if terms.max_packet is not None and size > terms.max_packet:
        # MQTT-3.1.2-25 has a server act as if it had sent it; the mailbox has to know better.
        session.outgoing.refuse(mail, f"a packet of {size} bytes, and the device takes {terms.max_packet} at most")
        return None
    sending = session.outgoing.send(mail, qos)
    return encode_publish(
        terms.version, topic, mail.payload, packet_id=sending.packet_id, dup=sending.dup, expiry=expiry
    )


def _qos(session: Session, mail: Mail) -> int | None:
    return session.wants(_topic(session, mail))


def _topic(session: Session, mail: Mail) -> str:
    return down_topic(mail.device, mail.message, "" if mail.device == session.device else session.device)
