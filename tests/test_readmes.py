"""The README of each folder of code names what lives there, and nothing that does not."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("llumnix", "simulator", "migration", "policies", "testbed")
FOLDERS = sorted(
    {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    | {ROOT / "benchmarks"}
)


def named(folder: Path) -> set[str]:
    """List the files and folders that a folder's README names, by their last parts."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return {part for name in re.findall(r"`([\w./]+)`", text) for part in name.split("/") if part}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folders_readme_names_each_of_its_modules_and_rooms(folder: Path) -> None:
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    rooms = {path.parent.name for path in folder.glob("*/*.py")}

    assert modules | rooms <= named(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folders_readme_names_no_module_that_is_gone(folder: Path) -> None:
    """The modules that its table lists in the first column are there."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"^\| ((?:\[?`[^|]+)) \|", text, flags=re.MULTILINE)
    listed = [name for cell in first_cells for name in re.findall(r"`([\w/]+\.py)`", cell)]

    assert [name for name in listed if not (folder / name).is_file()] == []
