"""Power cuts, flipped bytes and failing system calls: what the log has confirmed is there, or is told as lost.

Half of this file is about the model of the disk itself: one that cannot lose anything proves nothing.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from citysense.cli.log_judge import judge, judge_image
from citysense.cli.power_images import Disk, cuts, sectors
from citysense.cli.soak_power import Recorded, cut_power, flip_bytes, record, spool_to_flip
from citysense.cli.storage_workload import FILE, LANES, body_of, number_of, read_promises
from citysense.cli.syscall_trace import Call, calls, strace
from citysense.record_format import Record

IMAGES = 60
FLIPS = 150


# -- the reader of traces and the model of the disk -----------------------------------------------------------------------


def hexed(text: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text)


def test_a_trace_is_read_back_into_calls() -> None:
    path = hexed(b"/d/spool.db-wal")
    lines = [
        f'10 openat(AT_FDCWD<{hexed(b"/")}>, "{path}", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 5<{path}>',
        f'10 openat(AT_FDCWD<{hexed(b"/d")}>, "{hexed(b"other")}", O_RDONLY) = 6<{hexed(b"/d/other")}>',
        f'10 openat(AT_FDCWD<{hexed(b"/d")}>, "{hexed(b"none")}", O_RDONLY) = -1 ENOENT (No such file or directory)',
        f'11 pwrite64(5<{path}>, "{hexed(b"abcd")}", 4, 4096) = 4',
        f"11 fdatasync(5<{path}> <unfinished ...>",
        f'10 write(1<{hexed(b"/out")}>, "{hexed(b"ACK 1")}", 5) = 3',
        "11 <... fdatasync resumed>)               = 0",
        f"11 ftruncate(5<{path}>, 8192) = 0",
        f'11 unlink("{path}") = 0',
        f"11 fsync(7<{hexed(b'/d')}>) = 0",
        "11 +++ exited with 0 +++",
    ]
    assert calls(lines) == [
        Call(name="openat", path="/d/spool.db-wal", creates=True),
        Call(name="openat", path="/d/other"),
        Call(name="pwrite64", path="/d/spool.db-wal", data=b"abcd", offset=4096),
        Call(name="write", path="/out", data=b"ACK"),
        Call(name="fdatasync", path="/d/spool.db-wal"),
        Call(name="ftruncate", path="/d/spool.db-wal", offset=8192),
        Call(name="unlink", path="/d/spool.db-wal"),
        Call(name="fsync", path="/d"),
    ]


def test_a_write_is_cut_at_the_sectors_of_the_disk() -> None:
    pieces = sectors(500, bytes(1_100))
    assert [(start, len(piece)) for start, piece in pieces] == [(500, 12), (512, 512), (1_024, 512), (1_536, 64)]


def images(*done: Call, count: int = 200) -> list[dict[str, bytes]]:
    disk = Disk("/d")
    for call in done:
        disk.do(call)
    return [disk.image(random.Random(seed)) for seed in range(count)]


MADE = Call(name="openat", path="/d/a", creates=True)
NAMED = Call(name="fsync", path="/d")
SYNC = Call(name="fdatasync", path="/d/a")


def write(data: bytes, offset: int = 0) -> Call:
    return Call(name="pwrite64", path="/d/a", data=data, offset=offset)


def test_what_was_synced_is_there_and_nothing_else_is_certain() -> None:
    after_sync = images(MADE, NAMED, write(b"x" * 1_024), SYNC)
    assert {image["a"] for image in after_sync} == {b"x" * 1_024}
    unsynced = {image["a"] for image in images(MADE, NAMED, write(b"x" * 1_024), SYNC, write(b"y" * 1_024))}
    assert unsynced == {a * 512 + b * 512 for a in (b"x", b"y") for b in (b"x", b"y")}, "torn in every way"


def test_unsynced_writes_reach_the_disk_in_any_order() -> None:
    left = {image["a"] for image in images(MADE, NAMED, write(b"1", 0), write(b"2", 600))}
    assert {b"", b"1", bytes(600) + b"2", b"1" + bytes(599) + b"2"} == left


def test_a_name_is_certain_after_its_folder_was_synced() -> None:
    assert {"a" in image for image in images(MADE, write(b"1"), SYNC)} == {True, False}
    gone = [MADE, NAMED, Call(name="unlink", path="/d/a")]
    assert {"a" in image for image in images(*gone)} == {True, False}
    assert {"a" in image for image in images(*gone, NAMED)} == {False}
    renamed = images(MADE, NAMED, write(b"1"), SYNC, Call(name="rename", path="/d/a", to="/d/b"))
    assert {tuple(image) for image in renamed} == {("b",)}


def test_truncating_and_other_folders() -> None:
    cut = images(MADE, NAMED, write(b"x" * 900), SYNC, Call(name="ftruncate", path="/d/a", offset=10))
    assert {len(image["a"]) for image in cut} == {900, 10}
    assert images(Call(name="pwrite64", path="/d/sub/a", data=b"x"), count=3) == [{}] * 3


def test_cuts_lie_all_over_the_run() -> None:
    chosen = cuts([SYNC] * 50, 500, random.Random(1))
    assert chosen == sorted(chosen)
    assert set(chosen) == set(range(1, 51))


def test_a_body_says_which_record_it_is() -> None:
    for number in (0, 59, 60, 61):
        assert number_of(body_of(number)) == number
        assert number_of(body_of(number)[:-1] + b"\0\1") is None
    assert number_of(b"nothing") is None


# -- the log under power cuts ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("full"), rounds=400, synchronous="FULL")


@pytest.mark.peer("strace")
def test_no_power_cut_takes_what_was_confirmed(recorded: Recorded) -> None:
    assert sum(call.name == "ftruncate" or call.path.endswith(FILE) for call in recorded.trace) > 50, (
        "the run folds its write-ahead log back into the file"
    )
    tested = cut_power(recorded, IMAGES, random.Random(20))
    assert tested.bad == []
    assert tested.records > 20 * IMAGES


@pytest.mark.peer("strace")
def test_without_a_sync_before_each_confirmation_the_same_cuts_lose_records(tmp_path: Path) -> None:
    tested = cut_power(record(tmp_path, rounds=100, synchronous="NORMAL"), 30, random.Random(20))
    assert tested.lost > 100
    assert all(judged.lost and not judged.refusal and not judged.phantom for _, judged in tested.bad)


@pytest.mark.peer("strace")
def test_a_log_that_syncs_the_wrong_file_is_found_out(recorded: Recorded) -> None:
    """The oracle on a trace from which every sync of the write-ahead log has been taken away."""
    unsynced = [call for call in recorded.trace if not (call.name == "fdatasync" and call.path.endswith("-wal"))]
    broken = Recorded(folder=recorded.folder, ledger=recorded.ledger, trace=tuple(unsynced))
    assert cut_power(broken, 20, random.Random(3)).lost > 0


# -- flipped bytes ----------------------------------------------------------------------------------------------------------


async def test_every_flipped_byte_is_harmless_or_told_and_the_log_starts(tmp_path: Path) -> None:
    original, promised = await spool_to_flip(tmp_path)
    assert 50_000 < len(original) < 120_000
    chance = random.Random(11)
    # The head of the file, the heads of pages, and any other byte.
    heads = [page + place for page in range(0, len(original), 4_096) for place in (0, 3, 5)]
    places = [*range(16, 100, 3), *heads, *chance.sample(range(len(original)), FLIPS - 70)]
    tested = await asyncio.to_thread(flip_bytes, original, promised, places, chance)
    assert tested.bad == []
    assert tested.salvaged > 10
    assert tested.lost > 0


async def test_a_byte_that_changes_a_body_unseen_would_be_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge, on a log that does not look at the records' check sums."""
    original, promised = await spool_to_flip(tmp_path)

    def believing(blob: bytes) -> Record:
        return Record(offset=int.from_bytes(blob[8:16], "big"), cls=LANES[blob[16]], body=blob[17:])

    monkeypatch.setattr("citysense.record_format.unpack", believing)
    at = original.index(body_of(8))
    content = bytearray(original)
    content[at + 10] ^= 1
    judged = await asyncio.to_thread(judge_image, {FILE: bytes(content)}, promised)
    assert judged.silent


