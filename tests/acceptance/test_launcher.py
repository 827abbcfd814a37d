"""The launcher in a copy of the repository: sets itself up once, silently the second time, and mends a half-made set-up."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows or would take, in a folder of their own."""
    place = tmp_path_factory.mktemp("clone") / "citysense"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    return place


def launch(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONSAFEPATH")}
    command = ["/usr/bin/env", "python3", str(clone / "citysense"), *words]
    return subprocess.run(
        command, cwd=clone.parent, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


def test_first_second_and_mended_run(clone: Path) -> None:
    first = launch(clone, "config", "show", "--json")
    assert first.returncode == 0, first.stderr
    assert re.search(r"Ready: \d+ packages in [\d.]+ s, [\d.]+ MB fetched", first.stdout)

    second = launch(clone, "config", "show", "--json")
    assert json.loads(second.stdout)["api_port"] == {"value": 8080, "source": "default"}
    assert second.stderr == ""

    (clone / ".venv" / "citysense-setup").unlink()
    shutil.rmtree(clone / ".venv" / "lib")
    mended = launch(clone, "config", "show", "--json")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "Ready:" in mended.stdout
    assert launch(clone, "no-such-command").returncode == 2


def test_a_lock_that_was_altered_is_refused(clone: Path) -> None:
    lock = clone / "requirements.lock"
    whole = lock.read_text()
    lock.write_text(re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", whole))
    shutil.rmtree(clone / ".venv", ignore_errors=True)
    try:
        refused = launch(clone, "config", "show")
    finally:
        lock.write_text(whole)
    assert refused.returncode == 1
    assert "installing the locked packages failed" in refused.stderr
