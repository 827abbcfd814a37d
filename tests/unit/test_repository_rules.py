"""Rules of the house that a machine can hold: layout, names, lock files, and no address of a package registry."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "device_profiles/src/citysense_profiles",
    "platform/src/citysense",
    "platform/src/citysense_platform",
    "gateway/src/citysense_gateway",
    "firmware_sim/src/citysense_sim",
)
REGISTRY_HOSTS = ("files.pythonhosted" + ".org", "pypi" + ".org", "registry.npmjs" + ".org", "crates" + ".io")


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def product_modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_no_top_level_folder_is_a_package() -> None:
    assert [str(path) for path in ROOT.glob("*/__init__.py")] == []
    assert [str(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


def test_no_registry_address_is_tracked() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked_files()
        for host in REGISTRY_HOSTS
        if host in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert found == []


def test_every_locked_package_has_hashes() -> None:
    for name in ("requirements.lock", "requirements-test.lock", "requirements-uv.lock"):
        entries = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / name).read_text(encoding="utf-8").strip())
        assert entries
        for entry in entries:
            assert re.match(r"[A-Za-z0-9_.\-\[\]]+==\S+", entry), f"{name}: {entry[:60]}"
            assert "--hash=sha256:" in entry, f"{name}: {entry[:60]}"


def test_the_locks_fit_the_project_file() -> None:
    """Each requirement of pyproject.toml is pinned in the lock at a version that it allows."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for lock, wanted in (
        ("requirements.lock", project["dependencies"] + extras["install"]),
        ("requirements-test.lock", project["dependencies"] + extras["install"] + extras["test"]),
    ):
        pins = dict(re.findall(r"^([A-Za-z0-9_.\-]+)==(\S+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))
        pins = {canonicalize_name(name): version for name, version in pins.items()}
        for text in wanted:
            requirement = Requirement(text)
            version = pins.get(canonicalize_name(requirement.name))
            assert version is not None, f"{lock} lacks {requirement.name}"
            assert requirement.specifier.contains(version), f"{lock} pins {requirement.name} {version}, wanted {text}"


def test_the_test_lock_holds_the_product_lock() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))

    assert pins("requirements.lock") <= pins("requirements-test.lock")


def test_no_vendor_and_no_profile_id_stands_in_code() -> None:
    """A new device is a new profile file. Generic profiles may be named by the simulator, which plays devices."""
    catalogue = ROOT / "device_profiles/src/citysense_profiles/catalog"
    vendors = {path.parent.name for path in catalogue.rglob("*.yaml")} - {"generic", "_example"}
    assert len(vendors) >= 5
    ids = {yaml.safe_load(path.read_text(encoding="utf-8"))["id"] for path in catalogue.rglob("*.yaml")}
    found = []
    for path in product_modules():
        text = path.read_text(encoding="utf-8").lower()
        words = set(re.findall(r"[a-z0-9_]+", text))
        for vendor in vendors:
            if vendor.replace("-", "_") in words or f"{vendor}/" in text:
                found.append(f"{path.relative_to(ROOT)}: {vendor}")
        if "citysense_sim" not in str(path) and "/cli/" not in str(path):
            found += [f"{path.relative_to(ROOT)}: {profile}" for profile in ids if profile in text]
    assert found == []


@pytest.mark.parametrize("path", product_modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_module_stays_small_and_says_what_it_owns(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500, "split it: one idea a module"
    assert ast.get_docstring(ast.parse(text)) is not None or not text.strip(), "a docstring says what the module owns"
    assert path.stem not in {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


def test_nothing_is_evaluated_or_caught_without_a_name() -> None:
    """No eval, and `except Exception` only where it raises again."""
    found = []
    for path in product_modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
                found.append(f"{where} eval")
            if isinstance(node, ast.ExceptHandler):
                names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"Exception"}
                raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                if names & {"Exception", "BaseException"} and not raises:
                    found.append(f"{where} catches everything")
    assert found == []
