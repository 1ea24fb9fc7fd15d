"""docs/vllm.md says what the code says: settings, their defaults, tested versions."""

import dataclasses
import re
from pathlib import Path

from migration.vllm.compat import TESTED
from migration.vllm.settings import PluginSettings

PAGE = (Path(__file__).parents[3] / "docs" / "vllm.md").read_text()


def settings_table() -> str:
    """The table as it should be; copy it from here when this test fails."""
    rows = ["| setting | default | what |", "|---|---|---|"]
    for item in dataclasses.fields(PluginSettings):
        if item.name == "migration":
            continue
        default = "unset" if item.default == "" else str(item.default).lower()
        rows.append(f"| `{item.name}` | {default} | {item.metadata['help']} |")
    return "\n".join(rows)


def test_every_setting_is_documented_as_it_is() -> None:
    """Names, defaults and help texts in the page are those of PluginSettings."""
    found = re.search(r"<!-- settings:.*?-->\n+((?:\|.*\n)+)", PAGE)

    assert found is not None
    assert settings_table() == found.group(1).rstrip("\n")


def test_the_tested_versions_are_named() -> None:
    """Each version in compat.TESTED has its row, and says that it was tested."""
    rows = dict(re.findall(r"^\| (0\.\d+) \| (.*) \|$", PAGE, re.MULTILINE))

    assert set(TESTED) == {version for version, text in rows.items() if "tested:" in text}
