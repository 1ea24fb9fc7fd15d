"""`llumnix dashboards`: write the dashboard and the rules, or check that they are current."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from llumnix.dashboards.grafana import fleet_dashboard
from llumnix.dashboards.rules import rules_yaml
from llumnix.data_files import data_path
from llumnix.errors import ConfigError


def generate() -> Mapping[str, str]:
    """Return the text of each generated file by name; raises SdkMissingError without the SDK."""
    return {"fleet.json": fleet_dashboard(), "rules.yml": rules_yaml()}


def home() -> Path:
    """Return the dashboards' folder: the checkout's, or the one inside the wheel."""
    return data_path("dashboards")


def stale(folder: Path) -> list[str]:
    """Return the names of the generated files that differ from those in the folder."""
    return [
        name
        for name, text in generate().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def add_arguments(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `dashboards` command to the CLI."""
    parser = subparsers.add_parser(
        "dashboards",
        help="write the Grafana dashboard and the Prometheus rules",
        description="Writes fleet.json (a Grafana dashboard to import or provision) and rules.yml "
        "(Prometheus recording and alerting rules), made from the catalogue of metrics.",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write to (default: the project's own)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if the files in the folder are not current",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns 0 (written, or current), 1 (stale); raises LlumnixError."""
    folder: Path = args.out or home()
    if args.check:
        return _check(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in generate().items():
            (folder / name).write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {folder / name}\n")
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error
    return 0


def _check(folder: Path) -> int:
    names = stale(folder)
    for name in names:
        sys.stderr.write(
            f"{folder / name} is not current; run `llumnix dashboards` to rewrite it\n"
        )
    return 1 if names else 0
