"""The device sheet: what a product measures, how it talks, every message, settings, caveats and examples.

Owns the order and the head of the sections. Pure; the same profile gives the same text.
"""

from __future__ import annotations

from citysense_profiles.format.profile_file import Message, ModbusMessage, OptionEntry
from citysense_profiles.profile import Profile
from citysense_profiles.sheet import describe, markdown
from citysense_profiles.sheet.example_frames import examples
from citysense_profiles.sheet.labels import Labels, Language
from citysense_profiles.sheet.message_section import message_section
from citysense_profiles.sheet.values import duration, number
from citysense_profiles.vocabulary import Metric, Vocabulary


def device_sheet(profile: Profile, vocabulary: Vocabulary, language: Language) -> str:
    """The whole sheet as Markdown, ending with a line feed."""
    labels = Labels(language)
    lines = [f"# {markdown.plain(labels.text(profile.title, profile.file.title_zh))}", ""]
    lines += _head(profile, labels)
    lines += _measures(profile, vocabulary, labels)
    lines += _talks(profile, labels)
    entries = profile.file.messages
    for key, down in (("messages", False), ("commands", True)):
        chosen = {name: entry for name, entry in entries.items() if (entry.direction == "down") is down}
        if chosen:
            lines += [f"## {labels(key)}", ""]
        for name, entry in chosen.items():
            lines += message_section(profile, name, entry, labels)
    lines += _settings(profile, labels)
    lines += _options(profile, labels)
    lines += _caveats(profile, labels)
    shown = examples(profile, labels)
    lines += [f"## {labels('examples')}", "", *shown] if shown else []
    return "\n".join(lines).rstrip() + "\n"


def _head(profile: Profile, labels: Labels) -> list[str]:
    product = profile.product
    firmware = labels("any_firmware") if product.firmware == "any" else markdown.plain(product.firmware)
    rows = [
        (labels("profile"), markdown.code(profile.id)),
        (labels("kind"), labels.kind(profile.kind)),
        (labels("vendor_model"), markdown.plain(f"{product.vendor} {product.model}")),
        (labels("firmware"), firmware),
        (labels("source"), markdown.plain(product.source)),
        (labels("certainty"), labels(f"level.{product.level}")),
        (labels("reports_every"), duration(profile.report_every)),
    ]
    return markdown.table((labels("item"), labels("content")), rows)


def _measures(profile: Profile, vocabulary: Vocabulary, labels: Labels) -> list[str]:
    """What reaches the city; what is only written to the device stands with its commands."""
    rows = []
    upward = [name for name, entry in profile.file.messages.items() if entry.direction == "up"]
    derived = {rule.metric: rule for rule in profile.file.derive}
    for metric in vocabulary:
        if metric.name not in profile.metrics:
            continue
        places = [f"`{name}`" for name in upward if metric.name in profile.message_metrics(name)]
        if metric.name in derived:
            rule = derived[metric.name]
            places.append(labels("derived", setting=f"`{rule.setting}`", minus=f"`{rule.minus}`"))
        if not places:
            continue
        title = labels.text(metric.title, metric.title_zh if metric.title_zh != metric.title else None)
        rows.append((title, f"`{metric.name}`", metric.unit, _plausible(metric, labels), labels.join(places)))
    lines = [f"## {labels('measures')}", ""]
    if not rows:
        return [*lines, labels("no_metrics"), ""]
    head = [labels(key) for key in ("quantity", "metric", "unit", "plausible", "in_messages")]
    return [*lines, *markdown.table(head, rows)]


def _plausible(metric: Metric, labels: Labels) -> str:
    if metric.low is not None and metric.high is not None:
        return labels("between", low=number(metric.low), high=number(metric.high))
    if metric.values is not None:
        return labels("closed_list", values=labels.join(sorted(metric.values)))
    return labels("boolean") if metric.type.value == "boolean" else ""


def _talks(profile: Profile, labels: Labels) -> list[str]:
    lines = [f"## {labels('talks')}", ""]
    for transport in ("mqtt", "coap", "modbus"):
        if transport in profile.transports:
            lines.append(f"- {labels(transport)}")
        if transport == "mqtt" and profile.mqtt_topics:
            topics = labels.join([f"`{topic}`" for topic in profile.mqtt_topics])
            lines.append(f"- {labels('mqtt_own', topics=topics)}")
    rows = [_message_row(name, entry, labels) for name, entry in profile.file.messages.items()]
    head = [labels(key) for key in ("message", "meaning", "direction", "format", "recognised")]
    return [*lines, "", *markdown.table(head, rows)]


def _message_row(name: str, entry: Message, labels: Labels) -> tuple[str, ...]:
    title = markdown.plain(describe.title(entry, labels))
    asked = "" if isinstance(entry, ModbusMessage) else describe.recognised(entry, labels)
    return f"`{name}`", title, describe.direction(entry, labels), describe.form(entry, labels), asked


def _settings(profile: Profile, labels: Labels) -> list[str]:
    entries = profile.file.settings
    if not entries:
        return []
    rows = []
    for name, entry in entries.items():
        low_high = labels("between", low=number(entry.range[0]), high=number(entry.range[1])) if entry.range else ""
        default = "" if entry.default is None else number(entry.default)
        needed = labels("yes" if entry.required else "no")
        title = markdown.plain(labels.text(entry.title, entry.title_zh))
        rows.append((f"`{name}`", title, entry.unit, default, low_high, needed))
    head = [labels(key) for key in ("name", "meaning", "unit", "default_column", "range", "needed")]
    return [f"## {labels('settings')}", "", labels("settings_text"), "", *markdown.table(head, rows)]


def _options(profile: Profile, labels: Labels) -> list[str]:
    entries = profile.options
    if not entries:
        return []
    rows = [row for name, entry in entries.items() for row in _option_rows(name, entry, labels)]
    head = [labels(key) for key in ("option", "meaning", "choice", "content", "source")]
    return [f"## {labels('options')}", "", labels("options_text"), "", *markdown.table(head, rows)]


def _option_rows(name: str, entry: OptionEntry, labels: Labels) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for choice, meaning in entry.choices.items():
        mark = labels("default_mark") if choice == entry.default else ""
        rows.append(
            ("", "", f"`{choice}`{mark}", markdown.plain(labels.text(meaning, entry.choices_zh.get(choice))), "")
        )
    title = markdown.plain(labels.text(entry.title, entry.title_zh))
    rows[0] = (f"`{name}`", title, *rows[0][2:4], markdown.plain(entry.source or ""))
    return rows


def _caveats(profile: Profile, labels: Labels) -> list[str]:
    lines = []
    for caveat in profile.file.caveats:
        source = labels("from_source", source=markdown.plain(caveat.source)) if caveat.source else ""
        lines.append(f"- {markdown.plain(labels.text(caveat.text, caveat.zh))}{source}")
    return [f"## {labels('caveats')}", "", *lines, ""] if lines else []
