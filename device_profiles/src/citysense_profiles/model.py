"""The profile file as its author writes it: every key that may stand there, and nothing else.

Owns the shape of the YAML and the checks that need one file only. It computes nothing: `compiler.py` turns it into
decoders, resolves metrics and units, and refuses combinations that mean nothing.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

ProfileKind = Literal["waterlogging_gauge", "door_lock", "charging_pile", "tag_reader", "energy_meter"]
Role = Literal["time", "tag", "serial", "boot", "seq"]
TimeForm = Literal["unix_s", "unix_ms", "rfc3339"]
ByteOrder = Literal["big", "little"]
Table = Literal["coil", "discrete", "input", "holding"]
RegisterType = Literal["bit", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64"]

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|min|h|d)$")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(written: Any) -> float:
    match = _DURATION.match(written) if isinstance(written, str) else None
    if match is None:
        raise ValueError("a duration carries its unit: 500ms, 30s, 5min, 1h, 1d")
    return float(match[1]) * _SECONDS[match[2]]


def _hex(written: Any) -> bytes:
    if not isinstance(written, str):
        raise ValueError('hex digits stand in quotes: "01 75"')
    try:
        return bytes.fromhex(written)
    except ValueError:
        raise ValueError("not pairs of hex digits") from None


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
HexBytes = Annotated[bytes, BeforeValidator(_hex)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Scalar = bool | int | float | str


class Strict(BaseModel):
    """Unknown keys are refused: a misspelt key is a mistake, not an extra."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Meaning(Strict):
    """What a field says, whichever way it is carried: a metric, or a role in the message.

    value = raw * scale + offset in `unit`; `map` gives raw codes their value, `invalid` lists raw "no value" marks,
    `default` (a value) is encoded where the caller gives none.
    """

    name: Name | None = None
    metric: str | None = None
    role: Role | None = None
    form: TimeForm | None = None
    unit: str | None = None
    scale: Decimal = Decimal(1)
    offset: Decimal = Decimal(0)
    map: dict[Scalar, Scalar] | None = None
    invalid: list[Scalar] = []
    default: Scalar | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _role_or_metric(self) -> Meaning:
        if self.metric is not None and self.role is not None:
            raise ValueError("a field has a metric or a role, not both")
        if (self.role == "time") != (self.form is not None):
            raise ValueError("role: time needs form: unix_s, unix_ms or rfc3339; nothing else has a form")
        return self


class BitField(Meaning):
    """Some bits of a number: `bit` counts from the least significant, 0."""

    bit: Annotated[int, Field(ge=0, le=63)]
    width: Annotated[int, Field(ge=1, le=64)] = 1


class Checksum(Strict):
    """Covers the bytes from `from` up to this field; its byte order is the field's."""

    kind: Literal["crc16_modbus"]
    start: Annotated[int, Field(ge=0, alias="from")]


class BinaryField(Meaning):
    """The next bytes of a frame. Exactly one of: metric, role, const, skip, bits, checksum."""

    type: str | None = None
    length: Annotated[int, Field(ge=1, le=256)] | None = None
    byte_order: ByteOrder | None = None
    const: int | None = None
    skip: Annotated[int, Field(ge=1, le=256)] | None = None
    fill: HexBytes | None = None
    bits: list[BitField] | None = None
    checksum: Checksum | None = None

    @model_validator(mode="after")
    def _one_purpose(self) -> BinaryField:
        purposes = [self.metric, self.role, self.const, self.skip, self.bits, self.checksum]
        if sum(purpose is not None for purpose in purposes) != 1:
            raise ValueError("a field is exactly one of: metric, role, const, skip, bits, checksum")
        if (self.type is None) != (self.skip is not None):
            raise ValueError("every field but skip needs a type")
        if self.fill is not None and len(self.fill) != self.skip:
            raise ValueError("fill is for skip and has as many bytes")
        return self


class Match(Strict):
    """A byte that tells this message from others: `at` counts from 0."""

    at: Annotated[int, Field(ge=0)]
    equals: Annotated[int, Field(ge=0, le=255)]


class BinaryWhen(Strict):
    """When a frame is this message. The length follows from the fields; written out, it must agree."""

    length: int | None = None
    match: list[Match] = []


class TlvItem(Strict):
    """One kind of item: the bytes that announce it and the fields of its value."""

    tag: HexBytes
    fields: list[BinaryField]


class JsonOnly(Strict):
    """Items whose value at `pointer` is another are skipped without error."""

    pointer: str
    equals: str | int


class JsonField(Meaning):
    """A value at a JSON pointer inside an item. Absent is allowed unless `required`."""

    pointer: str
    type: Literal["int", "number", "bool", "text", "hex", "base64url"]
    required: bool = False


class SenmlField(Meaning):
    """A SenML record: its name without the device's base name, and the kind of value it carries.

    `units`: what `u` may be where a record names its unit; empty: anything.
    """

    senml: str
    value: Literal["v", "vb", "vs"]
    units: list[str] = []


class ModbusField(Meaning):
    """A register or bit. `address` is the zero-based number on the wire."""

    table: Table
    address: Annotated[int, Field(ge=0, le=65535)]
    type: RegisterType
    word_order: Literal["high_first", "low_first"] | None = None
    bits: list[BitField] | None = None

    @model_validator(mode="after")
    def _one_purpose(self) -> ModbusField:
        if (self.metric is not None) == (self.bits is not None):
            raise ValueError("a register field has a metric or bits, one of the two")
        if self.role is not None:
            raise ValueError("registers carry metrics; roles are for messages")
        if (self.type == "bit") != (self.table in ("coil", "discrete")):
            raise ValueError("coil and discrete hold type bit; input and holding hold numbers")
        return self


