"""The whole file: head, settings, options, messages, simulation, vectors.

Owns the top level and the choice of a message's shape by its codec.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, FiniteFloat, StringConstraints, Tag, model_validator

from citysense_profiles.format.binary import BinaryCodec, BinaryWhen, Item, Part, TlvCodec
from citysense_profiles.format.documents import (
    DocumentCodec,
    EpcCodec,
    JsonPart,
    JsonWhen,
    NativeCodec,
    SenmlCodec,
    SenmlField,
)
from citysense_profiles.format.meaning import Duration, FieldName, Name, Scalar, SettingName, Strict
from citysense_profiles.format.registers import ModbusCodec, ModbusField
from citysense_profiles.format.vector import VectorEntry

ProfileKind = Literal[
    "waterlogging_gauge", "rain_gauge", "door_lock", "door_sensor", "charging_pile", "tag_reader", "energy_meter",
    "parking_sensor", "smoke_detector", "radio_module",
]  # fmt: skip


class MessageHead(Strict):
    """What all messages share. `direction: down` is a command or a setting that is sent to the device."""

    direction: Literal["up", "down"] = "up"
    event: str | None = None
    title: str | None = None
    title_zh: str | None = None
    note: str | None = None


class NativeMessage(MessageHead):
    """`metrics` lists what the device may send."""

    codec: NativeCodec
    metrics: Annotated[list[str], Field(min_length=1)]


class BinaryMessage(MessageHead):
    """Bytes in order."""

    codec: BinaryCodec
    when: BinaryWhen = BinaryWhen()
    fields: Annotated[list[Part], Field(min_length=1)]


class TlvMessage(MessageHead):
    """Items in any order."""

    codec: TlvCodec
    when: BinaryWhen = BinaryWhen()
    items: Annotated[list[Item], Field(min_length=1)]


class DocumentMessage(MessageHead):
    """Fields at pointers, in JSON or CBOR."""

    codec: DocumentCodec
    when: JsonWhen = JsonWhen()
    fields: Annotated[list[JsonPart], Field(min_length=1)]


class SenmlMessage(MessageHead):
    """Fields by record name."""

    codec: SenmlCodec
    fields: Annotated[list[SenmlField], Field(min_length=1)]


class EpcMessage(MessageHead):
    """The bytes of an EPC; the fields are the standard's own."""

    codec: EpcCodec


class ModbusMessage(MessageHead):
    """Fields by table and address."""

    codec: ModbusCodec
    fields: Annotated[list[ModbusField], Field(min_length=1)]


def _codec_type(message: Any) -> str | None:
    codec = message.get("codec") if isinstance(message, dict) else getattr(message, "codec", None)
    kind = codec.get("type") if isinstance(codec, dict) else getattr(codec, "type", None)
    if kind in ("json", "cbor"):
        return "document"
    return kind if isinstance(kind, str) else None


Message = Annotated[
    Annotated[NativeMessage, Tag("native")]
    | Annotated[BinaryMessage, Tag("binary")]
    | Annotated[TlvMessage, Tag("tlv")]
    | Annotated[DocumentMessage, Tag("document")]
    | Annotated[SenmlMessage, Tag("senml")]
    | Annotated[EpcMessage, Tag("epc")]
    | Annotated[ModbusMessage, Tag("modbus")],
    Discriminator(
        _codec_type,
        custom_error_type="codec",
        custom_error_message="codec.type must be one of native, binary, tlv, json, cbor, senml, epc, modbus",
    ),
]
MESSAGE_TAGS = frozenset({"native", "binary", "tlv", "document", "senml", "epc", "modbus"})
"""What pydantic puts into the place of an error, and no author wrote."""


class SettingEntry(Strict):
    """A number that an installer enters for one device."""

    title: str
    title_zh: str | None = None
    unit: str
    default: FiniteFloat | None = None
    required: bool = False
    range: tuple[FiniteFloat, FiniteFloat] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> SettingEntry:
        if self.range is not None and not self.range[0] <= self.range[1]:
            raise ValueError("range is [lowest, highest]")
        return self


