"""Find and load the workload that a user names, and the flags that describe it."""

import argparse
from pathlib import Path

from llumnix.data_files import data_names, data_path
from llumnix.errors import ConfigError
from simulator.workload import generators
from simulator.workload.load import is_profile, load
from simulator.workload.profile import Profile, read_profile
from simulator.workload.readers import known_formats
from simulator.workload.request import TraceRequest, WorkloadError
from simulator.workload.rows import BadRows

SOURCE_HELP = (
    "a trace file, a profile file, the name of a shipped profile, a ServeGen folder, or a "
    "generator such as power-law:M-M,cv=2"
)


def load_workload(
    name_or_path: str | Path,
    requests: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    high_share: float = 0.0,
    *,
    format_name: str | None = None,
    bad_rows: BadRows | None = None,
) -> list[TraceRequest]:
    """Load a workload by path, by the name of a shipped profile, or from a generator's expression.

    See `simulator.workload.load.load` for the arguments. Raises ConfigError.
    """
    try:
        return load(
            find_workload(name_or_path),
            requests,
            rate,
            seed,
            high_share,
            format_name=format_name,
            bad_rows=bad_rows,
        )
    except WorkloadError as error:
        raise ConfigError(str(error)) from error


def find_workload(name_or_path: str | Path) -> str | Path:
    """Resolve the name of a workload: a generator's expression as it is, else an existing path."""
    text = str(name_or_path)
    if text.startswith(generators.PREFIX):
        return text
    if Path(text).is_file():
        return Path(text)
    try:
        return data_path("traces", f"{text}.json")
    except FileNotFoundError:
        if Path(text).is_dir():
            return Path(text)
        shipped = ", ".join(data_names("traces", ".json"))
        raise ConfigError(
            f"there is no workload {text!r}: give a trace file, a profile file, a ServeGen folder, "
            f"a generator such as power-law:M-M, or a shipped profile ({shipped})"
        ) from None


def find_profile(name_or_path: str | Path) -> Profile:
    """Load a profile by path or by the name of a shipped one; raises ConfigError."""
    path = find_workload(name_or_path)
    try:
        if isinstance(path, str) or not is_profile(path):
            raise ConfigError(
                f"{name_or_path} is not a profile: make one with `llumnix workload profile TRACE`"
            )
        return read_profile(path)
    except WorkloadError as error:
        raise ConfigError(str(error)) from error


def add_reading(parser: "argparse._ActionsContainer") -> None:
    """Add the flags that say how trace files are read: `format` and `skip_bad_rows`."""
    parser.add_argument(
        "--format",
        choices=list(known_formats()),
        metavar="FORMAT",
        help=f"format of a trace: {', '.join(known_formats())} (default: detected from its first "
        "line)",
    )
    parser.add_argument(
        "--skip-bad-rows",
        action="store_true",
        help="skip malformed rows and count them on stderr (default: stop at the first)",
    )


def add_seed(parser: "argparse._ActionsContainer") -> None:
    """Add the flag `seed`."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")


def add_drawing(parser: "argparse._ActionsContainer") -> None:
    """Add the flags that say what is drawn: `requests`, `rate`, `seed` and `high_share`."""
    parser.add_argument(
        "--requests", type=int, metavar="N", help="number of requests (default: all)"
    )
    parser.add_argument(
        "--rate",
        type=float,
        metavar="RPS",
        help="mean arrival rate, requests per second (default: the workload's own)",
    )
    add_seed(parser)
    parser.add_argument(
        "--high-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of requests in class `high`, 0 to 1 (default: 0)",
    )
