"""A full disk, on a small file system of its own: refused at the start, survived while running, healed afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)
CITYSENSE = str(Path(sys.executable).parent / "citysense")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], tuple[Path, list[str]]]]:
    """Mounts a tmpfs of some megabytes in a mount namespace of its own; gives its path as this process sees it, and the
    words that run a command inside."""
    holders: list[subprocess.Popen[bytes]] = []

    def mount(megabytes: int) -> tuple[Path, list[str]]:
        place = tmp_path / "disk"
        place.mkdir()
        unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]
        script = f"mount -t tmpfs -o size={megabytes}m tmpfs {place} && echo mounted && exec sleep 600"
        holder = subprocess.Popen([*unshare, "sh", "-c", script], stdout=subprocess.PIPE)
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mounted\n"
        enter = ["nsenter", "--target", str(holder.pid), "--mount"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        return Path(f"/proc/{holder.pid}/root{place}"), enter

    yield mount
    for holder in holders:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


def test_too_small_a_disk_is_refused_in_one_sentence(small_disk: Any, tmp_path: Path, instance: Any) -> None:
    place, enter = small_disk(20)
    command = [*enter, CITYSENSE, "up", "--data", str(tmp_path / "disk" / "data"), "--scenario", "none"]
    command += ["--api-port", str(instance.api_port), "--mqtt-port", str(instance.mqtt_port)]
    command += ["--coap-port", str(instance.coap_port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "MB of disk space left" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name for path in (place / "data").iterdir()} <= {"lock"}


@pytest.mark.peer("coap-client")
def test_a_disk_that_fills_up_loses_no_alarm_and_heals(small_disk: Any, tmp_path: Path, instance: Any) -> None:
    place, enter = small_disk(200)
    instance.prefix = enter
    instance.inside = tmp_path / "disk" / "data"
    instance.data = place / "data"
    instance.console = tmp_path / "console.txt"
    instance.start("--scenario", "none")
    for device in ("gauge-dry", "gauge-wet"):
        instance.register(device, "generic/water-gauge")
    post = partial(_post, instance, "gauge-wet")
    assert post(0, '{"water.level": 1.0, "battery.voltage": 3.6}') == "2.04"
    instance.metric("gauge-wet", "battery.voltage", 3.6)

    filler = place / "filler"
    with filler.open("wb") as file:
        free = shutil.disk_usage(place).free
        os.posix_fallocate(file.fileno(), 0, free)
    for seq in range(1, 60):
        assert post(seq, f'{{"water.level": {seq}.5, "battery.voltage": 3.{seq:02d}}}') == "2.04", seq
    given_up = instance.until(lambda: _tombstones(instance), "bulk readings became tombstones")
    assert given_up <= 59, "no more than there were bulk readings"
    filler.unlink()

    last = instance.metric("gauge-wet", "water.level", 59.5)
    assert last["quality"] == "good"
    span = "start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z"
    points = instance.get(f"/api/v1/devices/gauge-wet/series?metric=water.level&{span}")["points"]
    assert [point[1] for point in points] == [1.0, *(seq + 0.5 for seq in range(1, 60))], "no alarm is lost"
    # Healed: bulk readings are stored again, and what became tombstones is on record.
    instance.until(lambda: post(60, '{"battery.voltage": 3.33}') == "2.04", "it takes bulk again")
    instance.until(lambda: _battery_after(instance), "bulk is stored again", 30)


def _tombstones(instance: Any) -> float:
    """Readings that gateway and platform have acknowledged and given up, by their own figures."""
    lines = instance.ask("GET", "/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if 'name="tombstones"' in line)


def _battery_after(instance: Any) -> bool:
    sequence = getattr(instance, "next_seq", 61)
    instance.next_seq = sequence + 1
    _post(instance, "gauge-wet", sequence, '{"battery.voltage": 3.33}')
    entry = instance.get("/api/v1/devices/gauge-wet/latest")["metrics"].get("battery.voltage")
    return entry is not None and entry["value"] == 3.33


def _post(instance: Any, device: str, seq: int, values: str) -> str:
    """The code of the answer to a CoAP report."""
    payload = f'{{"boot": 1, "seq": {seq}, "v": {values}}}'
    url = f"coap://127.0.0.1:{instance.coap_port}/v1/{device}/report"
    command = ["coap-client-notls", "-m", "post", "-t", "50", "-e", payload, "-B", "10", "-v", "6", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    answers = [line for line in (done.stdout + done.stderr).splitlines() if " c:" in line and "c:POST" not in line]
    return answers[-1].split(" c:")[1].split()[0] if answers else "no answer"
