"""The registry's decisions, against the profiles that ship."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_gateway.modbus.endpoint import parse_endpoint
from citysense_platform.registry.decide import (
    Holdings,
    Reason,
    Refusal,
    check_change,
    check_holdings,
    check_new,
    merged,
    settings_faults,
)
from citysense_platform.registry.device import Change, CredentialKind, Device, NewDevice, Place, Wanted
from citysense_platform.registry.endpoint import endpoint_fault
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.compiler import parse_profile
from citysense_profiles.profile import Profile
from citysense_profiles.vocabulary import load_vocabulary

CATALOGUE = load_catalogue()
PLACE = Place(name="Underpass 1", lon=113.45, lat=30.36, datum="wgs84")
GAUGE = NewDevice(
    id="gauge-001",
    profile="generic/water-gauge",
    site=PLACE,
    endpoint=None,
    serial=None,
    settings={"mount.height": 250.0},
    credential=Wanted(kind=CredentialKind.PASSWORD),
)
POLLED = NewDevice(
    id="gauge-002",
    profile="dfrobot/sen0676",
    site=3,
    endpoint="modbus+tcp://192.0.2.7:502/1",
    serial=None,
    settings={},
    credential=None,
)
REGISTERED = Device(
    id="gauge-001",
    profile="generic/water-gauge",
    site=None,
    gateway="gw-1",
    endpoint=None,
    serial="S1",
    settings={"mount.height": 250.0},
    credential=None,
    created=0,
    revoked=None,
    version=1,
)
OSCORE = Wanted(kind=CredentialKind.OSCORE)
HUB = replace(REGISTERED, id="hub-1")
NOTHING = Holdings(device_with_id=None, device_with_serial=None, site_exists=True)


def reasons(refusal: Refusal | None) -> list[Reason]:
    return [] if refusal is None else [fault.reason for fault in refusal.faults]


@pytest.mark.parametrize(
    "new",
    [GAUGE, POLLED, replace(GAUGE, credential=None, site=None), replace(GAUGE, credential=OSCORE)],
    ids=lambda new: str(new.id),
)
def test_sound_requests_pass(new: NewDevice) -> None:
    assert check_new(new, CATALOGUE.get(new.profile)) is None
    assert check_holdings(new, NOTHING) is None


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (replace(GAUGE, profile="acme/none"), [Reason.UNKNOWN_PROFILE]),
        (replace(GAUGE, endpoint="modbus+tcp://192.0.2.7:502/1"), [Reason.ENDPOINT_NOT_ALLOWED]),
        (replace(POLLED, endpoint=None), [Reason.ENDPOINT_REQUIRED]),
        (replace(POLLED, endpoint="modbus+rtu-tcp://192.0.2.7/1"), [Reason.ENDPOINT_INVALID]),
        (replace(GAUGE, settings={"mount.width": 1.0}), [Reason.UNKNOWN_SETTING]),
        (
            replace(POLLED, endpoint=None, settings={"a.b": 1.0, "c.d": 2.0}, credential=OSCORE),
            [
                Reason.ENDPOINT_REQUIRED,
                Reason.UNKNOWN_SETTING,
                Reason.UNKNOWN_SETTING,
                Reason.CREDENTIAL_KIND_NOT_AVAILABLE,
            ],
        ),
    ],
)
def test_every_fault_of_a_request_is_named(new: NewDevice, expected: list[Reason]) -> None:
    assert reasons(check_new(new, CATALOGUE.get(new.profile))) == expected


@pytest.mark.parametrize(
    ("holdings", "expected"),
    [
        (replace(NOTHING, device_with_id=REGISTERED), [Reason.DUPLICATE_ID]),
        (replace(NOTHING, device_with_id=replace(REGISTERED, revoked=5)), [Reason.DUPLICATE_ID]),
        (replace(NOTHING, device_with_serial=REGISTERED), [Reason.DUPLICATE_SERIAL]),
        (replace(NOTHING, site_exists=False), [Reason.UNKNOWN_SITE]),
        (
            replace(NOTHING, device_with_id=REGISTERED, device_with_serial=REGISTERED, site_exists=False),
            [Reason.DUPLICATE_ID],
        ),
    ],
)
def test_what_is_registered_already_speaks_against_it(holdings: Holdings, expected: list[Reason]) -> None:
    assert reasons(check_holdings(GAUGE, holdings)) == expected


@pytest.mark.parametrize(
    ("concentrator", "holdings", "expected"),
    [
        ("hub-1", replace(NOTHING, concentrator=HUB), []),
        ("hub-1", NOTHING, [Reason.UNKNOWN_CONCENTRATOR]),
        ("hub-1", replace(NOTHING, concentrator=replace(HUB, revoked=5)), [Reason.UNKNOWN_CONCENTRATOR]),
        ("gauge-001", replace(NOTHING, concentrator=REGISTERED), [Reason.CONCENTRATOR_IS_ITSELF]),
        ("hub-1", replace(NOTHING, concentrator=replace(HUB, concentrator="hub-0")), [Reason.CONCENTRATOR_IS_CHILD]),
        ("hub-1", replace(NOTHING, concentrator=replace(HUB, gateway="gw-2")), [Reason.CONCENTRATOR_ELSEWHERE]),
        ("hub-1", replace(NOTHING, concentrator=HUB, has_children=True), [Reason.HAS_CHILDREN]),
    ],
)
def test_a_concentrator_is_a_device_of_the_same_gateway_that_speaks_for_itself(
    concentrator: str, holdings: Holdings, expected: list[Reason]
) -> None:
    new = replace(GAUGE, concentrator=concentrator, gateway="gw-1")
    assert reasons(check_holdings(new, holdings)) == expected
    change = Change(fields=frozenset({"concentrator"}), concentrator=concentrator)
    assert reasons(check_change(REGISTERED, change, None, holdings)) == expected


def test_a_child_moves_with_its_concentrator_only() -> None:
    child = replace(REGISTERED, concentrator="hub-1")
    holdings = replace(NOTHING, concentrator=HUB)
    away = Change(fields=frozenset({"gateway"}), gateway="gw-2")
    assert reasons(check_change(child, away, None, holdings)) == [Reason.CONCENTRATOR_ELSEWHERE]
    alone = Change(fields=frozenset({"gateway", "concentrator"}), gateway="gw-2", concentrator=None)
    assert check_change(child, alone, None, holdings) is None
    assert reasons(check_change(child, alone, None, replace(holdings, gateway_exists=False))) == [
        Reason.UNKNOWN_GATEWAY
    ]
    # Where it stands is asked for by a change of it only.
    other = Change(fields=frozenset({"settings"}), settings={})
    assert check_change(child, other, None, replace(NOTHING, concentrator=replace(HUB, revoked=5))) is None


def profile(settings: str, options: str = "{}") -> Profile:
    text = (
        "schema: 1\nid: acme/pile\nkind: charging_pile\ntitle: P\nproduct: {vendor: A, model: P, source: S}\n"
        f"transport: {{modbus: {{}}}}\nreport_every: 60s\nvectors: []\nsettings: {settings}\noptions: {options}\n"
        "messages:\n  status:\n    codec: {type: modbus}\n    fields:\n"
        "      - {name: volts, table: input, address: 0, type: u16, unit: V, metric: electric.voltage}\n"
    )
    return parse_profile(text, "acme/pile.yaml", load_vocabulary())


def faults(settings: str, given: dict[str, float | str], options: str = "{}") -> list[Reason]:
    return [fault.reason for fault in settings_faults(profile(settings, options), given)]


def test_settings_keep_to_their_range_and_required_ones_must_be_there() -> None:
    ranged = "{a.b: {title: A, unit: cm, range: [0, 9]}}"
    assert faults(ranged, {"a.b": 9.5}) == [Reason.SETTING_OUT_OF_RANGE]
    assert faults(ranged, {"a.b": 9.0}) == []
    assert faults("{a.b: {title: A, unit: cm}}", {"a.b": 1e9}) == []
    assert faults("{a.b: {title: A, unit: cm}}", {}) == []
    assert faults("{a.b: {title: A, unit: cm, required: true}}", {}) == [Reason.SETTING_REQUIRED]


def test_a_number_is_no_text() -> None:
    [fault] = settings_faults(profile("{a.b: {title: A, unit: cm}}"), {"a.b": "250"})
    assert (fault.reason, fault.field) == (Reason.SETTING_NO_NUMBER, "settings.a.b")
    assert fault.text == "a.b is '250'; it is a number, in cm, written without quotes"


SOCKETS = (
    "{socket: {title: Socket, default: 1, choices: {1: left, 2: right}},"
    " order: {title: Words, default: high, choices: {high: high first, low: low first}}}"
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"socket": 2.0, "order": "low"}, []),
        ({"socket": 3.0}, [Reason.UNKNOWN_CHOICE]),
        ({"socket": 1.5}, [Reason.UNKNOWN_CHOICE]),
        ({"socket": "2"}, [Reason.UNKNOWN_CHOICE]),
        ({"order": 1.0}, [Reason.UNKNOWN_CHOICE]),
        ({"plug": "left"}, [Reason.UNKNOWN_SETTING]),
    ],
)
def test_options_are_chosen_among_the_settings(given: dict[str, float | str], expected: list[Reason]) -> None:
    assert faults("{}", given, SOCKETS) == expected


def test_a_wrong_choice_is_told_with_the_right_ones() -> None:
    [fault] = settings_faults(profile("{}", SOCKETS), {"order": "middle"})
    assert fault.field == "settings.order"
    assert fault.text == "'middle' is not a choice of order; choose from high, low"
    [unknown] = settings_faults(profile("{a.b: {title: A, unit: cm}}", SOCKETS), {"plug": 1.0})
    assert unknown.text == "'plug' is no setting of this profile, which has a.b, socket, order"


def test_change_looks_at_what_it_touches_only() -> None:
    gauge = CATALOGUE["generic/water-gauge"]
    polled = CATALOGUE["dfrobot/sen0676"]
    endpoint = Change(fields=frozenset({"endpoint"}), endpoint="modbus+tcp://192.0.2.7:502/1")
    assert reasons(check_change(REGISTERED, endpoint, gauge, NOTHING)) == [Reason.ENDPOINT_NOT_ALLOWED]
    assert check_change(replace(REGISTERED, profile=polled.id), endpoint, polled, NOTHING) is None
    assert check_change(REGISTERED, Change(fields=frozenset()), gauge, NOTHING) is None
    away = Change(fields=frozenset({"endpoint"}), endpoint=None)
    assert reasons(check_change(REGISTERED, away, polled, NOTHING)) == [Reason.ENDPOINT_REQUIRED]
    nowhere = Change(fields=frozenset({"site"}), site=77)
    assert reasons(check_change(REGISTERED, nowhere, gauge, replace(NOTHING, site_exists=False))) == [
        Reason.UNKNOWN_SITE
    ]


def test_revoked_devices_do_not_change() -> None:
    change = Change(fields=frozenset({"settings"}), settings={"mount.height": 1.0})
    revoked = replace(REGISTERED, revoked=5)
    assert reasons(check_change(revoked, change, CATALOGUE[revoked.profile], NOTHING)) == [Reason.REVOKED]


def test_merged_settings_lose_what_is_null() -> None:
    assert merged({"a": 1.0, "b": 2.0}, {"b": None, "c": "low", "d": None}) == {"a": 1.0, "c": "low"}


@pytest.mark.parametrize(
    "endpoint",
    [
        "modbus+tcp://192.0.2.7:502/1",
        "modbus+tcp://pile-7.example:5020/255",
        "modbus+tcp://[2001:db8::7]:502/0",
        "modbus+rtu-tcp://192.0.2.7:4001/17",
        "modbus+tls://192.0.2.7:802/1",
        "modbus+tcp://192.0.2.7/1",
        "modbus+tls://[2001:db8::7]/1?timeout=2.5",
        "modbus+tcp://192.0.2.7:502/1?timeout=2.5",
        "modbus+rtu:///dev/ttyUSB0?baud=9600&parity=N&unit=1",
        "modbus+rtu:///dev/serial/by-id/usb-1?baud=19200&parity=E&stop=1&unit=247",
        "modbus+rtu:///dev/ttymxc2?baud=300&unit=1",
        "modbus+rtu:///dev/ttyAMA0?baud=1000000&unit=1",
        "modbus+rtu:///dev/pts/7?baud=9600&unit=1",
        "modbus+tcp://station:502/1",
        "modbus+tcp://modbus_sim:502/1",
        "modbus+tcp://[fe80::1%25eth0]:502/1",
        f"modbus+tcp://{'a' * 63}.{'b' * 63}.example:502/1",
        "modbus+tcp://7.example:502/1",
    ],
)
def test_endpoints_that_are_fine(endpoint: str) -> None:
    assert endpoint_fault(endpoint) is None
    assert parse_endpoint(endpoint), "and the gateway takes it as well"


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("", "blank"),
        ("modbus+tcp://192.0.2.7:502/1 ", "blank"),
        ("http://192.0.2.7:502/1", "begins with 'http:'"),
        ("192.0.2.7", "no scheme"),
        ("modbus+rtu-tcp://192.0.2.7/1", "no port"),
        ("modbus+tcp://192.0.2.7:/1", "no port"),
        ("modbus+tcp://192.0.2.7:0/1", "port 0"),
        ("modbus+tcp://192.0.2.7:70000/1", "is no address"),
        ("modbus+tcp://[192.0.2.7:502/1", "is no address"),
        ("modbus+tcp://192.0.2.7:502", "unit"),
        ("modbus+tcp://192.0.2.7:502/256", "unit"),
        ("modbus+tcp://192.0.2.7:502/1/2", "unit"),
        ("modbus+tcp://192.0.2.7:502/1?a=1", "only timeout="),
        ("modbus+tcp://192.0.2.7:502/1?timeout=31", "0.05 to 30"),
        ("modbus+rtu-tcp://192.0.2.7:502/1?timeout=0.01", "0.05 to 30"),
        ("modbus+rtu:///dev/ttyUSB0?baud=9600&unit=1&timeout=x", "seconds from"),
        ("modbus+tcp://me:hush@192.0.2.7:502/1", "more than"),
        ("modbus+tcp://:502/1", "no host"),
        *(
            (f"modbus+tcp://{host}:502/1", f"names the host {host!r}")
            for host in (
                "-a",
                "a-",
                "a..b",
                ".a",
                "a.",
                ".",
                "a" * 64,
                f"{'a' * 63}." * 3 + "b" * 63,
                "300.1.2.3",
                "1.2.3",
                "1234",
                "a%b",
                "a.-b.c",
            )
        ),
        ("modbus+tcp://192.0.2.7:502/1?", "nothing after it"),
        ("modbus+tcp://192.0.2.7:502/1#", "nothing after it"),
        ("modbus+rtu-tcp://192.0.2.7:502/0", "from 1 to 247"),
        ("modbus+rtu-tcp://192.0.2.7:502/248", "from 1 to 247"),
        *(
            (f"modbus+rtu:///dev/{port}?baud=9600&unit=1", "no serial port")
            for port in (
                "null",
                "zero",
                "tty",
                "full",
                "random",
                "urandom",
                "tty1",
                "sda",
                "stdin",
                "mem",
                "pts/x",
                "ptmx",
            )
        ),
        ("modbus+rtu:///dev/ttyUSB0/../sda?baud=9600&unit=1", "no serial port"),
        ("modbus+rtu:///dev/serial/../sda?baud=9600&unit=1", "no serial port"),
        ("modbus+rtu:///dev/ttyUSB0?unit=1", "no baud"),
        ("modbus+rtu:///dev/ttyUSB0?baud=299&unit=1", "no baud"),
        ("modbus+rtu:///dev/ttyUSB0?baud=1000001&unit=1", "no baud"),
        ("modbus+rtu:///etc/passwd?unit=1", "no serial port"),
        ("modbus+rtu:///dev/../etc/passwd?unit=1", "no serial port"),
        ("modbus+rtu://dev/ttyUSB0?unit=1", "no serial port"),
        ("modbus+rtu:///dev/ttyUSB0?baud=9600", "no unit"),
        ("modbus+rtu:///dev/ttyUSB0?unit=0", "no unit"),
        ("modbus+rtu:///dev/ttyUSB0?unit=1&unit=2", "no unit"),
        ("modbus+rtu:///dev/ttyUSB0?unit=1&speed=9600", "'speed'"),
        ("modbus+rtu:///dev/ttyUSB0?unit=1&parity=X", "parity='X'"),
    ],
)
def test_endpoints_that_are_not(endpoint: str, words: str) -> None:
    assert words in (endpoint_fault(endpoint) or "")


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda tail: f"modbus+tcp://{tail}"))
def test_any_text_gets_a_verdict(endpoint: str) -> None:
    fault = endpoint_fault(endpoint)
    assert fault is None or fault
    if fault is None:
        assert parse_endpoint(endpoint)
