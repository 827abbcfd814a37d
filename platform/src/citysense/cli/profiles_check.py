"""`citysense profiles check`: every fault of profile files, and advice, for the people who write them.

Owns which files are checked and how findings are printed. What is right stands in `citysense_profiles`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from citysense.cli.profiles_find import SUFFIXES, catalogue_files, ids, read_profile
from citysense.errors import WrongUse
from citysense_profiles.catalogue import EXAMPLE_FOLDER, OWN_CATALOGUE, Claims
from citysense_profiles.checking.profile_check import check_profile
from citysense_profiles.errors import ProfileError
from citysense_profiles.profile import Profile


@dataclass(slots=True, kw_only=True)
class Finding:
    """What was found about one file. No id: it could not be loaded."""

    file: str
    id: str | None = None
    faults: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def check_files(paths: Sequence[Path], seed: int, *, as_json: bool) -> int:
    """Check files, folders, or the whole catalogue; 1 if any file has a fault."""
    files = files_of(paths) if paths else catalogue_files()
    loaded = [(path, _load(path)) for path in files]
    claims = _claims(files, {one.id for _, one in loaded if isinstance(one, Profile)})
    findings = [_check(path, one, seed, claims) for path, one in loaded]
    if as_json:
        shown = [
            {"file": one.file, "id": one.id, "ok": not one.faults, "faults": one.faults, "advice": one.advice}
            for one in findings
        ]
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        _print(findings)
    return 1 if any(one.faults for one in findings) else 0


def files_of(paths: Iterable[Path]) -> list[Path]:
    """The YAML files among and below these paths; a path that is not there may be an id. Raises WrongUse for none."""
    found: list[Path] = []
    for given in paths:
        named = not given.exists() and str(given) in ids()
        path = OWN_CATALOGUE / f"{given}.yaml" if named else given
        inside = sorted(one for one in path.rglob("*") if one.suffix in SUFFIXES) if path.is_dir() else [path]
        if not inside or not path.exists():
            raise WrongUse(f"{path}: {'holds no YAML file' if path.is_dir() else 'there is no such file or folder'}")
        found += inside
    return list(dict.fromkeys(found))


def _load(path: Path) -> Profile | ProfileError:
    try:
        return read_profile(path)
    except ProfileError as error:
        return error


def _claims(files: Sequence[Path], ids: set[str]) -> Claims:
    """What the catalogue claims, apart from the files that are checked themselves and those that they would replace."""
    checked = {path.resolve() for path in files}
    claims = Claims()
    for path in catalogue_files():
        if path.parent.name == EXAMPLE_FOLDER or path.resolve() in checked:
            continue
        try:
            profile = read_profile(path)
            if profile.id not in ids:
                claims.add(profile, str(path))
        except ProfileError:
            continue  # told when that file is checked; here it claims nothing
    return claims


def _check(path: Path, profile: Profile | ProfileError, seed: int, claims: Claims) -> Finding:
    finding = Finding(file=_short(path))
    if isinstance(profile, ProfileError):
        finding.faults.append(_place(profile))
        return finding
    finding.id = profile.id
    report = check_profile(profile, seed=seed)
    finding.faults += report.faults
    finding.advice += report.advice
    if path.parent.name != EXAMPLE_FOLDER:
        try:
            claims.add(profile, str(path))
        except ProfileError as error:
            finding.faults.append(_place(error))
    _check_place(path, profile, finding)
    return finding


def _short(path: Path) -> str:
    """The path as seen from here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _check_place(path: Path, profile: Profile, finding: Finding) -> None:
    """Inside the catalogue the id must be the path; elsewhere it must be so once the file comes into one."""
    resolved = path.resolve()
    if resolved.is_relative_to(OWN_CATALOGUE.resolve()):
        if resolved != (OWN_CATALOGUE / f"{profile.id}.yaml").resolve():
            finding.faults.append(f"field id: {profile.id} belongs into {profile.id}.yaml")
    elif resolved.parts[-2:] != tuple(f"{profile.id}.yaml".split("/")):
        finding.advice.append(f"in a catalogue this file must be {profile.id}.yaml")


def _place(error: ProfileError) -> str:
    where = [f"message {error.message}"] if error.message else []
    where += [f"field {error.field}"] if error.field else []
    return f"{', '.join(where)}: {error.text}" if where else error.text


def _print(findings: Sequence[Finding]) -> None:
    for one in findings:
        print(f"{'FAULT' if one.faults else 'ok   '} {one.file}")
        for fault in one.faults:
            print(f"        fault: {fault}")
        for advice in one.advice:
            print(f"        advice: {advice}")
    wrong = [one.file for one in findings if one.faults]
    print(f"{len(findings)} checked, {len(wrong)} with faults")
    if wrong and len(findings) > 1:  # they are far above by now
        print("\n".join(f"  {file}" for file in wrong))