class OptionEntry(Strict):
    """A choice between variants of one product: where sources disagree, or where one file serves several connectors.

    Any value in `messages` may be written {option: name} (the choice itself) or {option: name, is: {choice: value}}.
    """

    title: str
    title_zh: str | None = None
    source: str | None = None
    default: str | int
    choices: Annotated[dict[str | int, str], Field(min_length=2, max_length=32)]
    choices_zh: dict[str | int, str] = {}

    @model_validator(mode="after")
    def _same_choices(self) -> OptionEntry:
        if self.default not in self.choices:
            raise ValueError(
                f"default {self.default!r} is not one of the choices ({', '.join(map(str, self.choices))})"
            )
        if self.choices_zh and self.choices_zh.keys() != self.choices.keys():
            raise ValueError("choices_zh has the same choices as choices, with their text in Chinese")
        return self


class DeriveEntry(Strict):
    """metric = setting - minus, where the device's setting is known and the frame does not carry the metric itself."""

    metric: str
    setting: str
    minus: str


class Product(Strict):
    """Which product this is, and where its wire format is described."""

    vendor: str
    model: str
    firmware: str = "any"
    source: Annotated[str, StringConstraints(min_length=1)]
    level: Literal["vendor", "third_party", "inferred"] = "vendor"
    """How sure the description is: the maker's or an official document, somebody's working code, or inferred."""


class Caveat(Strict):
    """Something that surprises in the field, in English and Chinese."""

    text: str
    zh: str | None = None
    source: str | None = None


class MqttTransport(Strict):
    """Topics of the vendor's own; {device} is one whole segment."""

    topics: list[Annotated[str, StringConstraints(pattern=r"^[^+#]+$")]] = []

    @model_validator(mode="after")
    def _device_is_a_segment(self) -> MqttTransport:
        for topic in self.topics:
            if topic.split("/").count("{device}") != 1 or topic.count("{") != 1:
                raise ValueError(f"topic {topic!r} must hold {{device}} once, as one whole segment")
        return self


class Transport(Strict):
    """The ways in. Native topics and paths work for mqtt and coap without being named."""

    mqtt: MqttTransport | None = None
    coap: Strict | None = None
    modbus: Strict | None = None


class Walk(Strict):
    """Wanders between two values by at most `step` per report."""

    start: Annotated[FiniteFloat, Field(alias="from")]
    to: FiniteFloat
    step: Annotated[FiniteFloat, Field(gt=0)]


class Drain(Strict):
    """Falls (or rises, if negative) steadily from a value."""

    start: Annotated[FiniteFloat, Field(alias="from")]
    per_day: FiniteFloat


class Behaviour(Strict):
    """How a field of a simulated device moves; exactly one of the keys. Names are field names of an upward message."""

    walk: Walk | None = None
    drain: Drain | None = None
    cycle: list[Scalar] | None = None
    constant: Scalar | None = None

    @model_validator(mode="after")
    def _one(self) -> Behaviour:
        if len(self.model_fields_set) != 1:
            raise ValueError("a behaviour is exactly one of walk, drain, cycle, constant")
        return self


class ProfileFile(Strict):
    """A whole profile file."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_][a-z0-9_-]*/[a-z0-9][a-z0-9_.-]*$")]
    kind: ProfileKind
    title: str
    title_zh: str | None = None
    product: Product
    caveats: list[Caveat] = []
    transport: Transport
    report_every: Duration
    offline_after: Duration | None = None
    settings: dict[SettingName, SettingEntry] = {}
    options: dict[SettingName, OptionEntry] = {}
    derive: list[DeriveEntry] = []
    messages: Annotated[dict[Name, Message], Field(min_length=1)]
    sim: dict[FieldName, Behaviour] = {}
    vectors: list[VectorEntry]

    @model_validator(mode="after")
    def _names_are_free(self) -> ProfileFile:
        both = self.settings.keys() & self.options.keys()
        if both:
            raise ValueError(f"{', '.join(sorted(both))} is a setting and an option; name one of them otherwise")
        return self
