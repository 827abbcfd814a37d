"""The whole catalogue: every file checks clean, claims exist once, a wrong file loads nothing, and code knows no product."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

import citysense_profiles.catalogue as catalogue_module
from citysense_profiles import Catalogue, Profile, ProfileError, load_catalogue
from citysense_profiles.catalogue import EXAMPLE_FOLDER, OWN_CATALOGUE, load_profile
from citysense_profiles.checking.profile_check import check_profile
from citysense_profiles.format.profile_file import ProfileKind

FILES = sorted(path.relative_to(OWN_CATALOGUE).as_posix() for path in OWN_CATALOGUE.glob("*/*.yaml"))
EXAMPLES = [file for file in FILES if file.startswith(f"{EXAMPLE_FOLDER}/")]
CODECS = {"native", "binary", "tlv", "json", "cbor", "senml", "epc", "modbus"}

# Words of standards and of our own making: whoever writes a codec for them has to say them.
NO_PRODUCTS = {"generic", "gs1", "epc", "sl651", "szy206"}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture(scope="module")
def shipped(catalogue: Catalogue) -> list[Profile]:
    """What is offered, and the examples."""
    return [*catalogue, *(load_profile(OWN_CATALOGUE / file, OWN_CATALOGUE) for file in EXAMPLES)]


@pytest.mark.parametrize("file", FILES)
def test_every_profile_checks_clean(file: str) -> None:
    profile = load_profile(OWN_CATALOGUE / file, OWN_CATALOGUE)
    assert check_profile(profile).faults == []


def test_every_file_is_offered_under_its_path_except_the_examples(catalogue: Catalogue) -> None:
    assert catalogue.ids() == tuple(sorted(file.removesuffix(".yaml") for file in FILES if file not in EXAMPLES))
    assert EXAMPLES, "the format has no worked example"
    assert all(file.removesuffix(".yaml") not in catalogue for file in EXAMPLES)
    assert len(catalogue) == len(FILES) - len(EXAMPLES)


def test_an_unknown_id_is_told_with_those_that_exist(catalogue: Catalogue) -> None:
    assert catalogue.get("nobody/nothing") is None
    with pytest.raises(KeyError, match=r"known: .*generic/water-gauge"):
        catalogue["nobody/nothing"]


def test_every_codec_is_in_use(catalogue: Catalogue) -> None:
    assert {entry.codec.type for profile in catalogue for entry in profile.file.messages.values()} == CODECS


@pytest.mark.parametrize("kind", get_args(ProfileKind))
def test_every_kind_has_a_profile_of_our_own_making(catalogue: Catalogue, kind: str) -> None:
    own = [profile for profile in catalogue if profile.kind == kind and profile.id.startswith("generic/")]
    assert own, f"a {kind} of an unknown maker has no profile to start from"


def test_only_our_own_formats_are_native(catalogue: Catalogue) -> None:
    native = [profile.id for profile in catalogue if profile.native]
    assert "generic/water-gauge" in native
    assert all(profile_id.startswith("generic/") for profile_id in native)


def test_whatever_tells_of_people_is_personal(catalogue: Catalogue) -> None:
    for profile in catalogue:
        if profile.kind in ("door_lock", "tag_reader") or "lock.event" in profile.metrics:
            assert profile.personal, f"{profile.id} would be stored in the clear"
    assert not catalogue["generic/water-gauge"].personal


def test_a_distance_becomes_a_depth_where_the_mounting_height_is_known(catalogue: Catalogue) -> None:
    for profile in catalogue:
        if profile.kind == "waterlogging_gauge" and "water.distance" in profile.metrics:
            assert "water.level" in profile.metrics, f"{profile.id} gives a distance and never a depth"


def test_every_text_for_people_is_there_in_chinese(shipped: list[Profile]) -> None:
    missing = []
    for profile in shipped:
        file = profile.file
        entries = {**file.settings, **file.options, **{name: file.messages[name] for name in profile.messages}}
        texts = {"title": file.title_zh, **{f"caveat {number}": one.zh for number, one in enumerate(file.caveats)}}
        texts |= {name: entry.title_zh for name, entry in entries.items() if entry.title is not None}
        missing += [f"{profile.id}: {name}" for name, text in texts.items() if text is None]
    assert missing == []


def test_what_is_not_our_own_arithmetic_names_its_source(shipped: list[Profile]) -> None:
    unsourced = [
        f"{profile.id}: {vector.name}"
        for profile in shipped
        for vector in profile.vectors
        if vector.basis != "computed" and not vector.source
    ]
    assert unsourced == []


def test_vectors_of_a_profile_have_names_of_their_own(shipped: list[Profile]) -> None:
    for profile in shipped:
        names = [vector.name for vector in profile.vectors]
        assert sorted(set(names)) == sorted(names), profile.id


def test_code_names_no_vendor(catalogue: Catalogue) -> None:
    """Standards and our own formats may be named where they are implemented; products never."""
    vendors = {
        name.lower()
        for profile in catalogue
        if profile.id.split("/")[0] not in NO_PRODUCTS
        for name in (profile.product.vendor, profile.id.split("/")[0])
    } - NO_PRODUCTS
    assert len(vendors) > 20
    pattern = re.compile(rf"\b({'|'.join(re.escape(vendor) for vendor in sorted(vendors))})\b")
    root = Path(__file__).resolve().parents[2]
    folders = ("device_profiles", "gateway", "platform", "firmware_sim")
    sources = [path for folder in folders for path in (root / folder / "src").rglob("*.py")]
    assert len(sources) > 20
    found = [
        f"{path.relative_to(root)}: {match[1]}"
        for path in sources
        for match in pattern.finditer(path.read_text(encoding="utf-8").lower())
    ]
    assert found == []


# --- ours and a city's own profiles; a small catalogue stands for ours, so that these tests depend on no product

RADAR = """
schema: 1
id: {id}
kind: waterlogging_gauge
title: Radar
product: {{vendor: {vendor}, model: Radar, firmware: "{firmware}", source: manual}}
transport: {{mqtt: {{}}}}
report_every: 60s
messages:
  report:
    codec: {{type: binary}}
    fields: [{{name: level, type: u16, unit: mm, metric: water.level}}]
