"""What is shipped: the wheel, the source distribution, and the page an index shows of them."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"llumnix", "migration", "policies", "simulator"}

pytest.importorskip("hatchling", reason="hatchling is not installed (the extra `dev`)")


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both as `pip` and `build` do, with what is installed here."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=100,
    )
    return folder


@pytest.fixture(scope="module", name="wheel")
def _wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_four_floors_and_their_data(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()

    roots = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert roots == PACKAGES
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    for data in ("traces/azure-conv-2023.json", "dashboards/fleet.json", "dashboards/rules.yml"):
        assert f"llumnix/data/{data}" in names
    assert "llumnix/report/style.css" in names


def test_the_page_of_an_index_leads_nowhere_that_is_not_there(wheel: zipfile.ZipFile) -> None:
    """It shows the README alone: no picture and no file beside it."""
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    _, _, page = wheel.read(metadata).decode().partition("\n\n")

    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert page.startswith("# Llumnix")
    assert "the house and the life of a request" in page
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_the_source_distribution_holds_all_that_the_readme_shows(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    shown = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", readme)
    assert shown
    assert set(shown) <= inside
    assert {"tests/test_distributions.py", "traces/azure-conv-2023.json", "LICENSE"} <= inside
