"""The whole catalogue: every vector, every claim, and that code knows no product by name."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from citysense_profiles import ProfileError, load_catalogue
from citysense_profiles.catalogue import OWN_CATALOGUE, load_profile
from citysense_profiles.model import VectorEntry
from citysense_profiles.profile import Profile
from citysense_profiles.vectors import check_profile, check_vector

EXAMPLE = load_profile(OWN_CATALOGUE / "_example/level-gauge.yaml", OWN_CATALOGUE)
PROFILES = [*load_catalogue(), EXAMPLE]
VECTORS = [
    pytest.param(profile, vector, id=f"{profile.id}: {vector.name}")
    for profile in PROFILES
    for vector in profile.vectors
]


@pytest.mark.parametrize(("profile", "vector"), VECTORS)
def test_vector(profile: Profile, vector: VectorEntry) -> None:
    assert check_vector(profile, vector) == []


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.id)
def test_every_message_is_shown_and_something_is_refused(profile: Profile) -> None:
    assert check_profile(profile) == []


def test_the_catalogue_holds_what_gateway_and_simulator_build_on() -> None:
    catalogue = load_catalogue()
    assert catalogue.ids() == (
        "alpitronic/hypercharger",
        "dfrobot/sen0676",
        "dingtek/df555",
        "generic/nbiot-lock",
        "generic/water-gauge",
        "impinj/r700",
        "milesight/em310-udl",
        "ykc/pile-v1-6",
    )
    assert [profile.id for profile in catalogue if profile.native] == ["generic/water-gauge"]
    assert [profile.id for profile in catalogue if profile.personal] == ["generic/nbiot-lock", "impinj/r700"]
    assert {profile.id for profile in catalogue if profile.plan_reads()} == {
        "alpitronic/hypercharger",
        "dfrobot/sen0676",
    }
    assert "_example/level-gauge" not in catalogue
    assert catalogue.get("nobody/nothing") is None
    with pytest.raises(KeyError, match="known: alpitronic"):
        catalogue["nobody/nothing"]


@pytest.mark.parametrize(
    ("profile_id", "vector"),
    [
        ("milesight/em310-udl", "ms-em310udl-1"),
        ("dingtek/df555", "dt-df555-1"),
        ("dingtek/df555", "dt-df555-gps"),
        ("dingtek/df555", "dt-df555-par"),
        ("alpitronic/hypercharger", "alpitronic-read"),
        ("impinj/r700", "impinj-cap-1"),
        ("impinj/r700", "impinj-barnowl"),
        ("ykc/pile-v1-6", "ykc-03-badcrc"),
    ],
)
def test_published_frames_are_in_the_catalogue(profile_id: str, vector: str) -> None:
    entry = next(entry for entry in load_catalogue()[profile_id].vectors if entry.name == vector)
    assert entry.basis in ("published", "abridged")
    assert entry.source


def test_a_vector_that_claims_something_wrong_is_told() -> None:
    profile = load_catalogue()["milesight/em310-udl"]
    right = profile.vectors[0]
    assert right.samples is not None
    wrong_sample = right.samples[0].model_copy(update={"values": {"battery.level": 91.0, "water.level": 1.0}})
    faults = check_vector(profile, right.model_copy(update={"samples": [wrong_sample]}))
    assert any("battery.level is 92.0, not 91.0" in fault for fault in faults)
    assert any("water.level is not there" in fault for fault in faults)
    assert check_vector(profile, right.model_copy(update={"samples": None, "error": "shape"})) != []
    assert check_vector(profile, right.model_copy(update={"samples": []})) == ["has 1 samples, not 0"]


def test_loading_is_fast_enough_for_every_start() -> None:
    # 300 ms is the budget; the best of three keeps a busy machine from deciding.
    spans = []
    for _ in range(3):
        start = time.perf_counter()
        load_catalogue()
        spans.append(time.perf_counter() - start)
    assert min(spans) < 0.3


def test_code_names_no_vendor() -> None:
    """`generic/...` profiles are our own formats, which examples and demonstrations may name; products never."""
    vendors = {name.lower() for p in load_catalogue() for name in (p.product.vendor, p.id.split("/")[0])} - {"generic"}
    root = Path(__file__).resolve().parents[2]
    folders = ("device_profiles", "gateway", "platform", "firmware_sim")
    sources = [path for folder in folders for path in (root / folder / "src").rglob("*.py")]
    assert len(sources) > 20
    found = [
        f"{path.relative_to(root)}: {vendor}"
        for path in sources
        for vendor in sorted(vendors)
        if re.search(rf"\b{re.escape(vendor)}\b", path.read_text(encoding="utf-8").lower())
    ]
    assert found == []


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _copy(profile_id: str) -> str:
    return (OWN_CATALOGUE / f"{profile_id}.yaml").read_text(encoding="utf-8")


def test_a_citys_own_profiles_join_ours(tmp_path: Path) -> None:
    text = _copy("dfrobot/sen0676").replace("dfrobot/sen0676", "city/radar").replace("vendor: DFRobot", "vendor: City")
    _write(tmp_path, "city/radar.yaml", text)
    assert "city/radar" in load_catalogue(tmp_path)
    assert "city/radar" not in load_catalogue()


def test_an_id_exists_once(tmp_path: Path) -> None:
    _write(tmp_path, "dfrobot/sen0676.yaml", _copy("dfrobot/sen0676"))
    with pytest.raises(ProfileError, match="id dfrobot/sen0676 exists already"):
        load_catalogue(tmp_path)


def test_a_product_is_claimed_once(tmp_path: Path) -> None:
    text = _copy("dfrobot/sen0676").replace("dfrobot/sen0676", "city/radar").replace("SEN0676,", "sen0676,")
    _write(tmp_path, "city/radar.yaml", text)
    with pytest.raises(ProfileError, match="claimed by dfrobot/sen0676 already") as caught:
        load_catalogue(tmp_path)
    assert caught.value.field == "product"


def test_an_id_is_its_path(tmp_path: Path) -> None:
    _write(tmp_path, "city/other.yaml", _copy("dfrobot/sen0676"))
    with pytest.raises(ProfileError, match=r"belongs into dfrobot/sen0676\.yaml") as caught:
        load_catalogue(tmp_path)
    assert (caught.value.file, caught.value.field) == ("city/other.yaml", "id")


def test_a_folder_that_is_not_there_and_a_file_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="not a folder"):
        load_catalogue(tmp_path / "nowhere")
    (tmp_path / "city").mkdir()
    (tmp_path / "city/bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_catalogue(tmp_path)
