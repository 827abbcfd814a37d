"""All profiles by id: those that ship with this package and a city's own.

Owns finding the files, the rule that an id is the file's path, and the claims that may exist once only. Loads all or
nothing: one wrong file stops with a `ProfileError`, since a gateway that silently misses a profile loses readings.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from citysense_profiles.compiler import parse_profile
from citysense_profiles.errors import ProfileError
from citysense_profiles.profile import Profile
from citysense_profiles.vocabulary import load_vocabulary

OWN_CATALOGUE = Path(__file__).with_name("catalog")
EXAMPLE_FOLDER = "_example"
"""Holds what shows the format to authors: checked like the rest, never offered."""
ANY_FIRMWARE = "any"


class Catalogue:
    """Profiles by id, in alphabetical order."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self._profiles = dict(sorted(profiles.items()))

    def __getitem__(self, profile_id: str) -> Profile:
        try:
            return self._profiles[profile_id]
        except KeyError:
            raise KeyError(f"no profile {profile_id!r}; known: {', '.join(self._profiles)}") from None

    def get(self, profile_id: str) -> Profile | None:
        """The profile of that id, None if there is none."""
        return self._profiles.get(profile_id)

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._profiles.values())

    def __contains__(self, profile_id: object) -> bool:
        return profile_id in self._profiles

    def __len__(self) -> int:
        return len(self._profiles)

    def ids(self) -> tuple[str, ...]:
        """All ids, in alphabetical order."""
        return tuple(self._profiles)


class Claims:
    """Which product each profile says it is: of one vendor and model, every firmware belongs to one profile only."""

    def __init__(self) -> None:
        self._claimed: dict[tuple[str, str], dict[str, str]] = {}

    def add(self, profile: Profile, file: str) -> None:
        """Raises ProfileError naming `file` where another profile has the same product and firmware, or any firmware."""
        product = profile.product
        firmware = product.firmware.casefold()
        others = self._claimed.setdefault((product.vendor.casefold(), product.model.casefold()), {})
        for claimed, owner in others.items():
            if claimed == firmware or ANY_FIRMWARE in (claimed, firmware):
                raise ProfileError(
                    f"{product.vendor} {product.model}, firmware {product.firmware}, is claimed by {owner} already; "
                    "say in product.firmware which versions each of the two is for",
                    file=file,
                    field="product",
                )
        others[firmware] = profile.id


def load_catalogue(extra: Path | None = None) -> Catalogue:
    """Our profiles and those below `extra` (same layout: <vendor>/<model>.yaml). Raises ProfileError on any wrong file.

    Ours are read once per process; `extra` is read every time.
    """
    profiles: dict[str, Profile] = {}
    claims = Claims()
    for file, profile in (*_shipped(OWN_CATALOGUE), *(_below(extra) if extra is not None else ())):
        if profile.id in profiles:
            raise ProfileError(f"id {profile.id} exists already", file=file, field="id")
        claims.add(profile, file)
        profiles[profile.id] = profile
    return Catalogue(profiles)


@cache
def _shipped(root: Path) -> tuple[tuple[str, Profile], ...]:
    """What ships with this package. It stays for the life of the process, so no collection need look at it again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return tuple(_below(root))
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _below(root: Path) -> Iterator[tuple[str, Profile]]:
    """(path, profile) of all files below a folder, in the order of their names."""
    if not root.is_dir():
        raise ProfileError("not a folder; give the folder that holds <vendor>/<model>.yaml", file=str(root))
    for path in sorted(root.glob("*/*.yaml")):
        if path.parent.name != EXAMPLE_FOLDER:
            yield str(path), load_profile(path, root)


def load_profile(path: Path, root: Path) -> Profile:
    """One file below `root`. Raises ProfileError naming it, also where it cannot be read."""
    file = path.relative_to(root).as_posix()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"cannot be read: {error}", file=str(path)) from error
    profile = parse_profile(text, file, load_vocabulary())
    if f"{profile.id}.yaml" != file:
        raise ProfileError(f"id {profile.id} belongs into {profile.id}.yaml", file=file, field="id")
    return profile