# -- failing system calls ---------------------------------------------------------------------------------------------------


@pytest.mark.peer("strace")
@pytest.mark.parametrize(
    ("call", "fault", "places"),
    [
        ("fdatasync", "error=EIO", (1, 9, 13)),
        ("pwrite64", "error=ENOSPC", (2, 30, 80)),
        ("pwrite64", "signal=SIGKILL", (3, 40, 60, 90)),
        ("fdatasync", "signal=SIGKILL", (2, 7, 12)),
        ("ftruncate", "error=EIO", (1,)),
    ],
    ids=["EIO at a sync", "ENOSPC at a write", "killed at a write", "killed at a sync", "EIO at a truncation"],
)
async def test_a_failing_call_costs_only_what_it_was_for(
    tmp_path: Path, peer_path: str, call: str, fault: str, places: tuple[int, ...]
) -> None:
    for place in places:
        folder = tmp_path / str(place)
        folder.mkdir()
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={place}"]
        command = [*strace(peer_path, folder / "trace", *inject), sys.executable, "-m"]
        command += ["citysense.cli.storage_workload", str(folder), "--rounds", "12", "--keep-all"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60, check=False)
        killed = "SIGKILL" in fault
        assert (done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)) == killed, (place, done.stderr)
        promised = read_promises(done.stdout.decode().splitlines())
        judged = await judge(folder, promised)
        assert not judged.silent, (place, judged)
        # Where the disk is full, state and bulk are given up on record.
        assert judged.lost == 0 or "ENOSPC" in fault, (place, judged)
        if not killed and promised.sent:  # else it refused to start, with a sentence
            assert len(promised.acked) >= 40, f"neighbours of the failing call {place} are confirmed"
