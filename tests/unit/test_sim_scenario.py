"""What a scenario file may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from citysense.errors import SetupError
from citysense_sim.scenario import find_scenario, load_scenario


def storm() -> dict[str, Any]:
    content = yaml.safe_load(find_scenario("storm").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def refused(tmp_path: Path, content: dict[str, Any]) -> str:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    with pytest.raises(SetupError) as caught:
        load_scenario(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_shipped_scenario_has_five_devices_over_three_transports() -> None:
    played = load_scenario(find_scenario("storm"))
    assert [device.id for device in played.devices] == ["gauge-001", "gauge-002", "reader-001", "lock-001", "pile-001"]
    assert {device.transport for device in played.devices} == {"mqtt", "coap", "modbus"}


def test_unknown_keys_are_refused_by_name(tmp_path: Path) -> None:
    content = storm()
    content["devices"][0]["colour"] = "red"
    assert "devices.0.colour" in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"report_s": None, "values": {}}, "never speaks"),
        ({"values": {"water.level": {"curve": "nowhere"}}}, "no curve 'nowhere'"),
        ({"values": {"water.level": {"curve": "underpass_1", "constant": 3}}}, "exactly one of"),
        ({"values": {"water.level": {"constant": 3, "noise": 1}}}, "go with a curve"),
        ({"events": [{"minute": 60, "values": {"a": 1}}]}, "past the end"),
        ({"transport": "modbus", "content": None}, "polled"),
        ({"transport": "mqtt"}, "content is a CoAP"),
        ({"id": "gauge 1"}, "devices.0.id"),
        ({"id": "gauge-002"}, "stands there twice"),
    ],
)
def test_meaningless_devices_are_refused_with_the_reason(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    content = storm()
    content["devices"][0].update(change)
    assert words in refused(tmp_path, content)


def test_minutes_must_rise(tmp_path: Path) -> None:
    content = storm()
    content["curves"]["underpass_1"][3] = [1, 5]
    assert "minutes must rise" in refused(tmp_path, content)


def test_a_file_that_is_not_there_names_what_is(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="storm"):
        find_scenario(str(tmp_path / "nothing.yaml"))


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(SetupError, match="no valid YAML"):
        load_scenario(find_scenario(str(path)))
