"""Compares the sender's book with what the platform holds, and says what is wrong. Pure.

Owns the meaning of lost, altered, phantom and doubled. It reads no file and asks no server.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from citysense_sim.ledger import Key, Sent


class Stored(NamedTuple):
    """A reading as the platform gives it out. `time` is event time in ms since 1970 UTC."""

    device: str
    time: int
    value: float


class CaseSeen(NamedTuple):
    """A case that came from a device's alert, with the number of the alert's episode."""

    device: str
    episode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What does not fit. Every list empty means the promise was kept."""

    sent: int
    acked: int
    stored: int
    lost: tuple[Sent, ...] = ()
    """Acknowledged, and not there."""
    altered: tuple[tuple[Sent, float], ...] = ()
    """There with another value, which stands beside it."""
    phantom: tuple[Stored, ...] = ()
    """There, and never sent."""
    doubled: tuple[Stored, ...] = ()
    """There more than once; one entry for each time too many."""
    unsent_acks: tuple[Key, ...] = ()
    """Acknowledged, and never sent: the sender's own book is wrong."""
    doubled_cases: tuple[CaseSeen, ...] = ()
    """More than one case for an episode, or cases beyond the episodes that the readings make."""
    missing_cases: tuple[str, ...] = ()
    """Devices, once for each episode that has no case."""

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        wrong = (
            self.lost,
            self.altered,
            self.phantom,
            self.doubled,
            self.unsent_acks,
            self.doubled_cases,
            self.missing_cases,
        )
        return not any(wrong)


class Expected:
    """What the ledger leads one to expect of the store.

    A reading is found by device and event time, which is how the store names it; each must be unique in `sent`
    (ValueError: then nothing could be said).
    """

    def __init__(self, sent: Sequence[Sent], acked: Set[Key]) -> None:
        self._sent = sent
        self._acked = acked
        self._at = {(row.device, row.time): row for row in sent}
        if len(self._at) != len(sent):
            raise ValueError(
                "two rows of the ledger have the same device and event time; the check could not tell them apart"
            )
        known = {row.key for row in sent}
        self._unsent_acks = tuple(sorted(acked - known))
        self._promised = {moment for moment, row in self._at.items() if row.key in acked}

    def compare(self, stored: Iterable[Stored]) -> Findings:
        """acked is a subset of stored, stored is a subset of sent, values are equal, nothing is there twice."""
        seen: set[tuple[str, int]] = set()
        altered: list[tuple[Sent, float]] = []
        phantom: list[Stored] = []
        doubled: list[Stored] = []
        count = 0
        for row in stored:
            count += 1
            moment = row[:2]
            origin = self._at.get(moment)
            if origin is None:
                phantom.append(row)
            elif moment in seen:
                doubled.append(row)
            elif origin.value != row.value:
                altered.append((origin, row.value))
            seen.add(moment)
        return Findings(
            sent=len(self._sent),
            acked=len(self._acked),
            stored=count,
            lost=tuple(self._at[moment] for moment in sorted(self._promised - seen)),
            altered=tuple(altered),
            phantom=tuple(phantom),
            doubled=tuple(doubled),
            unsent_acks=self._unsent_acks,
        )


def episodes(values: Iterable[float], *, raise_at: float, clear_below: float) -> int:
    """How often the values, in order of time, rise to `raise_at` after having been below `clear_below`."""
    count, up = 0, False
    for value in values:
        if not up and value >= raise_at:
            count, up = count + 1, True
        elif up and value < clear_below:
            up = False
    return count


def check_cases(
    sent: Sequence[Sent], cases: Sequence[CaseSeen], *, raise_at: float, clear_below: float
) -> tuple[tuple[CaseSeen, ...], tuple[str, ...]]:
    """(doubled, missing): one case for each episode that the delivered readings of a device make, and no other."""
    courses: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in sent:
        courses[row.device].append((row.time, row.value))
    doubled: list[CaseSeen] = []
    kept: Counter[str] = Counter()
    for case, times in sorted(Counter(cases).items()):
        doubled += [case] * (times - 1)
        kept[case.device] += 1
    missing: list[str] = []
    for device in sorted(courses.keys() | kept.keys()):
        ordered = [value for _, value in sorted(courses.get(device, []))]
        expected = episodes(ordered, raise_at=raise_at, clear_below=clear_below)
        missing += [device] * (expected - kept[device])
        excess = kept[device] - expected
        if excess > 0:
            last = sorted({case for case in cases if case.device == device})
            doubled += last[-excess:]
    return tuple(doubled), tuple(missing)
