"""Messages of fixed layout: told apart by their length and by bytes at given places.

Owns the choice of a message and its total length; the fields themselves are a `Layout`.
"""

from __future__ import annotations

from collections.abc import Mapping

from citysense_profiles.codecs.contract import Finish, Outgoing, Place
from citysense_profiles.codecs.layout import Collected, Layout
from citysense_profiles.model import BinaryWhen
from citysense_profiles.reading import Decoded


class BinaryCodec:
    """One fixed layout that is the whole frame."""

    def __init__(self, place: Place, finish: Finish, layout: Layout, when: BinaryWhen) -> None:
        if when.length is not None and when.length != layout.size:
            raise ValueError(f"when.length is {when.length}, the fields make {layout.size} bytes")
        outside = next((match.at for match in when.match if match.at >= layout.size), None)
        if outside is not None:
            raise ValueError(f"when.match at {outside} lies behind the last byte ({layout.size - 1})")
        self._place = place
        self._finish = finish
        self._layout = layout
        self._size = layout.size
        self._match = tuple((match.at, match.equals) for match in when.match)
        self.metrics = frozenset(layout.metrics)

    def fits(self, payload: bytes) -> bool:
        """Length and all matched bytes agree."""
        return len(payload) == self._size and all(payload[at] == equals for at, equals in self._match)

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """The frame; the content format says nothing about bytes."""
        size = len(payload)
        if size < self._size:
            self._place.refuse("truncated", f"{size} bytes, the message has {self._size}", offset=size)
        if size > self._size:
            self._place.refuse("trailing", f"{size} bytes, the message has {self._size}", offset=self._size)
        for at, equals in self._match:
            if payload[at] != equals:
                self._place.refuse("no_match", f"byte is {payload[at]:02X}, this message has {equals:02X}", offset=at)
        collected = Collected({}, [], {})
        self._layout.read(payload, 0, collected)
        roles = collected.roles
        if not roles:
            samples = self._finish.sample(collected.values, collected.missing, settings)
            return Decoded(message=self._place.message, samples=samples)
        return Decoded(
            message=self._place.message,
            samples=self._finish.sample(
                collected.values, collected.missing, settings, time=roles.get("time"), tag=roles.get("tag")
            ),
            boot=roles.get("boot"),
            seq=roles.get("seq"),
            serial=roles.get("serial"),
        )

    def encode(self, outgoing: Outgoing) -> bytes:
        """The frame."""
        return self._layout.write(outgoing)
