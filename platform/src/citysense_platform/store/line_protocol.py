"""Points as InfluxDB line protocol. Pure.

Owns escaping and the types of fields: numbers are always float, so that a metric sent as 5 today and 5.2 tomorrow
cannot meet a field of another type; booleans are boolean, texts are strings. A metric that is suspect has a string
field `<metric>.q` beside it; `received` is an integer in ms.
"""

from __future__ import annotations

from citysense_platform.store.points import Point, Value

RECEIVED = "received"
QUALITY_SUFFIX = ".q"

_TAG_ESCAPES = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ "})
_MEASUREMENT_ESCAPES = str.maketrans({",": r"\,", " ": r"\ "})
_STRING_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\""})
# Outside of a string line protocol has no way to write a line break or a trailing backslash; a quotation mark in a key
# would open a string, and # at the start of a line makes it a comment.
_UNWRITABLE = {code: f"%{code:02X}" for code in (*range(32), 127, *b'%\\"#')}


def writable(name: str) -> str:
    """`name` as it stands in tags: what a line cannot hold becomes %XX. Ids of ours have none of them."""
    return name.translate(_UNWRITABLE)


def line_of(point: Point) -> bytes:
    """One line without its end; time in ms. The point has at least one value."""
    head = writable(point.kind).translate(_MEASUREMENT_ESCAPES) + ",device=" + _tag(point.device)
    if point.site:
        head += ",site=" + _tag(point.site)
    fields = []
    for metric, value in point.values.items():
        key = _tag(metric)
        fields.append(f"{key}={_field(value)}")
        if metric in point.suspect:
            fields.append(f'{key}{QUALITY_SUFFIX}="suspect"')
    fields.append(f"{RECEIVED}={point.received}i")
    return f"{head} {','.join(fields)} {point.time}".encode()


def _tag(text: str) -> str:
    return writable(text).translate(_TAG_ESCAPES)


def _field(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value.translate(_STRING_ESCAPES)}"'
    return repr(float(value))
