"""A process that was killed between writing and syncing left rows that can be read and are not on the disk.

Who opens the file next finds them committed and confirms a repeat of them. Nothing may be confirmed before they are
synced, which is seen from outside, in the system calls.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from citysense.clock import SetClock
from citysense.durable_log import DurableLog, Entry
from citysense_platform.city.database import City
from citysense_profiles.reading import ReadingClass

CONFIRM_FROM_LOG = """
import asyncio, os, sys
from pathlib import Path
from citysense.clock import SetClock
from citysense.durable_log import DurableLog

async def repeat():
    log = DurableLog(Path(sys.argv[1]) / "log.db", clock=SetClock(0), reserve_bytes=4096)
    log.open()
    found = await log.append(lambda c: ([], c.execute("SELECT count(*) FROM record").fetchone()[0]), urgent=True)
    os.write(1, b"CONFIRMED %d" % found)
    os._exit(0)

asyncio.run(repeat())
"""
CONFIRM_FROM_CITY = """
import asyncio, os, sys
from sqlalchemy import text
from citysense_platform.city.database import City

async def repeat():
    city = City(f"sqlite:///{sys.argv[1]}/city.db")
    city.open()
    found = await city.write(lambda c: c.execute(text("SELECT count(*) FROM gateway")).scalar())
    os.write(1, b"CONFIRMED %d" % found)
    os._exit(0)

asyncio.run(repeat())
"""


async def fill_log(folder: Path, left: Path) -> None:
    log = DurableLog(folder / "log.db", clock=SetClock(0), reserve_bytes=4096)
    log.open()
    await log.append_entries([Entry(cls=ReadingClass.SAFETY, body=b"flood", device="gauge-1", time=1)], urgent=True)
    shutil.copytree(folder, left)  # the copy was never synced, as if the process had been killed before
    log.close()


async def fill_city(folder: Path, left: Path) -> None:
    city = City(f"sqlite:///{folder}/city.db")
    city.open()
    await city.write(
        lambda c: c.execute(text("INSERT INTO gateway (id, token_digest, created) VALUES ('g', x'00', 0)"))
    )
    shutil.copytree(folder, left)
    city.close()


@pytest.mark.peer("strace")
@pytest.mark.parametrize(
    ("name", "fill", "confirm"),
    [("log.db", fill_log, CONFIRM_FROM_LOG), ("city.db", fill_city, CONFIRM_FROM_CITY)],
    ids=["log", "city"],
)
async def test_a_repeat_is_confirmed_only_after_what_was_left_is_synced(
    peer_path: str, tmp_path: Path, name: str, fill: object, confirm: str
) -> None:
    (tmp_path / "live").mkdir()
    left = tmp_path / "left"
    assert callable(fill)
    await fill(tmp_path / "live", left)
    trace = tmp_path / "trace"
    watched = [peer_path, "-f", "-y", "-o", str(trace), "-e", "trace=fdatasync,fsync,write"]
    command = [*watched, sys.executable, "-c", confirm, str(left)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "CONFIRMED 1", done.stderr
    calls = trace.read_text().splitlines()
    confirmed = next(i for i, call in enumerate(calls) if "CONFIRMED" in call)
    synced = [i for i, call in enumerate(calls) if "sync(" in call and f"{left}/{name}-wal" in call]
    assert synced, "nothing was synced at all"
    assert synced[0] < confirmed
