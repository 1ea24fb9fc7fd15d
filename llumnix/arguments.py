"""The parser of the command line: nothing is guessed, and what is wrong is said in one line."""

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from typing import NoReturn, TypeVar

from llumnix.logs.config import FORMATS, LEVELS, LogConfig

_N = TypeVar("_N")

ELSEWHERE = {
    "--api-keys": "--api-key",
    "--backend": "--instance",
    "--backends": "--instance",
    "--log": "--log-level",
    "--static-backends": "--instance",
    "--worker": "--instance",
    "--worker-urls": "--instance",
    "--workers": "--instance",
}
"""Flags of other routers, and ours for the same; a hint is given where the command has ours."""


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser that accepts no abbreviation and suggests the flag that was meant.

    An abbreviated flag would change its meaning, silently, with the next flag that is added.
    """

    def __init__(self, *args: object, **settings: object) -> None:
        settings.setdefault("allow_abbrev", False)
        super().__init__(*args, **settings)  # type: ignore[arg-type]

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: _N | None = None
    ) -> tuple[_N | argparse.Namespace, list[str]]:
        """Parse, refusing unknown flags here, where the flags of the command are known."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and exit with status 2."""
        self.exit(2, f"{self.prog}: {message} (`{self.prog} --help` lists all flags)\n")

    def _unknown(self, unknown: Sequence[str]) -> str:
        known = [flag for action in self._actions for flag in action.option_strings]
        for word in unknown:
            flag = word.partition("=")[0]
            meant = ELSEWHERE.get(flag)
            if meant not in known:
                meant = next(iter(difflib.get_close_matches(flag, known, 1, 0.7)), None)
            if flag.startswith("-") and meant is not None:
                return f"there is no flag {flag}; did you mean {meant}?"
        return f"unrecognized arguments: {' '.join(unknown)}"


def add_log_flags(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Add the flags that may stand before a command and after it."""
    usual = LogConfig()
    group = parser.add_argument_group("logging")
    group.add_argument(
        "--log-level",
        default=default,
        choices=LEVELS,
        help=f"least severe messages to log on stderr (default: {usual.level})",
    )
    group.add_argument(
        "--log-format",
        default=default,
        choices=FORMATS,
        help=f"form of a log line (default: {usual.format})",
    )


def log_config(args: argparse.Namespace, base: LogConfig) -> LogConfig:
    """Return the settings of the log: those of the flags given, else those of `base`."""
    given = {"level": args.log_level, "format": args.log_format}
    return dataclasses.replace(base, **{key: value for key, value in given.items() if value})
