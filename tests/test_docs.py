"""What the documents name exists: files, folders, tests."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(
        path
        for floor in ("benchmarks", "dashboards", "tests")
        for path in (ROOT / floor).glob("*.md")
    ),
    *(
        path
        for floor in ("llumnix", "migration", "policies", "simulator")
        for path in (ROOT / floor).rglob("*.md")
    ),
]
PLACE = re.compile(
    r"(?:benchmarks|dashboards|docs|llumnix|migration|policies|simulator|tests)/[\w./-]+"
)
MADE_BY_THE_BUILD = {"llumnix/data/"}
TEST = re.compile(r"(?P<file>[\w/]*test_\w+\.py)?(?:::)?(?P<test>test_\w+)?")
TESTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}


def quoted(document: Path) -> list[str]:
    """List what a document sets in backticks, code blocks aside."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", text)


def missing_test(file: str | None, test: str | None) -> bool:
    """Say whether no file of this name (or path) holds a test of this name."""
    return not any(
        str(path).endswith(f"/{file}" if file else "") and (not test or f"def {test}(" in text)
        for path, text in TESTS.items()
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_only_what_is_there(document: Path) -> None:
    missing = [
        text
        for text in quoted(document)
        if PLACE.fullmatch(text)
        and text not in MADE_BY_THE_BUILD
        and not (ROOT / text).exists()
        and not (document.parent / text).exists()
    ]
    for text in quoted(document):
        match = TEST.fullmatch(text)
        if match and any(match.groups()) and missing_test(match["file"], match["test"]):
            missing.append(text)

    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    missing = [
        target
        for target in targets
        if "://" not in target and not (document.parent / target).exists()
    ]

    assert missing == []


def test_every_invariant_names_its_tests() -> None:
    rows = [
        line
        for line in (ROOT / "docs/invariants.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| INV-")
    ]

    assert [row.split()[1] for row in rows] == [f"INV-{number}" for number in range(1, 9)]
    assert all(re.search(r"`[^`]*test_", row) for row in rows)
