"""Words: what raw codes are called, what the words mean for a metric, and which values can be written down at all.

Owns code maps both ways, `means`, truth values, text, and the check that a value is one its metric can have. Numbers
and their scales are elsewhere. Everything raises RefusedError for a code or value that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import Meaning, Scalar
from citysense_profiles.values.scaling import finite, portable_number
from citysense_profiles.vocabulary import Metric, ValueType

Raw = Literal["int", "float", "number", "bool", "text"]
_PYTHON_TYPES: dict[Raw, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "number": (int, float),
    "bool": (bool,),
    "text": (str,),
}
_KINDS: dict[ValueType, type] = {
    ValueType.NUMBER: float,
    ValueType.INTEGER: int,
    ValueType.BOOLEAN: bool,
    ValueType.TEXT: str,
}
_BEYOND_64_BITS = 2**63


class Silence:
    """The one value of its kind: the field says something, and nothing that the metric has a word for."""

    def __repr__(self) -> str:
        return "SILENT"


SILENT: Final = Silence()


def is_raw(code: object, raw: Raw) -> bool:
    """Whether a code can be what the wire holds; True is no number here."""
    return isinstance(code, _PYTHON_TYPES[raw]) and (raw == "bool" or not isinstance(code, bool))


def mapped(meaning: Meaning, raw: Raw) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Raw code to word and back, as the map says. Raises ValueError with a sentence for the profile's author."""
    table = meaning.map or {}
    for code in table:
        if not is_raw(code, raw):
            raise ValueError(f"map: {code!r} is not a raw {raw}")
    _check_numbers("map", table)
    back = {_key(value): code for code, value in table.items()}
    if len(back) != len(table):
        raise ValueError("map: two raw codes give the same value, so encoding could not tell which; name them apart")
    read = _lookup({_key(code): value for code, value in table.items()}, "code")
    write = _lookup(back, "value")
    if meaning.others == "refuse":
        return read, write
    if raw != "int" or any(type(value) is int for value in table.values()):
        raise ValueError("others: pass shows unknown codes as numbers, so the map goes from whole numbers to words")
    return _or_pass(read, frozenset(table)), _or_pass(write, frozenset(table))


def _check_numbers(key: str, table: Mapping[Any, Scalar]) -> None:
    """A number that a table gives must be one that a reading, JSON and CBOR can hold."""
    for value in table.values():
        try:
            if type(value) in (int, float):
                portable_number(finite(value))
        except RefusedError as error:
            raise ValueError(f"{key}: {error}") from error


def _lookup(table: Mapping[tuple[bool, Any], Scalar], what: str) -> Callable[[Any], Any]:
    def look_up(key: Any) -> Any:
        try:
            return table[_key(key)]
        except (KeyError, TypeError):  # TypeError: a list or an object, which no table holds
            known = ", ".join(repr(code) for _, code in table)
            raise RefusedError(f"{what} {key!r} is not in the map ({known})") from None

    return look_up


TRUTH = _lookup({(False, 0): False, (False, 1): True}, "code")
TRUTH_CODE = _lookup({(True, False): 0, (True, True): 1}, "value")


def _or_pass(look_up: Callable[[Any], Any], codes: frozenset[Scalar]) -> Callable[[Any], Any]:
    """Both ways alike: a number that is no code of the map stands for itself."""
    return lambda key: portable(key) if type(key) is int and key not in codes else look_up(key)


def typed(raw: Raw) -> Callable[[Any], Any]:
    """Gives back truth values or text, whichever `raw` is, and refuses everything else."""
    wanted = bool if raw == "bool" else str

    def check(value: Any) -> Any:
        if type(value) is not wanted:
            raise RefusedError(f"{value!r} is not {'true or false' if wanted is bool else 'text'}")
        return portable(value)

    return check


def value_check(metric: Metric) -> Callable[[Any], Any]:
    """Gives back a value that the metric can have: the right type and, where the list is closed, one of it."""
    kind: Any = _KINDS[metric.type]
    closed = metric.values

    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise RefusedError(f"{value!r} is not what {metric.name} holds ({metric.type.value})")
        if closed is not None and value not in closed:
            raise RefusedError(f"{value!r} is not a value of {metric.name} ({', '.join(sorted(closed))})")
        if kind is int and not -_BEYOND_64_BITS <= value < _BEYOND_64_BITS:
            raise RefusedError(f"{value} does not fit 64 bits")  # with sign: that is what stores hold
        return portable(value)

    return check


def portable(value: Any) -> Any:
    """The value, if JSON and CBOR can carry it: integers of 64 bits, text that UTF-8 can write. Raises RefusedError."""
    if type(value) is int:
        return portable_number(value)
    if type(value) is str and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RefusedError(f"{value!r} is not text that UTF-8 can write")
    return value


def meant(
    meaning: Meaning, metric: Metric, shown: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """Raw code to the metric's value and that to the value by name, as `means` says; the first word that means it.

    Raises ValueError with a sentence where a meaning is none of the metric's values.
    """
    means = dict(meaning.means or {})
    _check_numbers("means", means)
    if metric.type is ValueType.NUMBER:
        means = {word: float(value) if type(value) is int else value for word, value in means.items()}
    check = value_check(metric)
    for value in means.values():
        try:
            check(value)
        except RefusedError as error:
            raise ValueError(f"means: {error}") from error
    table = {_key(word): value for word, value in means.items()}
    back: dict[Any, Scalar] = {}
    for word, value in means.items():
        back.setdefault(_key(value), word)

    def told(code: Any, *numbers: float) -> Any:
        return table.get(_key(shown(code, *numbers)), SILENT)

    def named(value: Any) -> Any:
        try:
            return back[_key(value)]
        except (KeyError, TypeError):
            raise RefusedError(
                f"{value!r} cannot be said in this message ({', '.join(repr(value) for value in means.values())})"
            ) from None

    return told, named


def check_words(meaning: Meaning, raw: Raw, *, single_bit: bool) -> None:
    """A word of `means` that the field never shows would be a reading that never comes."""
    truth = raw == "bool" or single_bit
    for word in meaning.means or {}:
        if meaning.map is not None:
            if meaning.others == "refuse" and all(_key(word) != _key(known) for known in meaning.map.values()):
                words = ", ".join(map(repr, meaning.map.values()))
                raise ValueError(f"means: {word!r} is not a word of the map ({words})")
        elif isinstance(word, bool) != truth or isinstance(word, str) != (raw == "text"):
            kind = "true or false" if truth else "text" if raw == "text" else "numbers"
            raise ValueError(f"means: {word!r} is no value of this field, which shows {kind}")


def _key(value: Any) -> tuple[bool, Any]:
    """True == 1 in Python, and is not the same word."""
    return (type(value) is bool, value)