vectors: []
"""


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _radar(root: Path, profile_id: str, *, vendor: str = "City Works", firmware: str = "any") -> None:
    _write(root, f"{profile_id}.yaml", RADAR.format(id=profile_id, vendor=vendor, firmware=firmware))


@pytest.fixture
def city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The city's folder, still empty; ours holds acme/radar and an example."""
    _radar(tmp_path / "ours", "acme/radar", vendor="Acme")
    _radar(tmp_path / "ours", f"{EXAMPLE_FOLDER}/radar", vendor="Acme")
    monkeypatch.setattr(catalogue_module, "OWN_CATALOGUE", tmp_path / "ours")
    folder = tmp_path / "city"
    folder.mkdir()
    return folder


def test_a_citys_own_profiles_join_ours(city: Path) -> None:
    _radar(city, "works/radar")
    _radar(city, "aaa/radar", vendor="Aaa")
    assert load_catalogue(city).ids() == ("aaa/radar", "acme/radar", "works/radar")
    assert load_catalogue().ids() == ("acme/radar",)


def test_an_id_exists_once(city: Path) -> None:
    _radar(city, "acme/radar")
    with pytest.raises(ProfileError, match="id acme/radar exists already") as caught:
        load_catalogue(city)
    assert (caught.value.file, caught.value.field) == (str(city / "acme/radar.yaml"), "id")


@pytest.mark.parametrize(("one", "other"), [("any", "any"), ("any", ">=2"), (">=2", "any"), (">=2", ">=2")])
def test_a_product_is_claimed_once(city: Path, one: str, other: str) -> None:
    _radar(city, "works/radar-1", firmware=one)
    _radar(city, "works/radar-2", vendor="CITY works", firmware=other)
    with pytest.raises(ProfileError, match="claimed by works/radar-1 already") as caught:
        load_catalogue(city)
    assert (caught.value.file, caught.value.field) == (str(city / "works/radar-2.yaml"), "product")


def test_a_product_of_ours_cannot_be_claimed_again(city: Path) -> None:
    _radar(city, "works/radar", vendor="ACME")
    with pytest.raises(ProfileError, match="claimed by acme/radar already"):
        load_catalogue(city)


def test_two_generations_of_a_product_have_a_profile_each(city: Path) -> None:
    _radar(city, "works/radar-1", firmware="<2")
    _radar(city, "works/radar-2", firmware=">=2")
    assert load_catalogue(city).ids() == ("acme/radar", "works/radar-1", "works/radar-2")


def test_an_id_is_its_path(city: Path) -> None:
    _write(city, "works/other.yaml", RADAR.format(id="works/radar", vendor="City Works", firmware="any"))
    with pytest.raises(ProfileError, match=r"belongs into works/radar\.yaml") as caught:
        load_catalogue(city)
    assert (caught.value.file, caught.value.field) == ("works/other.yaml", "id")


def test_one_wrong_file_loads_nothing(city: Path) -> None:
    _radar(city, "works/radar")
    wrong = RADAR.format(id="works/wrong", vendor="City Works", firmware="2").replace("unit: mm", "unit: furlong")
    _write(city, "works/wrong.yaml", wrong)
    with pytest.raises(ProfileError, match="furlong") as caught:
        load_catalogue(city)
    assert (caught.value.file, caught.value.message, caught.value.field) == ("works/wrong.yaml", "report", "level")
    assert load_catalogue().ids() == ("acme/radar",)


def test_a_folder_that_is_not_there(city: Path) -> None:
    with pytest.raises(ProfileError, match="not a folder"):
        load_catalogue(city / "nowhere")


def test_a_file_that_is_not_text(city: Path) -> None:
    (city / "works").mkdir()
    (city / "works/bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_catalogue(city)
