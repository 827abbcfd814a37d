"""JSON messages of vendors: values at pointers, in one object or in each of a list of them.

Owns walking to the fields and building the document back. Items that `only` excludes are skipped without error, so a
frame may decode to no samples at all. Pointers follow object keys only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from citysense_profiles.codecs.concise import UnreadableError, read_json, write_json
from citysense_profiles.codecs.contract import Finish, Outgoing, Place
from citysense_profiles.codecs.layout import Collected, FieldFault, compile_role, label_of
from citysense_profiles.conversion import Raw, RefusedError, compile_conversion, portable
from citysense_profiles.model import JsonField, JsonMessage
from citysense_profiles.reading import Decoded, Sample, Value
from citysense_profiles.vocabulary import Vocabulary

_ABSENT = object()
_RAW: dict[str, Raw] = {"int": "int", "number": "number", "bool": "bool"}
_LARGEST = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """One pointer. `read` turns what stands there into a raw code and a value; `role` is None for a metric."""

    label: str
    path: tuple[str, ...]
    metric: str | None
    role: str | None
    check: Callable[[Any], Any]
    read: Callable[[Any], Any]
    write: Callable[[Value | None], Any]
    write_role: Callable[[Outgoing], Any]
    store: Callable[[Any], Any]
    required: bool


class JsonCodec:
    """One shape of JSON item."""

    def __init__(self, place: Place, finish: Finish, message: JsonMessage, vocabulary: Vocabulary) -> None:
        self._place = place
        self._finish = finish
        self._each = _path(message.codec.each) if message.codec.each is not None else None
        only = message.codec.only
        self._only = (_path(only.pointer), only.equals) if only else None
        self._fields: list[_Field] = []
        for position, field in enumerate(message.fields):
            label = label_of(field, position)
            try:
                compiled = _compile(field, label, vocabulary)
                if compiled.metric in {other.metric for other in self._fields} - {None}:
                    raise ValueError(f"metric {compiled.metric} stands twice in one message")
            except (ValueError, KeyError) as error:
                raise FieldFault(label, str(error.args[0])) from error
            self._fields.append(compiled)
        self._required = tuple(dict.fromkeys(f.role or f.metric or "" for f in self._fields if f.required))
        self.metrics = frozenset(field.metric for field in self._fields if field.metric is not None)

    def fits(self, payload: bytes) -> bool:
        """JSON text begins with a brace or bracket, after white space."""
        return payload.lstrip(b" \t\r\n")[:1] in (b"{", b"[")

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """One sample for each item that is of interest, in the order of the document."""
        try:
            document = read_json(payload)
        except UnreadableError as error:
            self._place.refuse("encoding", str(error))
        samples: list[Sample] = []
        roles: dict[str, Any] = {}
        for item in self._items(document):
            if not isinstance(item, dict):
                self._place.refuse("shape", f"an item is {type(item).__name__}, an object is needed")
            if self._only is None or _walk(item, self._only[0]) == self._only[1]:
                samples.extend(self._item(item, settings, roles))
        return Decoded(
            message=self._place.message,
            samples=tuple(samples),
            boot=roles.get("boot"),
            seq=roles.get("seq"),
            serial=roles.get("serial"),
        )

    def _items(self, document: Any) -> list[Any]:
        if self._each is None:
            return [document]
        found = _walk(document, self._each)
        if found is _ABSENT:
            self._place.refuse("shape", f"nothing stands at /{'/'.join(self._each)}")
        return found if isinstance(found, list) else [found]

    def _item(self, item: Any, settings: Mapping[str, float], message_roles: dict[str, Any]) -> tuple[Sample, ...]:
        collected = Collected({}, [], {})
        label = ""
        try:
            for field in self._fields:
                found = _walk(item, field.path)
                if found is _ABSENT or (field.role is not None and (found is None or field.role in collected.roles)):
                    continue
                label = field.label
                _collect(field, found, collected)
        except RefusedError as error:
            self._place.refuse("value", str(error), field=label)
        except _ShapeError as error:
            self._place.refuse("shape", str(error), field=label)
        for need in self._required:
            if need not in collected.roles and need not in collected.values and need not in collected.missing:
                self._place.refuse("shape", f"{need} is missing", field=need)
        for role in ("serial", "boot", "seq"):
            if role in collected.roles:
                self._agree(message_roles, role, collected.roles[role])
        return self._finish.sample(
            collected.values,
            collected.missing,
            settings,
            time=collected.roles.get("time"),
            tag=collected.roles.get("tag"),
        )

    def _agree(self, roles: dict[str, Any], role: str, found: Any) -> None:
        if roles.setdefault(role, found) != found:
            self._place.refuse(
                "shape", f"items of one frame disagree on {role}: {roles[role]!r}, {found!r}", field=role
            )

    def encode(self, outgoing: Outgoing) -> bytes:
        """One item as JSON; a role goes into the first field that carries it, a missing value is null."""
        item: dict[str, Any] = {}
        if self._only is not None:
            _place_at(item, self._only[0], self._only[1])
        written: set[str] = set()
        label = ""
        try:
            for field in self._fields:
                label = field.label
                if field.role is not None:
                    if field.role not in written and outgoing.role(field.role) is not None:
                        _place_at(item, field.path, field.store(field.write_role(outgoing)))
                        written.add(field.role)
                elif field.metric is not None and field.metric in outgoing.values:
                    written.add(field.metric)
                    code = field.write(outgoing.values[field.metric])
                    _place_at(item, field.path, None if code is None else field.store(code))
        except RefusedError as error:
            self._place.cannot_encode(str(error), field=label)
        for need in self._required:
            if need not in written:
                self._place.cannot_encode(f"{need} is needed", field=need)
        document: Any = item
        for key in reversed(self._each or ()):
            document = {key: [item] if document is item else document}
        return write_json(document)


class _ShapeError(ValueError):
    """Another JSON type than the field has."""


def _collect(field: _Field, found: Any, collected: Collected) -> None:
    if field.metric is None:
        collected.roles[field.role or ""] = field.read(field.check(found))
        return
    value = None if found is None else field.read(field.check(found))
    if value is None:
        collected.missing.append(field.metric)
    else:
        collected.values[field.metric] = value


def _path(pointer: str) -> tuple[str, ...]:
    if pointer == "":
        return ()
    if not pointer.startswith("/"):
        raise ValueError(f"pointer {pointer!r} must begin with /")
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in pointer[1:].split("/"))


def _walk(item: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if type(item) is not dict:
            return _ABSENT
        item = item.get(key, _ABSENT)
    return item


def _place_at(item: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        item = item.setdefault(key, {})
    item[path[-1]] = value


def _compile(field: JsonField, label: str, vocabulary: Vocabulary) -> _Field:
    if (field.metric is None) == (field.role is None):
        raise ValueError("a field has a metric or a role")
    path = _path(field.pointer)
    if not path:
        raise ValueError("pointer must lead into the item")
    if field.default is not None:
        raise ValueError("default means nothing here: an absent value is simply not sent")
    raw = _RAW.get(field.type, "text")
    check, store = _TYPES[field.type]
    if field.metric is not None:
        conversion = compile_conversion(field, vocabulary.metric(field.metric), raw, null=True)
        read, write = conversion.decode, conversion.encode
        write_role: Callable[[Outgoing], Any] = _no_role
    else:
        # A time may be a number with a fraction: for roles, an int field and a number field differ in the check only.
        read, write_role = compile_role(field, "int" if raw == "number" and field.form is None else raw)
        write = _no_metric
    return _Field(
        label=label,
        path=path,
        metric=field.metric,
        role=field.role,
        check=check,
        read=read,
        write=write,
        write_role=write_role,
        store=store,
        required=field.required,
    )


def _no_role(outgoing: Outgoing) -> Any:
    raise AssertionError("a metric field has no role")


def _no_metric(value: Value | None) -> Any:
    raise AssertionError("a role field has no metric")


def _int(found: Any) -> int:
    if type(found) is not int or not -_LARGEST <= found < _LARGEST:
        raise _ShapeError(f"{_short(found)} is not an integer of 64 bits")
    return found


def _number(found: Any) -> int | float:
    if type(found) is not int and type(found) is not float:
        raise _ShapeError(f"{_short(found)} is not a number")
    return found


def _bool(found: Any) -> bool:
    if type(found) is not bool:
        raise _ShapeError(f"{_short(found)} is not true or false")
    return found


def _text(found: Any) -> str:
    if type(found) is not str:
        raise _ShapeError(f"{_short(found)} is not a string")
    return found


def _hex(found: Any) -> str:
    try:
        return bytes.fromhex(_text(found)).hex().upper()
    except ValueError:
        raise _ShapeError(f"{_short(found)} is not hex digits") from None


def _base64url(found: Any) -> str:
    # Senders use both alphabets and pad or do not pad: accept all four.
    text = _text(found).rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).hex().upper()
    except (binascii.Error, ValueError):
        raise _ShapeError(f"{_short(found)} is not base64") from None


def _to_hex(code: Any) -> str:
    try:
        return bytes.fromhex(code).hex().upper()
    except (TypeError, ValueError):
        raise RefusedError(f"{code!r} is not hex digits") from None


def _to_base64url(code: Any) -> Any:
    return base64.urlsafe_b64encode(bytes.fromhex(_to_hex(code))).decode("ascii").rstrip("=")


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 40 else f"{text[:37]}..."


_TYPES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "int": (_int, portable),
    "number": (_number, portable),
    "bool": (_bool, portable),
    "text": (_text, portable),
    "hex": (_hex, _to_hex),
    "base64url": (_base64url, _to_base64url),
}
