"""Options: one file, several variants, where sources disagree or one box has several connectors.

Owns putting a choice into the document before it is validated, and reading a device's choices out of its settings.
What comes out is an ordinary profile: no codec knows that there was a choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from citysense_profiles.errors import ProfileError, SettingError
from citysense_profiles.format.profile_file import OptionEntry

Choice = str | int
MOST_VARIANTS_TRIED = 64
"""Up to so many combinations are compiled when a file is loaded; beyond, every single choice beside the defaults."""


def with_choices(document: Any, chosen: Mapping[str, Choice], file: str) -> Any:
    """The document with every {option: …} in its messages replaced. Raises ProfileError for an unknown option."""
    messages = document.get("messages") if isinstance(document, dict) else None
    if not isinstance(messages, dict):
        return document
    if "option" in messages and messages.keys() <= {"option", "is"}:
        raise ProfileError(
            "an option stands inside a message, not in place of all of them", file=file, field="messages"
        )
    return {**document, "messages": _replaced(messages, chosen, file)}


def _replaced(node: Any, chosen: Mapping[str, Choice], file: str) -> Any:
    """The node itself where nothing below it depends on a choice: what stays the same need not be compiled again."""
    if isinstance(node, list):
        items = [_replaced(item, chosen, file) for item in node]
        return node if all(new is old for new, old in zip(items, node, strict=True)) else items
    if not isinstance(node, dict):
        return node
    if "option" in node and node.keys() <= {"option", "is"}:
        return _value_of(node, chosen, file)
    entries = {key: _replaced(value, chosen, file) for key, value in node.items()}
    return node if all(entries[key] is value for key, value in node.items()) else entries


def _value_of(node: dict[Any, Any], chosen: Mapping[str, Choice], file: str) -> Any:
    name = node["option"]
    if not isinstance(name, str) or name not in chosen:
        raise ProfileError(f"option {name!r} is not declared in options", file=file, field="messages")
    choice = chosen[name]
    if "is" not in node:
        return choice
    table = node["is"]
    if not isinstance(table, dict) or choice not in table:
        raise ProfileError(f"option {name}: `is` does not say what {choice!r} is here", file=file, field="messages")
    return table[choice]


def defaults_of(document: Any, file: str) -> dict[str, Choice]:
    """The default choice of every option, as far as the document is in shape; validation says what is not.

    Raises ProfileError for a default that is no choice, since its messages could not even be put together.
    """
    options = document.get("options") if isinstance(document, dict) else None
    defaults: dict[str, Choice] = {}
    for name, entry in options.items() if isinstance(options, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("default"), str | int):
            continue
        default, choices = entry["default"], entry.get("choices")
        if isinstance(choices, dict) and default not in choices:
            raise ProfileError(
                f"default {default!r} is not one of the choices ({', '.join(map(str, choices))})",
                file=file,
                field=f"options.{name}.default",
            )
        defaults[str(name)] = default
    return defaults


def variants(options: Mapping[str, OptionEntry]) -> Iterator[dict[str, Choice]]:
    """The combinations to try: all of them where they are few, else each choice beside the other options' defaults."""
    total = 1
    for entry in options.values():
        total *= len(entry.choices)
    if total <= MOST_VARIANTS_TRIED:
        for combination in product(*(entry.choices for entry in options.values())):
            yield dict(zip(options, combination, strict=True))
        return
    defaults = {name: entry.default for name, entry in options.items()}
    for name, entry in options.items():
        for choice in entry.choices:
            yield {**defaults, name: choice}


def choices_in(options: Mapping[str, OptionEntry], settings: Mapping[str, float | str]) -> dict[str, Choice]:
    """What a device's settings choose, defaults filled in. Raises SettingError for what is not a choice."""
    chosen: dict[str, Choice] = {}
    for name, entry in options.items():
        given = settings.get(name, entry.default)
        choice = int(given) if isinstance(given, float) and given.is_integer() else given
        if isinstance(choice, float | bool) or choice not in entry.choices:
            raise SettingError(name, f"{choice!r} is not a choice of {name}; choose from {_listed(entry)}")
        chosen[name] = choice
    return chosen


def _listed(entry: OptionEntry) -> str:
    return ", ".join(str(choice) for choice in entry.choices)
