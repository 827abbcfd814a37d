"""Why a colour came or went, in words for people. Pure text; decides nothing."""

from __future__ import annotations

from citysense.wire import Value
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import EventRule, LadderRule, Words


def amount(value: Value, unit: str) -> str:
    """`52.3 cm`; numbers without noise digits, other values as they are."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"{value:g}" if isinstance(value, int | float) else value
    return f"{text} {unit}" if unit else text


def seconds(ms: int) -> str:
    """`60 s`, `0.5 s`."""
    return f"{ms / 1000:g} s"


def reached(rule: LadderRule, colour: Colour, value: Value, *, silent: bool) -> Words:
    """Why `colour` came into force."""
    level = next(level for level in rule.levels if level.colour is colour)
    now, limit, hold = amount(value, rule.unit), amount(level.raise_at, rule.unit), seconds(rule.raise_hold)
    return Words(
        zh=f"{rule.label.zh} {now}，达到{colour.zh}级别 {limit}，持续 {hold}{_unheard_zh(silent)}",
        en=f"{rule.label.en} {now}: at or above {limit} ({colour}) for {hold}{_unheard_en(silent)}",
    )


def fallen(rule: LadderRule, colour: Colour, value: Value, *, silent: bool) -> Words:
    """Why `colour` went."""
    level = next(level for level in rule.levels if level.colour is colour)
    now, limit, hold = amount(value, rule.unit), amount(level.clear_at, rule.unit), seconds(rule.clear_hold)
    return Words(
        zh=f"{rule.label.zh} {now}，低于{colour.zh}解除值 {limit}，持续 {hold}{_unheard_zh(silent)}",
        en=f"{rule.label.en} {now}: below {limit} (where {colour} ends) for {hold}{_unheard_en(silent)}",
    )


def happened(rule: EventRule, value: Value) -> Words:
    """Why an event rule's colour came."""
    text = amount(value, rule.unit)
    return Words(zh=f"{rule.label.zh}：{text}", en=f"{rule.label.en}: {text}")


def ended(rule: EventRule, value: Value) -> Words:
    """Why an event rule's colour went: by another value, or by not happening again."""
    text = amount(value, rule.unit)
    if rule.resolve_after is None:
        hold = seconds(rule.clear_hold)
        return Words(zh=f"{rule.label.zh}已变为 {text}，持续 {hold}", en=f"{rule.label.en} is now {text}, for {hold}")
    quiet = seconds(rule.resolve_after)
    return Words(
        zh=f"{rule.label.zh}（{text}）{quiet} 内未再发生", en=f"{rule.label.en} {text} has not come again for {quiet}"
    )


def _unheard_zh(silent: bool) -> str:
    return "，其间无新读数" if silent else ""


def _unheard_en(silent: bool) -> str:
    return "; no newer reading has come" if silent else ""
