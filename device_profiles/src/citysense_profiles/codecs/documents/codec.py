"""JSON and CBOR messages of vendors: one object, or each of a list of them.

Owns which objects a message consists of, the two ways to read it and the way to write it. The parts of an object live
in `parts.py`. Values that the profile does not name are passed over, and objects that `only` excludes as well, so a
frame may hold no samples at all. A repeated key of a JSON object counts with its last value: the parser does not
tell, and a look of our own would cost more than the whole decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from citysense_profiles.codecs.contract import Finish, Named, Place
from citysense_profiles.codecs.documents.concise import UnreadableError, read_cbor, read_json, write_cbor, write_json
from citysense_profiles.codecs.documents.parts import Condition, Item
from citysense_profiles.codecs.documents.pointer import ABSENT, Shape, parse, put, walk
from citysense_profiles.codecs.documents.rows import Rows, compile_rows
from citysense_profiles.codecs.node import Scope, Uses
from citysense_profiles.codecs.sinks import ByName, Readings, Sink
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.profile_file import DocumentMessage
from citysense_profiles.reading import Decoded
from citysense_profiles.vocabulary import Vocabulary

_WHITE_SPACE = b" \t\r\n"


class DocumentCodec:
    """One shape of document."""

    def __init__(self, place: Place, finish: Finish, entry: DocumentMessage, vocabulary: Vocabulary) -> None:
        self._place = place
        self._finish = finish
        self._cbor = entry.codec.type == "cbor"
        self._parse: Callable[[bytes], Any] = read_cbor if self._cbor else read_json
        scope = Scope(place=place, order="big", vocabulary=vocabulary, prefix="", depth=0, known={}, uses=Uses())
        each, match = entry.codec.each, entry.when.match
        self._each = parse(each) if each is not None else None
        self._at = each or ""
        self._match = tuple(Condition(one) for one in match)
        # Where the document is itself the object, what tells the message stands in it; else around the list.
        always = () if self._each else self._match
        self._item = Item(scope, entry.fields, entry.codec.only, always, cbor=self._cbor)
        self._present = tuple(parse(pointer) for pointer in entry.when.present)
        ports = entry.when.port
        self._ports = frozenset((ports,) if isinstance(ports, int) else ports or ())
        self._around = Shape({self._each, *(one.path for one in self._match)}) if self._each else None
        self.fields = self._item.fields
        self.metrics = frozenset(field.metric for field in self.fields if field.metric is not None)
        self._rows: Rows | None = None if self._each is not None else compile_rows(self._item)

    def fits(self, payload: bytes, port: int | None) -> bool:
        """The first byte begins an object or a list; where `when` says more, the document is read for it.

        What then cannot be read fits as well, so that the error says why.
        """
        if self._ports and port is not None and port not in self._ports:
            return False
        if not (payload[:1] and 0x80 <= payload[0] <= 0xBF if self._cbor else _begins_json(payload)):
            return False
        if not self._match and not self._present:
            return True
        try:
            document = self._parse(payload)
        except UnreadableError:
            return True
        return all(condition.holds(document) for condition in self._match) and all(
            walk(document, path) not in (ABSENT, None) for path in self._present
        )

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """One sample for each object that is of interest, in the order of the document."""
        try:
            document = self._parse(payload)
        except UnreadableError as error:
            self._place.refuse("encoding", str(error))
        if self._rows is not None and type(document) is dict:
            decoded = self._rows.decode(document, self._place.message, self._finish, settings)
            if decoded is not None:
                return decoded
        return self._readings(document, settings)

    def decode_fields(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Named:
        """Every value by name, and its JSON pointer; a list of objects gives lists, a single one does not."""
        try:
            document = self._parse(payload)
        except UnreadableError as error:
            self._place.refuse("encoding", str(error))
        self._readings(document, settings)  # for what only the readings refuse: objects that disagree on their sender
        sink = ByName(settings)
        self._walk(document, sink)
        return sink.named(self._place.message)

    def encode_fields(self, values: Mapping[str, Any], content: int | None, settings: Mapping[str, float]) -> bytes:
        """The document; a list of objects where the values are lists."""
        listed = self._each is not None and any(
            _is_nested(values[field.name], field.depth) for field in self.fields if field.name in values
        )
        document = self._item.write_rounds(values, settings) if listed else self._item.write(values, settings)
        if self._each and self._around is not None:
            around = self._around.root()
            for condition in self._match:
                put(around, self._around.steps(condition.path), condition.wanted[0])
            put(around, self._around.steps(self._each), document)
            document = around
        return write_cbor(document) if self._cbor else write_json(document)

    def _readings(self, document: Any, settings: Mapping[str, float]) -> Decoded:
        sink = Readings(self._finish, settings)
        if not self._walk(document, sink):
            return Decoded(message=self._place.message, samples=())
        try:
            return sink.decoded(self._place.message)
        except RefusedError as error:
            self._place.refuse("shape", str(error))

    def _walk(self, document: Any, sink: Sink) -> bool:
        """False where the document is one object that is of no interest: it says nothing, not even that it is there."""
        found = document
        if self._each is not None:
            found = walk(document, self._each)
            if found is ABSENT:
                self._place.refuse("shape", f"nothing stands at {self._at}")
            if type(found) is list:
                self._item.read_rounds(found, sink, self._at)
                return True
        if not self._item.of_interest(found, self._at):
            return False
        self._item.read(found, sink, self._at)
        return True


def _begins_json(payload: bytes) -> bool:
    first = payload[:1]
    return (payload.lstrip(_WHITE_SPACE)[:1] if first in (b" ", b"\t", b"\r", b"\n") else first) in (b"{", b"[")


def _is_nested(value: Any, depth: int) -> bool:
    """Whether there are more lists around a value than the field itself has."""
    for _ in range(depth):
        if not isinstance(value, list | tuple):
            return False
        value = next((one for one in value if one is not None), None)
    return isinstance(value, list | tuple)
