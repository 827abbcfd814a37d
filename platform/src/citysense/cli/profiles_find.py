"""From what stands on the command line to a profile that fits a device: an id or a file, and NAME=VALUE.

Owns finding and the sentences about what is not there. Prints nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from citysense.errors import SetupError, WrongUse
from citysense_profiles import load_vocabulary
from citysense_profiles.catalogue import EXAMPLE_FOLDER, OWN_CATALOGUE, load_profile
from citysense_profiles.compiler import parse_profile
from citysense_profiles.errors import ProfileError, SettingError
from citysense_profiles.profile import Profile
from citysense_profiles.values.scaling import finite

SUFFIXES = (".yaml", ".yml")


def catalogue_files() -> list[Path]:
    """The files of the catalogue in alphabetical order, the commented example among them."""
    return sorted(OWN_CATALOGUE.glob("*/*.yaml"))


def ids() -> list[str]:
    """The ids of the catalogue: they are the paths of its files."""
    files = (path for path in catalogue_files() if path.parent.name != EXAMPLE_FOLDER)
    return [f"{path.parent.name}/{path.stem}" for path in files]


def read_profile(path: Path) -> Profile:
    """The profile in a file that need not lie in a catalogue. Raises ProfileError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"cannot be read: {error}", file=str(path)) from error
    return parse_profile(text, str(path), load_vocabulary())


def find_profile(wanted: str) -> Profile:
    """The profile of that id or in that file. Raises WrongUse where there is none, SetupError where it is wrong."""
    try:
        if wanted.endswith(SUFFIXES):
            if not Path(wanted).is_file():
                raise WrongUse(f"{wanted}: there is no such file")
            return read_profile(Path(wanted))
        path = OWN_CATALOGUE / f"{wanted}.yaml"
        if path in catalogue_files():
            return load_profile(path, OWN_CATALOGUE)
    except ProfileError as error:
        raise SetupError(str(error)) from error
    if Path(wanted).is_file():
        raise WrongUse(f"{wanted}: a profile file ends in {' or '.join(SUFFIXES)}")
    if Path(f"{wanted}.yaml").is_file():
        raise WrongUse(f"the catalogue has no profile {wanted!r}; for the file write {wanted}.yaml")
    near = difflib.get_close_matches(wanted, ids(), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`citysense profiles list` shows them all"
    raise WrongUse(f"there is no profile {wanted!r}; {hint}")


def known_message(profile: Profile, message: str | None) -> None:
    """Raises WrongUse where the profile has no such message."""
    if message is not None and message not in profile.messages:
        raise WrongUse(f"{profile.id} has no message {message!r}; it has {', '.join(profile.messages)}")


def fit(profile: Profile, given: Sequence[str]) -> tuple[Profile, dict[str, float]]:
    """The variant that NAME=VALUE words choose, and the numbers among them. Raises WrongUse."""
    numbers: dict[str, float] = {}
    choices: dict[str, float | str] = {}
    for word in given:
        name, equals, text = word.partition("=")
        if not equals:
            raise WrongUse(f"--setting {word}: write NAME=VALUE")
        if name in profile.options:
            choices[name] = next((choice for choice in profile.options[name].choices if str(choice) == text), text)
        elif name in profile.settings:
            try:
                numbers[name] = finite(float(text))
            except ValueError as error:
                unit = profile.settings[name].unit
                in_unit = f", in {unit}" if unit not in ("", "1") else ""
                raise WrongUse(f"--setting {word}: {name} is a number{in_unit}") from error
        else:
            known = ", ".join((*profile.settings, *profile.options)) or "none"
            raise WrongUse(f"--setting {word}: {profile.id} has no such setting or option; it has {known}")
    try:
        return profile.fitted(choices), numbers
    except SettingError as error:
        raise WrongUse(f"--setting {error.setting}: {error.text}") from error
