"""`citysense profiles doc` and `schema`: device sheets into files or onto the screen, and the JSON Schema.

Owns the writing; what a sheet says is `citysense_profiles.sheet`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from citysense.cli.profiles_find import find_profile, ids
from citysense.errors import WrongUse
from citysense_profiles import load_vocabulary
from citysense_profiles.sheet.device_sheet import device_sheet
from citysense_profiles.sheet.labels import Language


def write_sheets(wanted: Sequence[str], *, every: bool, language: Language, out: str) -> int:
    """Write or print the sheets of these profiles, or of all."""
    if every == bool(wanted):
        raise WrongUse("name profiles, or say --all")
    for name in ids() if every else wanted:
        profile = find_profile(name)
        sheet = device_sheet(profile, load_vocabulary(), language)
        if out == "-":
            print(sheet, end="" if not every and len(wanted) == 1 else "\n")
            continue
        path = Path(out, f"{profile.id}.{language}.md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sheet, encoding="utf-8")
        print(path)
    return 0


def print_schema() -> int:
    """Print the JSON Schema of profile files."""
    from citysense_profiles.schema import schema_text

    print(schema_text(), end="")
    return 0
