"""Every word of a device sheet that does not come from a profile, in English and Chinese.

Owns the table of phrases and the choice between a text and its Chinese twin. It knows nothing of layouts.
"""

from __future__ import annotations

from typing import Final, Literal

Language = Literal["en", "zh"]

KINDS: Final[dict[str, tuple[str, str]]] = {
    "waterlogging_gauge": ("Waterlogging gauge", "积水监测仪"),
    "rain_gauge": ("Rain gauge", "雨量计"),
    "door_lock": ("Door lock", "门锁"),
    "door_sensor": ("Door sensor", "门磁"),
    "charging_pile": ("Charging pile", "充电桩"),
    "tag_reader": ("Tag reader", "标签读写器"),
    "energy_meter": ("Energy meter", "电能表"),
    "parking_sensor": ("Parking sensor", "泊位检测器"),
    "smoke_detector": ("Smoke detector", "烟感探测器"),
    "radio_module": ("Radio module", "通信模组"),
}

PHRASES: Final[dict[str, tuple[str, str]]] = {
    # --- head
    "product": ("Product", "产品"),
    "kind": ("Kind", "类别"),
    "profile": ("Profile", "档案编号"),
    "vendor_model": ("Vendor and model", "厂商与型号"),
    "firmware": ("Firmware", "固件版本"),
    "any_firmware": ("any", "不限"),
    "source": ("Source", "资料来源"),
    "certainty": ("Certainty", "可靠程度"),
    "level.vendor": ("the maker's or an official document", "厂商文档或官方标准"),
    "level.third_party": ("somebody's working code", "第三方可用代码"),
    "level.inferred": ("inferred", "推断"),
    "reports_every": ("Reports every", "上报周期"),
    "item": ("Item", "项目"),
    "content": ("Content", "内容"),
    # --- what it measures
    "measures": ("What it measures", "监测内容"),
    "quantity": ("Quantity", "监测量"),
    "metric": ("Metric", "指标"),
    "unit": ("Unit", "单位"),
    "plausible": ("Plausible range", "合理范围"),
    "in_messages": ("In messages", "所在报文"),
    "derived": ("computed: {setting} - {minus}", "计算得出：{setting} - {minus}"),
    "no_metrics": ("No quantity of the vocabulary; its fields are shown by name.", "无词表内的指标，字段仅按名称显示。"),
    "between": ("{low} to {high}", "{low} 至 {high}"),
    "closed_list": ("one of {values}", "取值：{values}"),
    "boolean": ("true or false", "是或否"),
    # --- how it talks
    "talks": ("How it talks", "通信方式"),
    "mqtt": ("MQTT, topic `cs/v1/{{device}}/up/{{message}}`", "MQTT，主题 `cs/v1/{{device}}/up/{{message}}`"),
    "mqtt_own": ("MQTT, the vendor's own topics: {topics}", "MQTT，厂商自有主题：{topics}"),
    "coap": ("CoAP, `POST /v1/{{device}}/{{message}}`", "CoAP，`POST /v1/{{device}}/{{message}}`"),
    "modbus": ("Modbus, polled by the gateway", "Modbus，由网关轮询"),
    "message": ("Message", "报文"),
    "meaning": ("Meaning", "含义"),
    "direction": ("Direction", "方向"),
    "direction.up": ("from the device", "上行"),
    "direction.polled": ("polled", "轮询"),
    "direction.down": ("to the device", "下行"),
    "format": ("Format", "格式"),
    "recognised": ("Recognised by", "识别依据"),
    "native": ("native, JSON or CBOR", "平台原生格式，JSON 或 CBOR"),
    "binary": ("bytes, {order}", "二进制，{order}"),
    "hex_text": ("sent as hex text", "以十六进制文本传输"),
    "tlv": ("tagged items, {order}", "标签-数据项（TLV），{order}"),
    "json": ("JSON", "JSON"),
    "cbor": ("CBOR", "CBOR"),
    "senml": ("SenML (RFC 8428), JSON or CBOR", "SenML（RFC 8428），JSON 或 CBOR"),
    "epc": ("EPC (GS1 Tag Data Standard)", "EPC（GS1 标签数据标准）"),
    "registers": ("Modbus registers", "Modbus 寄存器"),
    "big": ("high byte first", "高字节在前"),
    "little": ("low byte first", "低字节在前"),
    "high_first": ("high word first", "高字在前"),
    "low_first": ("low word first", "低字在前"),
    "when.length": ("{length} bytes", "长度 {length} 字节"),
    "when.shortest": ("{length} bytes or more", "长度不少于 {length} 字节"),
    "when.byte": ("byte {at} is {value}", "第 {at} 字节为 {value}"),
    "when.port": ("port {port}", "端口 {port}"),
    "when.value": ("{pointer} is {value}", "{pointer} 为 {value}"),
    "when.present": ("{pointer} is there", "存在 {pointer}"),
    "or": (" or ", " 或 "),
    "comma": (", ", "，"),
    "semicolon": ("; ", "；"),
    "colon": (": ", "："),
    "event": ("Each sample is the event {event}.", "每个采样为一次事件：{event}。"),
    # --- messages
    "messages": ("Messages", "报文"),
    "commands": ("Commands", "下行命令"),
    "offset": ("Offset", "偏移"),
    "tag": ("Tag", "标签"),
    "pointer": ("Pointer", "指针"),
    "record": ("Record", "记录名"),
    "address": ("Address", "地址"),
    "name": ("Name", "名称"),
    "type": ("Type", "类型"),
    "access": ("Access", "读写"),
    "scale": ("Scale", "换算"),
    "notes": ("Notes", "说明"),
    "words": ("Codes:", "代码表："),
    "picture": ("Bytes:", "字节布局："),
    "offsets": (
        "Offsets count bytes from 0. `+n` counts from the start of the part or the end of the part before, `end-n` from"
        " the end of the frame.",
        "偏移从 0 起按字节计。`+n` 自该部分起点或上一部分结尾计，`end-n` 自帧尾计。",
    ),
    "reads": ("Read plan", "读取计划"),
    "function": ("Function", "功能码"),
    "table": ("Table", "数据区"),
    "first_address": ("First address", "起始地址"),
    "count": ("Count", "数量"),
    "unit_id": ("Unit id {unit}", "从站地址 {unit}"),
    "shift": ("all addresses are shifted by {shift}", "全部地址平移 {shift}"),
    "one_value": ("one value per request", "每次请求只读一个值"),
    "resend": ("must be sent again every {duration}", "须每 {duration} 重发一次"),
    "write_many": ("written with function 15 or 16", "以功能码 15 或 16 写入"),
    # --- parts
    "only_if": ("only if {field} is {value}", "仅当 {field} 为 {value}"),
    "only_if_not": ("only if {field} is not {value}", "仅当 {field} 不为 {value}"),
    "sized_by": ("length in {field}", "长度见 {field}"),
    "sized_less": ("length in {field}, less {less}", "长度见 {field}，减 {less}"),
    "block": ("Part `{name}`", "部分 `{name}`"),
    "unnamed_block": ("Part", "部分"),
    "repeat.end": ("`{name}`: repeated to the end", "`{name}`：重复至结尾"),
    "repeat.times": ("`{name}`: {count} times", "`{name}`：重复 {count} 次"),
    "repeat.field": ("`{name}`: as many times as {count} says", "`{name}`：次数见 {count}"),
    "items": ("Items in any order", "数据项，顺序不限"),
    "items.length": ("a length of type {type} after the tag", "标签后为 {type} 类型长度"),
    "items.skip": ("unknown items are passed over", "未知数据项跳过"),
    "items.masked": ("the kind is told by tag bytes {bytes}", "仅由标签第 {bytes} 字节区分"),
    "until": ("up to the bytes {bytes}", "至字节 {bytes} 为止"),
    "item_of": ("Item {tag}", "数据项 {tag}"),
    "item_group": ("`{name}`", "`{name}`"),
    "item.many": ("may stand several times", "可出现多次"),
    "item.empty": ("nothing follows", "无数据"),
    "elements": ("Elements of SL 651-2014, in any order", "SL 651-2014 要素，顺序不限"),
    "bcd_decimals": ("BCD, decimals in the definition", "BCD，小数位见数据定义"),
    "each": ("`{name}`: each object of the list at {pointer}", "`{name}`：{pointer} 处列表的每个对象"),
    "each.text": ("the list travels as JSON text in a string", "列表以字符串内的 JSON 文本传输"),
    "each.top": ("The document is a list of such objects, or a single one.", "文档为此类对象的列表，或单个对象。"),
    "only_where": ("only objects whose {pointer} is {value}", "仅限 {pointer} 为 {value} 的对象"),
    "bytes_at": ("Bytes as {coding} at {pointer}", "{pointer} 处以 {coding} 编码的字节"),
    "base_names": ("Base names: {names}", "基本名称：{names}"),
    # --- notes of a field
    "const": ("always {value}", "固定为 {value}"),
    "reserved": ("reserved", "保留"),
    "fill": ("written as {value}", "写入 {value}"),
    "checksum": ("{kind} over the bytes from {start} up to here", "{kind}，自第 {start} 字节至此之前"),
    "bit": ("bit {bit}", "第 {bit} 位"),
    "bits": ("bits {first} to {last}", "第 {first} 至 {last} 位"),
    "signed": ("signed", "有符号"),
    "invalid": ("{marks}: no value", "{marks}：无数据"),
    "default": ("default {value}", "默认 {value}"),
    "required": ("required", "必填"),
    "others": ("other codes are shown as numbers", "其他代码按数字显示"),
    "personal": ("personal data", "个人信息"),
    "secret": ("secret", "保密"),
    "role.time": ("event time", "事件时间"),
    "role.tag": ("tag id", "标签标识"),
    "role.serial": ("the device's own number", "设备自身编号"),
    "role.boot": ("counts restarts", "重启计数"),
    "role.seq": ("counts frames", "帧序号"),
    "form.unix_s": ("seconds since 1970 UTC", "1970 年（UTC）起的秒数"),
    "form.unix_ms": ("milliseconds since 1970 UTC", "1970 年（UTC）起的毫秒数"),
    "form.rfc3339": ("RFC 3339", "RFC 3339"),
    "form.digits": ("YYMMDDhhmmss, UTC{offset}", "YYMMDDhhmmss，UTC{offset}"),
    "form.cp56": ("CP56Time2a, UTC{offset}", "CP56Time2a，UTC{offset}"),
    "reshape": ("{wire} is shown as {value}", "{wire} 显示为 {value}"),
    "setting": ("setting {name}", "设置项 {name}"),
    "means_note": ("reading: {pairs}", "读数：{pairs}"),
    "units_accepted": ("accepted units: {units}", "可接受单位：{units}"),
    "clamped": ("not below {value}", "不低于 {value}"),
    # --- settings and options
    "settings": ("Settings", "设置项"),
    "settings_text": ("Numbers that are entered for one device.", "按设备填写的数值。"),
    "needed": ("Needed", "必填"),
    "yes": ("yes", "是"),
    "no": ("no", "否"),
    "default_column": ("Default", "默认值"),
    "range": ("Range", "范围"),
    "options": ("Options", "选项"),
    "options_text": ("Choices between variants of the product.", "产品变体之间的选择。"),
    "option": ("Option", "选项"),
    "choice": ("Choice", "取值"),
    "default_mark": (" (default)", "（默认）"),
    # --- the rest
    "from_source": (" (source: {source})", "（资料来源：{source}）"),
    "caveats": ("Caveats", "注意事项"),
    "examples": ("Examples", "示例"),
    "basis.published": ("published by the source", "资料公布"),
    "basis.abridged": ("published, abridged", "资料公布，有删节"),
    "basis.recorded": ("recorded from a device", "设备实录"),
    "basis.computed": ("computed from the described layout", "按文档布局计算"),
    "frame": ("Frame:", "报文："),
    "with_settings": ("With {settings}:", "设置 {settings} 时："),
    "says": ("Says, by name:", "按名称解码："),
    "gives": ("Readings:", "读数："),
    "more_examples": ("Further examples in the profile file: {count}.", "档案文件中另有 {count} 个示例。"),
    "english_only": ("", "（英文）"),
    "bytes_count": ("{count} bytes", "{count} 字节"),
}  # fmt: skip


class Labels:
    """The phrases of one language."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._side = 0 if language == "en" else 1

    def __call__(self, key: str, **parts: object) -> str:
        """The phrase of that key with its parts filled in. KeyError for a key that the table lacks."""
        return PHRASES[key][self._side].format(**parts)

    def kind(self, kind: str) -> str:
        """What a kind of profile is called; its own name where the table has none."""
        names = KINDS.get(kind)
        return kind if names is None else names[self._side]

    def text(self, english: str, chinese: str | None) -> str:
        """A profile's text; in Chinese, one that has no Chinese twin is shown in English and marked so."""
        if self.language == "en":
            return english
        return chinese if chinese is not None else f"{english}{self('english_only')}"

    def join(self, parts: list[str], key: str = "comma") -> str:
        """Phrases in a row, with the language's own comma."""
        return self(key).join(part for part in parts if part)
