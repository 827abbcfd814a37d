"""The sender's book on disk."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense.errors import StorageError
from citysense_sim.ledger import Key, Ledger, Sent, read_ledger


async def test_rows_are_synced_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    ledger = Ledger(tmp_path / "ledger.txt")
    ledger.open()
    row = Sent("gauge-1", 1, 0, 1_795_190_934_423, 0.1 + 0.2)
    ledger.sent(row)
    ledger.acked(row.key)
    assert synced == []
    await ledger.sync()
    assert synced == [ledger.path.stat().st_size]
    assert read_ledger(ledger.path) == ([row], {row.key})
    ledger.close()


async def test_a_book_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ledger.txt").write_text("s a 1 0 10 1.0\n")
    with pytest.raises(StorageError, match="cannot be made"):
        Ledger(tmp_path / "ledger.txt").open()


def test_a_torn_last_line_does_not_count_and_a_strange_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.txt"
    path.write_text("s a 1 0 10 1.5\na a 1 0\ns a 1 1 20 2.")
    assert read_ledger(path) == ([Sent("a", 1, 0, 10, 1.5)], {Key("a", 1, 0)})
    path.write_text("s a 1 0 10 1.5\nx\n")
    with pytest.raises(StorageError, match=r"ledger.txt:2: 'x'"):
        read_ledger(path)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back_as_itself(value: float) -> None:
    line = f"{value!r}"
    assert float(line) == value
    assert math.copysign(1, float(line)) == math.copysign(1, value)
