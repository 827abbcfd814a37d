"""Titles of cases, in both languages. Pure text."""

from __future__ import annotations

from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import Words


def title(template: Words, *, colour: Colour, site: str, value: str) -> Words:
    """`template` with colour, site and value filled in; what is filled in is never read as a template."""
    return Words(
        zh=_fill(template.zh, {"{colour}": colour.zh, "{site}": site, "{value}": value}),
        en=_capital(_fill(template.en, {"{colour}": str(colour), "{site}": site, "{value}": value})),
    )


def one_line(words: Words) -> str:
    """Both languages in one line."""
    return f"{words.zh} / {words.en}"


def _fill(template: str, values: dict[str, str]) -> str:
    parts: list[str] = []
    rest = template
    while rest:
        at, name = min(((place, name) for name in values if (place := rest.find(name)) >= 0), default=(len(rest), ""))
        parts += [rest[:at], values.get(name, "")]
        rest = rest[at + len(name) :]
    return "".join(parts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
