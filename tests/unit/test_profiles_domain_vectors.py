"""The frames that others have published or that follow from published rules: each is a vector of some profile.

The list is kept here by hand, so that a vector that disappears from the catalogue, or whose bytes change, is noticed.
"""

from __future__ import annotations

import pytest

from citysense_profiles.catalogue import EXAMPLE_FOLDER, OWN_CATALOGUE, load_profile
from citysense_profiles.checking.vector_check import frame_of
from citysense_profiles.format.vector import VectorEntry

FRAMES = {
    "ms-em310udl-1": "01755c03824408040001",
    "ms-em400-periodic": "01755c0367010104824408050001",
    "ms-em400-alarm": "8367e800018482410601",
    "ms-em500udl-1": "01755c03821e00",
    "ms-em500udl-2": "01756403821e00",
    "ms-em500pp-1": "017564037b0a00",
    "ms-em300mcs-1": "01755c03673401046865060001",
    "ms-ws301-1": "017564030001040001",
    "ms-ct101-total": "039710270000",
    "ms-ct101-current": "0498b80b",
    "dl-lid-1": "0211c90003119b117611bc119e118a119411a811a81194006401990abd",
    "dl-lid-2": "0211c900020abd",
    "dl-mbx-1": "02012f000304d200010bb1",
    "dl-mbx-2": "02012f00020bb1",
    "dl-pr26-1": "02016700033e8060170c7f",
    "dl-pr21-1": "02016700034e8060170c7f",
    "dl-tbrg-1": "0202f8000300040258409a00000c54",
    "dl-lid-cmd-period": "00020e1048a4",
    "dl-lid-cmd-adroff": "00070000e5b1",
    "dt-df555-1": "800001011107d000190000000000010081",
    "dt-df555-gps": "800001011907d001cd03e942ef272042190000000000010081",
    "dt-df555-par": "8000010311010418011e4b1e0002000081",
    "dt-df702-1": "800001011107d000190000000000000081",
    "dt-df702-gps": "800001011907d001cd03e942ef272042190000000000000081",
    "dt-do200-1": "800002011500000000016f0079ffb0fff500000081",
    "dt-do200-par": "8000020311000b18020a05a0003c000081",
    "dt-down-0": "3830303239393939303130343831",
    "dt-down-1": "3830303239393939303830413831",
    "dt-down-2": "3830303239393939303232333831",
    "dt-down-3": "3830303239393939303334363831",
    "dt-down-4": "3830303239393939303432443831",
    "dt-down-5": "3830303239393939303930413831",
    "dt-down-6": "3830303239393939303931333831",
    "dt-do200-down-0": "3830303238383838303130343831",
    "dt-do200-down-1": "3830303238383838303430413831",
    "dt-do200-down-2": "3830303238383838303233433831",
    "dfr-sen0676-req-0": "010300010001d5ca",
    "dfr-sen0676-req-1": "010300030001740a",
    "dfr-sen0676-req-2": "010300050001940b",
    "dfr-sen0676-req-3": "010303f40001c5bc",
    "dfr-sen0676-req-4": "010303f60001647c",
    "dfr-sen0676-req-5": "010307d40001c546",
    "ruler-a-req": "03030000000185e8",
    "ruler-b-req": "010300000001840a",
    "sl651-2f": "7e7e01001234567812342f0008020003591011155111036bca",
    "sl651-30": (
        "7e7e010012345678123430002b020003591011154947f1f1001234567848f0f0591011154920190000052619000005392300"
        "000127381211150320fa"
    ),
    "sl651-32": (
        "7e7e05001122334403e832002b020034170718110016f1f1001122334448f0f0170718110020190000402619000040392300"
        "0104903812109903a421"
    ),
    "sl651-38": (
        "7e7e05001122334403e838002a020035170718110128f1f1001122334448f0f017071810050418000005f4600500000014ff"
        "ffffffff000003e8ab"
    ),
    "sl651-46": "7e7e0500112233441234460015020023170718102008f1f100112233444520000004000315c1",
    "sl651-49": "7e7e0500112233441234490013020024170718102024f1f10011223344031003e803cec8",
    "sl651-35-badcrc": "7e7e0100123456781234350011020004591011155145f2f251312e32333420034602",
    "sl651-7e-crc": "7e7e00987654321012342f0008027e0822101110074703c3ae",
    "szy206-test": "681a68b35303810d00c00059000000826110000001106000004508090a3516",
    "nwave-1": "95",
    "nwave-3": "0204090200",
    "yobiiq-em4301-1": "0101673b240c0203673b21b4030403080f040405000000000506000000000607000000000b0a00",
    "yobiiq-em4301-3": (
        "fe0365d77304fe1300050e6bfe14000189d1fe150001e17efe160001a31bfe24000881e1fe2500009b35fe2600088262fe29"
        "000be9a5fe2a0001af79fef02023"
    ),
    "yobiiq-em2101-1": "0101673c29240203673c25dc03040000000004050000e9d00b0a00",
    "ykc-02": "680c000000025503141278230500da4c",
    "ykc-03-badcrc": "680d000100033201020000000101006890",
    "sgtin96-1": "3074257bf7194e4000001a85",
    "sgtin198-1": "3674257bf6b7a659b2c2bf1000000000000000000000000000",
}
OTHERS = [
    "alpitronic-read", "alpitronic-vid", "alpitronic-limit-6", "alpitronic-limit-16", "alpitronic-inhibit",
    "prim-big-uint32", "prim-big-uint64", "prim-big-float32", "prim-big-float64", "prim-big-int32",
    "prim-big-int64", "prim-big-int16", "prim-big-float16", "prim-lw-float32", "impinj-cap-1", "impinj-barnowl",
    "ctwing-smoke", "ctwing-transparent", "ctwing-cmdresp", "ttlock-cb-1", "vega-nb11", "senml-ex1", "senml-ex2",
    "senml-ex4", "senml-ex10",
]  # fmt: skip
"""Registers and documents, whose way of writing is the author's."""
EXCEPTIONS: dict[str, str] = {}
"""Frames that no profile can carry, and why."""

VECTORS: dict[str, list[tuple[str, VectorEntry]]] = {}
for path in sorted(OWN_CATALOGUE.glob("*/*.yaml")):
    for vector in load_profile(path, OWN_CATALOGUE).vectors:
        VECTORS.setdefault(vector.name, []).append((f"{path.parent.name}/{path.stem}", vector))


def test_the_list_is_whole() -> None:
    assert len(FRAMES) + len(OTHERS) == len({*FRAMES, *OTHERS}) == 87
    assert EXCEPTIONS.keys() <= {*FRAMES, *OTHERS}


@pytest.mark.parametrize("name", [*FRAMES, *OTHERS])
def test_every_known_frame_is_a_vector(name: str) -> None:
    assert (name in VECTORS) != (name in EXCEPTIONS)


@pytest.mark.parametrize("name", FRAMES)
def test_its_bytes_are_those_that_were_published(name: str) -> None:
    for profile, vector in VECTORS.get(name, []):
        request = vector.wire.request
        assert (request.hex if request is not None else frame_of(vector)).hex() == FRAMES[name], profile


def test_every_frame_says_where_it_comes_from() -> None:
    known = [(profile, vector) for name in (*FRAMES, *OTHERS) for profile, vector in VECTORS.get(name, [])]
    assert [f"{profile}: {vector.name}" for profile, vector in known if not vector.source] == []
    assert not any(
        profile.startswith(EXAMPLE_FOLDER) and not name.startswith("prim-")
        for name in (*FRAMES, *OTHERS)
        for profile, _ in VECTORS.get(name, [])
    )
