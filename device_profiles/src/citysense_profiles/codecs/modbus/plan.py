"""Which Modbus requests fetch or write a set of registers: few of them, none larger than the protocol allows.

Owns the merging of neighbours. Pure arithmetic on addresses; knows neither fields nor values' meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from citysense_profiles.codecs.contract import Read, Write
from citysense_profiles.codecs.modbus.wire import MAX_BITS

Key = tuple[str, int]
"""Table and zero-based address."""
BIT_TABLES = ("coil", "discrete")
MOST_WRITTEN = {"coil": 1968, "holding": 123}
"""What one request of function 15 or 16 may write (Modbus application protocol 1.1b3)."""
_SINGLE = {"coil": 5, "holding": 6}
_MANY = {"coil": 15, "holding": 16}


def plan_reads(
    fields: Iterable[tuple[Key, ...]], *, max_gap: int, max_count: int, one_value: bool = False
) -> tuple[Read, ...]:
    """Requests that fetch all fields, by table and address: a field is never torn apart, gaps up to `max_gap` are read
    along; with `one_value` each field has its own."""
    spans = sorted((keys[0][0], min(key[1] for key in keys), max(key[1] for key in keys)) for keys in fields)
    merged: list[tuple[str, int, int]] = []
    for table, first, last in spans:
        if merged and not one_value:
            before, start, end = merged[-1]
            limit = MAX_BITS if table in BIT_TABLES else max_count
            if before == table and first - end - 1 <= max_gap and max(last, end) - start + 1 <= limit:
                merged[-1] = (table, start, max(last, end))
                continue
        merged.append((table, first, last))
    return tuple(Read(table=table, address=start, count=end - start + 1) for table, start, end in merged)


def plan_writes(fields: Iterable[Mapping[Key, int]], *, single: bool, one_value: bool = False) -> tuple[Write, ...]:
    """Requests that write all fields' words, by table and address: neighbours go together, nothing is written across a
    gap, and no field is torn apart. `single`: one word goes by function 5 or 6.
    """
    merged: list[tuple[str, int, list[int]]] = []
    for words in sorted((dict(sorted(field.items())) for field in fields), key=min):
        table, first = next(iter(words))
        if merged and not one_value:
            before, start, whole = merged[-1]
            fits = len(whole) + len(words) <= MOST_WRITTEN[table]
            if before == table and first == start + len(whole) and fits:
                whole.extend(words.values())
                continue
        merged.append((table, first, list(words.values())))
    return tuple(
        Write(
            function=(_SINGLE if single and len(whole) == 1 else _MANY)[table],
            table=table,
            address=start,
            words=tuple(whole),
        )
        for table, start, whole in merged
    )
