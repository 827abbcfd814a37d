"""Key files, sealing, and the pseudonym of a tag."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense.errors import SetupError
from citysense.keys import SealBroken, Sealer, TagPseudonym, load_or_create_key, load_or_create_secret

KEY = bytes(range(32))


def test_a_key_file_is_made_once_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "sealing.key"
    first = load_or_create_key(path)
    assert load_or_create_key(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["sealing.key"]


def test_the_name_of_a_new_key_is_on_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys" / "sealing.key"
    synced: list[Path] = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        if synced[-1] == path.parent:
            assert path.exists()

    monkeypatch.setattr("os.fsync", fsync)
    load_or_create_key(path)
    assert synced[1:] == [path.parent, tmp_path], "the file, then its folder, and the folder of the folder"
    load_or_create_key(path)
    assert len(synced) == 3


def test_open_rights_are_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    secret = load_or_create_secret(path)
    path.chmod(0o644)
    assert load_or_create_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "zz", "00" * 31])
def test_a_damaged_key_is_refused_in_words(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sealing.key"
    path.write_text(content)
    with pytest.raises(SetupError, match=r"sealing\.key holds .*restore it from a backup"):
        load_or_create_key(path)


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_is_sealed_opens_for_its_owner_only(clear: bytes, owner: str) -> None:
    sealer = Sealer(KEY)
    sealed = sealer.seal(owner, clear)
    assert sealer.open(owner, sealed) == clear
    with pytest.raises(SealBroken):
        sealer.open(owner + "x", sealed)
    with pytest.raises(SealBroken):
        sealer.open(owner, sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_a_pseudonym_depends_on_key_and_tag_but_not_on_case() -> None:
    one = TagPseudonym(KEY)
    assert one("e280aa") == one("E280AA")
    assert one("E280AA") != one("E280AB")
    assert one("E280AA") != TagPseudonym(bytes(32))("E280AA")
    assert "E280" not in one("E280AA").upper()
