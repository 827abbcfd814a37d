"""Getting back into step with a slave on an RTU line, after a request whose reply was lost.

Owns what may still come from one slave, and which read proves that nothing does. Pure; times are not its business.

A late reply looks like the reply to any other request of its shape. A slave answers in the order in which it was asked,
so a reply of a shape that no lost request has shows that all earlier replies have come or never will. That read is:

1. a planned read of another shape, whose answer is known to come;
2. a part of a planned read;
3. one register more than a planned read;
4. one register or bit at the same address of the other table.

What 3 and 4 fetch is never used. A slave that does not serve them says so, and an exception proves as much as data: of a
function that no lost request has; and of any function, where its code says "no such thing" (1 to 3) and the lost requests
were all served before. A slave with one register alone on its line is thus asked for two registers, then for the other
table. A slave that meets all of these with silence has been asked so often that a stuck reply would have come out: then
the shape that was lost longest ago is asked again and believed, which for such a slave is its planned read.
"""

from __future__ import annotations

from collections.abc import Sequence

from citysense_profiles import Read, Write

Request = Read | Write
Shape = tuple[int, int]
"""Function and bytes of data in the reply; -1 for a write."""

_READS = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
_OTHER_TABLE = {"coil": "discrete", "discrete": "coil", "holding": "input", "input": "holding"}
_BIT_TABLES = ("coil", "discrete")
_MOST = {"coil": 2000, "discrete": 2000, "holding": 125, "input": 125}
_MOST_ODD = 4
"""Reads made only for this that are tried in turn: a slave may lag behind by as many requests and is still found out."""
_MOST_LOST = 64
_NO_SUCH_THING = (1, 2, 3)


def function_of(request: Request) -> int:
    """The function code that carries the request."""
    return _READS[request.table] if isinstance(request, Read) else request.function


def shape_of(request: Request) -> Shape:
    """What a reply to the request looks like from outside."""
    if not isinstance(request, Read):
        return (request.function, -1)
    return (_READS[request.table], data_bytes(request))


def data_bytes(read: Read) -> int:
    """Bytes of values in the reply: bits come in whole bytes."""
    return -(-read.count // 8) if read.table in _BIT_TABLES else 2 * read.count


def options(planned: Sequence[Read]) -> tuple[Read, ...]:
    """The reads that may prove the step, the best first, each of another shape; at least three where anything is planned."""
    by_shape = {shape_of(read): read for read in reversed(planned)}
    first = tuple(dict.fromkeys(by_shape[shape_of(read)] for read in planned))
    odd: dict[Shape, Read] = {}
    for read in (*_parts(first), *_longer(first), *_elsewhere(first)):
        if shape_of(read) not in by_shape:
            odd.setdefault(shape_of(read), read)
    return (*first, *list(odd.values())[:_MOST_ODD])


def _parts(planned: Sequence[Read]) -> list[Read]:
    step = {table: 8 if table in _BIT_TABLES else 1 for table in _READS}
    return [
        Read(table=read.table, address=read.address, count=count)
        for read in planned
        for count in dict.fromkeys((read.count - step[read.table], 1))
        if 1 <= count < read.count
    ][: _MOST_ODD - 2]


def _longer(planned: Sequence[Read]) -> list[Read]:
    made = []
    for read in planned:
        count = read.count + (8 if read.table in _BIT_TABLES else 1)
        if count <= _MOST[read.table]:
            made.append(Read(table=read.table, address=min(read.address, 65536 - count), count=count))
    return made[:1]


def _elsewhere(planned: Sequence[Read]) -> list[Read]:
    return [
        Read(table=_OTHER_TABLE[read.table], address=min(read.address, 65536 - count), count=count)
        for read in planned
        for count in (1, 9 if read.table in _BIT_TABLES else 2)
    ]


class Step:
    """Whether one slave is in step. A new one is not: what was asked before we came is unknown, and may be anything
    that is planned."""

    def __init__(self) -> None:
        self.proven = False
        self._planned: tuple[Read, ...] = ()
        self._options: tuple[Read, ...] = ()
        self._lost: dict[Request, None] = {}
        """What may still be answered, in the order in which it was asked."""
        self._served: set[Request] = set()
        self._last: Request | None = None

    def plan(self, planned: Sequence[Read]) -> None:
        """These reads are polled from now on."""
        distinct = tuple(dict.fromkeys(planned))
        if distinct == self._planned:
            return
        self._planned, self._options = distinct, options(distinct)
        self._served.intersection_update(distinct)
        if not self.proven:
            self._lost = dict.fromkeys([*distinct, *self._lost])

    def served(self, request: Request) -> None:
        """The request was answered with data, or a write confirmed."""
        self._last = request
        if isinstance(request, Read):
            self._served.add(request)

    def lost(self, request: Request) -> None:
        """The reply did not come, or may come twice."""
        self.proven = False
        self._lost.pop(request, None)
        self._lost[request] = None
        if len(self._lost) > _MOST_LOST:
            self._lost.pop(next(iter(self._lost)))

    def doubt(self) -> None:
        """The slave sent something that nobody asked for: the last reply may have been another one's."""
        if self._last is not None:
            self.lost(self._last)
        self.proven = False

    def next_read(self) -> Read | None:
        """The read that proves the step if it is answered; None where nothing is planned."""
        latest = {shape_of(request): at for at, request in enumerate(self._lost)}
        for read in self._options:
            if shape_of(read) not in latest:
                return read
        return min(self._options, key=lambda read: latest[shape_of(read)], default=None)

    def answered(self, read: Read, exception: int | None = None) -> bool:
        """Take the answer to `next_read`: data, or an exception code. True if it proves the step."""
        if exception is not None and not self._tells_apart(read, exception):
            self.lost(read)
            return False
        self.proven = True
        self._lost.clear()
        return True

    def _tells_apart(self, read: Read, exception: int) -> bool:
        alike = [request for request in self._lost if function_of(request) == function_of(read)]
        return not alike or (exception in _NO_SUCH_THING and all(request in self._served for request in alike))
