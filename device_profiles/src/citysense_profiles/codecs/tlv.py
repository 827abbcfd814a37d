"""Messages made of items: a tag of fixed length, then a value whose length the tag gives.

Owns walking over the items. Items come in any order, each kind at most once in a frame; the value of each kind is a
`Layout`. A tag that the profile does not name ends decoding, since nobody knows how long its value is.
"""

from __future__ import annotations

from collections.abc import Mapping

from citysense_profiles.codecs.contract import Finish, Outgoing, Place
from citysense_profiles.codecs.layout import Collected, Layout
from citysense_profiles.reading import Decoded


class TlvCodec:
    """Items by tag. Encodes those items, in the order of the profile, of which the caller gives a metric."""

    def __init__(self, place: Place, finish: Finish, items: list[tuple[bytes, Layout]]) -> None:
        lengths = {len(tag) for tag, _ in items}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError("all tags of a message have the same length, at least one byte")
        if len({tag for tag, _ in items}) != len(items):
            raise ValueError("a tag stands twice")
        metrics = [metric for _, layout in items for metric in layout.metrics]
        if len(set(metrics)) != len(metrics):
            raise ValueError("a metric stands in two items")
        if any(layout.roles for _, layout in items):
            raise ValueError("items carry metrics; roles are for whole messages")
        self._place = place
        self._finish = finish
        self._items = tuple((tag, layout, frozenset(layout.metrics)) for tag, layout in items)
        self._by_tag = dict(items)
        self._tag_length = lengths.pop()
        self.metrics = frozenset(metrics)

    def fits(self, payload: bytes) -> bool:
        """The first tag is known."""
        return payload[: self._tag_length] in self._by_tag

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """All items as one sample; the content format says nothing about bytes."""
        end, at, width = len(payload), 0, self._tag_length
        if end == 0:
            self._place.refuse("truncated", "the frame is empty", offset=0)
        collected = Collected({}, [], {})
        seen: set[bytes] = set()
        while at < end:
            tag = payload[at : at + width]
            layout = self._by_tag.get(tag)
            if layout is None:
                if len(tag) < width:
                    self._place.refuse("truncated", f"tag {tag.hex(' ')} breaks off", offset=at)
                self._place.refuse("shape", f"tag {tag.hex(' ')} is not in the profile", offset=at)
            if tag in seen:
                self._place.refuse("shape", f"tag {tag.hex(' ')} stands twice", offset=at)
            seen.add(tag)
            at += width
            if at + layout.size > end:
                self._place.refuse("truncated", f"the value of {tag.hex(' ')} has {layout.size} bytes", offset=at)
            layout.read(payload, at, collected)
            at += layout.size
        return Decoded(
            message=self._place.message, samples=self._finish.sample(collected.values, collected.missing, settings)
        )

    def encode(self, outgoing: Outgoing) -> bytes:
        """The items of the given metrics."""
        frame = b"".join(
            tag + layout.write(outgoing)
            for tag, layout, metrics in self._items
            if not metrics.isdisjoint(outgoing.values)
        )
        if not frame:
            self._place.cannot_encode("no metric of this message is given, so there is nothing to send")
        return frame
