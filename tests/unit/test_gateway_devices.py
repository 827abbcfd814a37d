"""The devices of a roster: who they are, what they may, and what a new roster changes."""

from __future__ import annotations

from citysense.keys import password_digest
from citysense.wire import Roster, RosterDevice
from citysense_gateway.devices import Changes, Device, Devices
from citysense_gateway.frame import Frame, Identity, Reason, Transport
from citysense_gateway.identify import Rejection, contradiction, identify
from citysense_profiles.catalogue import OWN_CATALOGUE, Catalogue, load_catalogue, load_profile
from citysense_profiles.compiler import parse_profile
from citysense_profiles.reading import Decoded
from citysense_profiles.vocabulary import load_vocabulary

CATALOGUE = load_catalogue()


def entry(device: str, secret: bytes = b"pw", **changes: object) -> RosterDevice:
    fields: dict[str, object] = {
        "profile": "generic/water-gauge",
        "salt": b"s",
        "digest": password_digest(b"s", secret),
    }
    return RosterDevice(id=device, **{**fields, **changes})  # type: ignore[arg-type]


def serving(*entries: RosterDevice, catalogue: Catalogue = CATALOGUE) -> Devices:
    devices = Devices(catalogue)
    devices.replace(Roster(version=1, devices=list(entries)))
    return devices


def frame(device: str | None) -> Frame:
    return Frame(
        transport=Transport.MQTT,
        channel="c",
        device=device,
        identity=Identity.CREDENTIAL,
        source="s",
        received_at=0,
    )


def test_only_the_devices_own_password_is_right() -> None:
    devices = serving(entry("a", b"one"), entry("b", b"two"), entry("c", digest=b"", salt=b""))
    assert devices.check_password("a", b"one")
    assert not devices.check_password("a", b"two")
    assert not devices.check_password("b", b"one")
    assert not devices.check_password("nobody", b"one")
    assert not devices.check_password("c", b""), "a device without a password cannot log in with an empty one"


def test_a_new_roster_is_compared_with_the_old_one() -> None:
    devices = serving(entry("same"), entry("gone"), entry("moved"), entry("rekeyed"))
    changes = devices.replace(
        Roster(
            version=2,
            devices=[
                entry("same"),
                entry("moved", settings={"mount.height": 250.0}),
                entry("rekeyed", b"other"),
                entry("new"),
                entry("odd", profile="nobody/knows"),
            ],
        )
    )
    assert changes == Changes(
        removed=("gone",),
        added=("new",),
        changed=("moved",),
        rekeyed=("rekeyed",),
        unsupported=(("odd", "nobody/knows"),),
    )
    assert changes.cut == ("gone", "rekeyed")
    assert not devices.known("gone")
    assert not devices.check_password("gone", b"pw")
    moved = devices.get("moved")
    assert moved is not None
    assert moved.settings == {"mount.height": 250.0}
    assert sorted(device.id for device in devices) == ["moved", "new", "rekeyed", "same"]


PILE = parse_profile(
    """
schema: 1
id: acme/pile
kind: charging_pile
title: P
product: {vendor: A, model: P, source: S}
transport: {modbus: {}}
report_every: 60s
vectors: []
settings: {mount.height: {title: H, unit: cm}}
options:
  socket: {title: Socket, default: 1, choices: {1: left, 2: right}}
  order: {title: Words, default: high_first, choices: {high_first: usual, low_first: older ones}}
messages:
  status:
    codec: {type: modbus, word_order: {option: order}}
    fields:
      - {name: watts, table: input, address: {option: socket, is: {1: 100, 2: 200}}, type: u32, unit: W,
         metric: electric.power}
""",
    "acme/pile.yaml",
    load_vocabulary(),
)


def test_options_choose_the_variant_and_only_numbers_are_computed_with() -> None:
    catalogue = Catalogue({profile.id: profile for profile in (PILE, *CATALOGUE)})
    chosen: dict[str, float | str] = {"socket": 2.0, "order": "low_first", "mount.height": 250.0}
    entries = (entry("usual", profile=PILE.id), entry("chosen", profile=PILE.id, settings=chosen))
    devices = serving(*entries, catalogue=catalogue)
    usual, other = devices.get("usual"), devices.get("chosen")
    assert usual is not None
    assert other is not None
    assert (usual.profile.plan_reads()[0].address, usual.settings) == (100, {})
    assert (other.profile.plan_reads()[0].address, other.settings) == (200, {"mount.height": 250.0})
    decoded = other.profile.decode_registers({("input", 200): 7, ("input", 201): 0}, settings=other.settings)
    assert decoded.samples[0].values == {"electric.power": 7.0}


def test_a_choice_that_does_not_exist_keeps_only_that_device_out() -> None:
    devices = Devices(Catalogue({PILE.id: PILE}))
    roster = [
        entry("bad", profile=PILE.id, settings={"socket": 3.0}),
        entry("good", profile=PILE.id, settings={"socket": 2.0}),
    ]
    changes = devices.replace(Roster(version=1, devices=roster))
    assert changes == Changes(
        added=("good",), unfit=(("bad", "setting socket: 3 is not a choice of socket; choose from 1, 2"),)
    )
    assert not devices.known("bad")
    assert not devices.check_password("bad", b"pw")
    mended = [entry("bad", profile=PILE.id, settings={"socket": 1.0}), entry("good", profile=PILE.id)]
    assert devices.replace(Roster(version=2, devices=mended)) == Changes(added=("bad",), changed=("good",))


def test_vendor_topics_belong_to_the_device_that_stands_in_them() -> None:
    templated = load_profile(OWN_CATALOGUE / "_example" / "level-gauge.yaml", OWN_CATALOGUE)
    catalogue = Catalogue({profile.id: profile for profile in (templated, *CATALOGUE)})
    (topic,) = templated.mqtt_topics
    entries = (entry("a", profile=templated.id), entry("b", profile=templated.id), entry("plain"))
    devices = serving(*entries, catalogue=catalogue)
    assert devices.topic_rights("a", topic.replace("{device}", "a")) == ""
    assert devices.topic_rights("a", topic.replace("{device}", "b")) is None
    assert devices.topic_rights("a", topic.replace("{device}", "a") + "/more") is None
    assert devices.topic_rights("plain", topic.replace("{device}", "plain")) is None
    assert devices.topic_rights("nobody", topic.replace("{device}", "nobody")) is None


def test_a_frame_is_of_the_device_that_its_channel_speaks_for() -> None:
    devices = serving(entry("a"))
    found = identify(frame("a"), devices)
    assert isinstance(found, Device)
    assert found.id == "a"
    for stranger in ("b", None):
        rejection = identify(frame(stranger), devices)
        assert isinstance(rejection, Rejection)
        assert rejection.reason is Reason.UNKNOWN_DEVICE


def test_a_payloads_own_serial_must_agree_where_one_is_registered() -> None:
    with_serial, without = serving(entry("a", serial="IMEI-1"), entry("b")).get("a"), serving(entry("b")).get("b")
    assert with_serial is not None
    assert without is not None

    def says(serial: str | None) -> Decoded:
        return Decoded(message="m", samples=(), serial=serial)

    assert contradiction(with_serial, says("imei-1")) is None
    assert contradiction(with_serial, says(None)) is None
    assert contradiction(without, says("anything")) is None
    mismatch = contradiction(with_serial, says("IMEI-2"))
    assert mismatch is not None
    assert mismatch.reason is Reason.IDENTITY_MISMATCH
    assert "IMEI-2" not in mismatch.detail