class NativeCodec(Strict):
    """Our own format, JSON or CBOR."""

    type: Literal["native"]


class BinaryCodec(Strict):
    """Fixed layouts of bytes."""

    type: Literal["binary"]
    byte_order: ByteOrder = "big"


class TlvCodec(Strict):
    """Items announced by a tag, each of known length."""

    type: Literal["tlv"]
    byte_order: ByteOrder = "little"


class JsonCodec(Strict):
    """A JSON object, or a list of them at `each` ("" is the whole document)."""

    type: Literal["json"]
    each: str | None = None
    only: JsonOnly | None = None


class SenmlCodec(Strict):
    """SenML, JSON or CBOR. `base_names` hold {serial} where the pack names its sender; the first is the one we write."""

    type: Literal["senml"]
    base_names: list[Annotated[str, StringConstraints(pattern=r"^[^{}]*\{serial\}[^{}]+$")]] = []


class ModbusCodec(Strict):
    """A register map that we poll. Reads are merged across gaps of up to `max_gap` registers."""

    type: Literal["modbus"]
    word_order: Literal["high_first", "low_first"] = "high_first"
    max_gap: Annotated[int, Field(ge=0, le=120)] = 0
    max_count: Annotated[int, Field(ge=1, le=125)] = 125


class _Message(Strict):
    direction: Literal["up", "down"] = "up"
    event: str | None = None
    note: str | None = None


class NativeMessage(_Message):
    """`metrics` lists what the device may send."""

    codec: NativeCodec
    metrics: Annotated[list[str], Field(min_length=1)]


class BinaryMessage(_Message):
    """One fixed layout."""

    codec: BinaryCodec
    when: BinaryWhen = BinaryWhen()
    fields: Annotated[list[BinaryField], Field(min_length=1)]


class TlvMessage(_Message):
    """Items in any order, each kind at most once in a frame."""

    codec: TlvCodec
    items: Annotated[list[TlvItem], Field(min_length=1)]


class JsonMessage(_Message):
    """Fields at JSON pointers."""

    codec: JsonCodec
    fields: Annotated[list[JsonField], Field(min_length=1)]


class SenmlMessage(_Message):
    """Fields by record name."""

    codec: SenmlCodec
    fields: Annotated[list[SenmlField], Field(min_length=1)]


class ModbusMessage(_Message):
    """Fields by table and address."""

    codec: ModbusCodec
    fields: Annotated[list[ModbusField], Field(min_length=1)]


def _codec_type(message: Any) -> str | None:
    codec = message.get("codec") if isinstance(message, dict) else getattr(message, "codec", None)
    kind = codec.get("type") if isinstance(codec, dict) else getattr(codec, "type", None)
    return kind if isinstance(kind, str) else None


Message = Annotated[
    Annotated[NativeMessage, Tag("native")]
    | Annotated[BinaryMessage, Tag("binary")]
    | Annotated[TlvMessage, Tag("tlv")]
    | Annotated[JsonMessage, Tag("json")]
    | Annotated[SenmlMessage, Tag("senml")]
    | Annotated[ModbusMessage, Tag("modbus")],
    Discriminator(
        _codec_type,
        custom_error_type="codec",
        custom_error_message="codec.type must be one of native, binary, tlv, json, senml, modbus",
    ),
]
CODEC_TYPES = frozenset({"native", "binary", "tlv", "json", "senml", "modbus"})


class SettingEntry(Strict):
    """What an installer enters for one device."""

    title: str
    unit: str
    default: float | None = None
    required: bool = False
    range: tuple[float, float] | None = None


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


class Caveat(Strict):
    """Something that surprises in the field."""

    text: str
    link: str | None = None


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


class VectorSample(Strict):
    """What one sample of a vector must be; times in ms since 1970 UTC."""

    time: int | None = None
    values: dict[str, Scalar] = {}
    missing: list[str] = []
    event: str | None = None
    tag: str | None = None


class Wire(Strict):
    """A frame, written as is readable. Exactly one of the keys."""

    hex: HexBytes | None = None
    text: str | None = None
    json_: Annotated[Any, Field(alias="json")] = None
    cbor: Any = None
    registers: dict[Table, dict[int, list[Annotated[int, Field(ge=0, le=65535)]]]] | None = None

    @model_validator(mode="after")
    def _one(self) -> Wire:
        if len(self.model_fields_set) != 1:
            raise ValueError("wire is exactly one of hex, text, json, cbor, registers")
        return self


class VectorEntry(Strict):
    """A worked example: a frame and what it says, or the error it must raise.

    `canonical: false` marks a frame that says the same in another way than we would write it.
    """

    name: str
    basis: Literal["published", "computed", "recorded", "abridged"]
    source: str | None = None
    message: Name | None = None
    wire: Wire
    content: int | None = None
    settings: dict[str, float] = {}
    samples: list[VectorSample] | None = None
    boot: int | None = None
    seq: int | None = None
    base: int | None = None
    serial: str | None = None
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    canonical: bool = True
    error: str | None = None

    @model_validator(mode="after")
    def _either(self) -> VectorEntry:
        if (self.samples is None) == (self.error is None):
            raise ValueError("a vector has samples (what the frame says) or error (the code it must raise)")
        if self.samples is not None and self.message is None:
            raise ValueError("a vector with samples names its message")
        return self


class ProfileFile(Strict):
    """A whole profile file."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_][a-z0-9_-]*/[a-z0-9][a-z0-9_.-]*$")]
    kind: ProfileKind
    title: str
    product: Product
    caveats: list[Caveat] = []
    transport: Transport
    report_every: Duration
    settings: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]*$")], SettingEntry] = {}
    derive: list[DeriveEntry] = []
    messages: Annotated[dict[Name, Message], Field(min_length=1)]
    vectors: list[VectorEntry]
