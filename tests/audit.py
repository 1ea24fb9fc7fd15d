"""`make audit`: whether advisories are known against what the product depends on.

An audit that could not be made must not look like one that found nothing: packages for which the
advisory service said nothing are named, and with LLUMNIX_REQUIRE_AUDIT=1 they fail the audit.
"""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit found: packages that were looked up, those that were not, and advisories."""

    audited: tuple[str, ...] = ()
    not_audited: tuple[str, ...] = ()
    advisories: tuple[str, ...] = ()

    def status(self, *, required: bool) -> int:
        """Return the exit status: 1 for an advisory, or for a gap where none may be."""
        complete = bool(self.audited) and not self.not_audited
        return 1 if self.advisories or (required and not complete) else 0

    def lines(self) -> list[str]:
        """Return what is to be said."""
        said = [f"advisory: {each}" for each in self.advisories]
        if self.not_audited or not self.audited:
            names = ", ".join(self.not_audited) or "nothing at all"
            said += [
                "*" * 79,
                f"NOT AUDITED: {names}",
                "the advisory service cannot be reached, or does not know them: this run says "
                "nothing about them",
                "*" * 79,
            ]
        said.append(f"audited: {len(self.audited)} packages, {len(self.advisories)} advisories")
        return said


def judge(report: Mapping[str, Any]) -> Verdict:
    """Read pip-audit's report."""
    audited, not_audited, advisories = [], [], []
    for package in report.get("dependencies", ()):
        name = str(package["name"])
        if "skip_reason" in package:
            not_audited.append(name)
            continue
        audited.append(name)
        for found in package.get("vulns", ()):
            fixed = ", ".join(found.get("fix_versions", ())) or "no version yet"
            version = package.get("version")
            advisories.append(f"{name} {version}: {found['id']}, fixed in {fixed}")
    return Verdict(tuple(audited), tuple(not_audited), tuple(advisories))


def installed(names: Sequence[str]) -> dict[str, Any]:
    """Let pip-audit look at these requirements and all that they need."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(names))
        file.flush()
        words = ["-m", "pip_audit", "--format=json", "--progress-spinner=off", "-r", file.name]
        try:
            done = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, timeout=_TIMEOUT_S
            )
            report: dict[str, Any] = json.loads(done.stdout)
        except (ValueError, subprocess.TimeoutExpired) as error:
            print(f"pip-audit gave no report: {type(error).__name__}", file=sys.stderr)
            return {}
    return report


def main() -> int:
    """Audit the runtime's dependencies; return the exit status."""
    project = tomllib.loads(_PROJECT.read_text())["project"]
    verdict = judge(installed(project["dependencies"]))
    print("\n".join(verdict.lines()), file=sys.stderr)
    return verdict.status(required=os.environ.get("LLUMNIX_REQUIRE_AUDIT") == "1")


if __name__ == "__main__":
    sys.exit(main())
