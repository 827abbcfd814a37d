"""Settings: three sources, their order, and sentences that name source, setting and value."""

from __future__ import annotations

from pathlib import Path

import pytest

from citysense.cli.config import shown
from citysense.errors import SetupError, WrongUse
from citysense.settings import OTHER_VARIABLES, Settings, load_settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_listen_on_loopback() -> None:
    settings, origins = load_settings({}, {})
    assert settings.bind == "127.0.0.1"
    assert {origin.source for origin in origins} == {"default"}
    assert {origin.name for origin in origins} == set(Settings.model_fields)


def test_flag_beats_variable_beats_file() -> None:
    Path("citysense.toml").write_text("api_port = 1\nmqtt_port = 2\ncoap_port = 3\n")
    settings, origins = load_settings({"api_port": 10}, {"CITYSENSE_API_PORT": "20", "CITYSENSE_MQTT_PORT": "21"})
    assert (settings.api_port, settings.mqtt_port, settings.coap_port) == (10, 21, 3)
    sources = {origin.name: origin.source for origin in origins}
    assert (sources["api_port"], sources["mqtt_port"], sources["coap_port"]) == (
        "flag",
        "CITYSENSE_MQTT_PORT",
        "citysense.toml",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("api_prot = 1", ["api_prot", "citysense.toml", "no such setting", "api_port"]),
        ("api_port = 70000", ["api_port", "citysense.toml", "65535"]),
        ("api_port =", ["citysense.toml", "no valid TOML"]),
        ('bind = "localhost"', ["localhost", "no IP address"]),
        ('bind = "0.0.0.0"', ["0.0.0.0", "tls_cert", "--insecure"]),
        ('tls_cert = "a.pem"', ["tls_cert", "tls_key", "missing"]),
        ("speed = 0", ["speed", "greater than 0"]),
    ],
)
def test_wrong_file_is_named_with_setting_and_reason(text: str, words: list[str]) -> None:
    Path("citysense.toml").write_text(text)
    with pytest.raises(SetupError) as caught:
        load_settings({}, {})
    for word in words:
        assert word in str(caught.value)


def test_a_named_file_must_exist() -> None:
    with pytest.raises(SetupError, match=r"nowhere\.toml cannot be read"):
        load_settings({}, {}, Path("nowhere.toml"))


def test_beyond_loopback_with_tls_or_insecure() -> None:
    assert load_settings({"bind": "0.0.0.0", "insecure": True}, {})[0].insecure
    assert load_settings({"bind": "0.0.0.0", "tls_cert": "c.pem", "tls_key": "k.pem"}, {})[0].tls_cert == Path("c.pem")


def test_a_password_in_an_address_is_not_shown() -> None:
    _, origins = load_settings({}, {"CITYSENSE_INFLUX": "http://u:hush@db:8086?db=x"})
    influx = next(origin for origin in origins if origin.name == "influx")
    assert shown(influx) == "http://(hidden)@db:8086?db=x"


def test_a_secret_is_never_shown() -> None:
    _, origins = load_settings({}, {"CITYSENSE_INFLUX_TOKEN": "hush"})
    token = next(origin for origin in origins if origin.name == "influx_token")
    assert shown(token) == "(set)"


def test_a_mistyped_variable_is_refused_with_the_nearest_names_and_without_its_value() -> None:
    with pytest.raises(WrongUse) as caught:
        load_settings({}, {"CITYSENSE_BROKER_PASWORD": "hush", "OTHER": "1"})
    assert "CITYSENSE_BROKER_PASWORD" in str(caught.value)
    assert "did you mean CITYSENSE_BROKER_PASSWORD" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_variable_like_none_of_ours_is_refused_too() -> None:
    with pytest.raises(WrongUse, match=r"CITYSENSE_QQQQ .*config show"):
        load_settings({}, {"CITYSENSE_QQQQ": "1"})


@pytest.mark.parametrize("name", sorted(OTHER_VARIABLES))
def test_variables_that_are_no_settings_are_known(name: str) -> None:
    assert load_settings({}, {name: "1"})[0] == Settings()


def test_a_wrong_value_of_a_variable_is_wrong_use_and_one_of_the_file_is_not() -> None:
    with pytest.raises(WrongUse, match=r"mqtt_port .from CITYSENSE_MQTT_PORT"):
        load_settings({}, {"CITYSENSE_MQTT_PORT": "abc"})
    Path("citysense.toml").write_text("mqtt_port = 0\n")
    with pytest.raises(SetupError) as caught:
        load_settings({}, {})
    assert not isinstance(caught.value, WrongUse)
