"""What a message is, in a phrase: its direction, its format, and what tells it from others.

Owns those phrases; the fields of a message are `outline`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from citysense_profiles.format.binary import BinaryWhen
from citysense_profiles.format.documents import JsonWhen
from citysense_profiles.format.profile_file import (
    BinaryMessage,
    DocumentMessage,
    EpcMessage,
    Message,
    ModbusMessage,
    NativeMessage,
    SenmlMessage,
    TlvMessage,
)
from citysense_profiles.sheet.labels import Labels
from citysense_profiles.sheet.outline import only
from citysense_profiles.sheet.values import duration, scalar


def direction(entry: Message, labels: Labels) -> str:
    """From the device, polled, or to the device."""
    if entry.direction == "down":
        return labels("direction.down")
    return labels("direction.polled" if isinstance(entry, ModbusMessage) else "direction.up")


def title(entry: Message, labels: Labels) -> str:
    """The message's title; empty where it has none."""
    return labels.text(entry.title, entry.title_zh) if entry.title is not None else ""


def form(entry: Message, labels: Labels) -> str:
    """Bytes, high byte first."""
    match entry:
        case NativeMessage():
            return labels("native")
        case BinaryMessage():
            said = [labels("binary", order=labels(entry.codec.byte_order))]
            said += [labels("hex_text")] if entry.codec.wrap else []
            return labels.join(said)
        case TlvMessage():
            return labels.join(_tlv(entry, labels))
        case DocumentMessage():
            return labels(entry.codec.type)
        case SenmlMessage():
            return labels("senml")
        case EpcMessage():
            return labels("epc")
        case ModbusMessage():
            return labels("registers")


def _tlv(entry: TlvMessage, labels: Labels) -> list[str]:
    codec = entry.codec
    said = [labels("tlv", order=labels(codec.byte_order))]
    if codec.length is not None:
        said.append(labels("items.length", type=codec.length))
    if codec.unknown == "skip":
        said.append(labels("items.skip"))
    if codec.significant is not None:
        said.append(labels("items.masked", bytes=labels.join([str(at) for at in codec.significant])))
    return said


def recognised(entry: Message, labels: Labels) -> str:
    """What tells the message from others where the channel does not name it; empty where nothing does."""
    when = getattr(entry, "when", None)
    said: list[str] = []
    if isinstance(when, BinaryWhen):
        if when.length is not None:
            said.append(labels("when.length", length=_any(when.length, labels)))
        if when.shortest is not None:
            said.append(labels("when.shortest", length=when.shortest))
        for match in when.match:
            wanted = match.equals if isinstance(match.equals, list) else [match.equals]
            values = labels.join([f"0x{value:02X}" for value in wanted], "or")
            said.append(labels("when.byte", at=match.at, value=values))
    if isinstance(when, JsonWhen):
        for rule in when.match:
            wanted_values = rule.equals if isinstance(rule.equals, list) else [rule.equals]
            values = labels.join([scalar(value) for value in wanted_values], "or")
            said.append(labels("when.value", pointer=f"`{rule.pointer}`", value=values))
        said += [labels("when.present", pointer=f"`{pointer}`") for pointer in when.present]
    port = getattr(when, "port", None)
    if port is not None:
        said.append(labels("when.port", port=_any(port, labels)))
    return labels.join(said)


def _any(numbers: int | Sequence[int], labels: Labels) -> str:
    return str(numbers) if isinstance(numbers, int) else labels.join([str(number) for number in numbers], "or")


def remarks(entry: Message, labels: Labels) -> list[str]:
    """What else is to be said of a message before its fields."""
    said: list[str] = []
    if isinstance(entry, DocumentMessage):
        if entry.codec.each is not None:
            said.append(labels("each.top"))
        if entry.codec.only is not None:
            said.append(only(entry.codec.only, labels))
    if isinstance(entry, SenmlMessage) and entry.codec.base_names:
        said.append(labels("base_names", names=labels.join([f"`{name}`" for name in entry.codec.base_names])))
    if isinstance(entry, ModbusMessage):
        said.append(labels.join(_modbus(entry, labels), "semicolon"))
    if entry.event is not None:
        said.append(labels("event", event=f"`{entry.event}`"))
    return said


def _modbus(entry: ModbusMessage, labels: Labels) -> list[str]:
    codec = entry.codec
    said = [labels("unit_id", unit=codec.unit), labels(codec.word_order)]
    if codec.shift:
        said.append(labels("shift", shift=f"{codec.shift:+d}"))
    if codec.one_value and entry.direction == "up":
        said.append(labels("one_value"))
    if codec.write == "many" and entry.direction == "down":
        said.append(labels("write_many"))
    if codec.resend_every is not None:
        said.append(labels("resend", duration=duration(codec.resend_every)))
    return said
