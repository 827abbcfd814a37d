"""What virtual devices keep over restarts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from citysense.errors import SetupError
from citysense_sim.identity import StateFile


def test_memory_survives_and_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "sim" / "state.json"
    state = StateFile(path)
    state.load()
    memory = state.of("reader-001")
    memory.secret, memory.boot, memory.port = "s3cret", 4, 15020
    state.save()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path], "a draft was left behind"

    again = StateFile(path)
    again.load()
    assert again.of("reader-001") == memory
    assert again.of("gauge-001").boot == 0


def test_a_failed_save_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = StateFile(path)
    state.of("a").boot = 1
    state.save()
    (tmp_path / "state.draft").mkdir()  # the draft cannot be opened
    state.of("a").boot = 2
    with pytest.raises(SetupError, match=r"state\.json"):
        state.save()
    again = StateFile(path)
    again.load()
    assert again.of("a").boot == 1


@pytest.mark.parametrize("content", ["", "{", '{"version": 2}', '{"version": 1, "devices": {"a": {"boot": -1}}}', "[]"])
def test_a_damaged_file_is_refused_by_name_and_not_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(SetupError, match=r"state\.json is damaged"):
        StateFile(path).load()
    assert path.read_text() == content


def test_the_file_is_readable_json(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state.json")
    state.of("a").boot = 7
    state.save()
    assert json.loads(state.path.read_text())["devices"]["a"]["boot"] == 7
