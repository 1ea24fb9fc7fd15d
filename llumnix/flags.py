"""Flags that several commands share: groups of settings, sources of settings, and SLOs."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llumnix.config import add_flags
from llumnix.results.result import Slo


def add_flag_groups(
    parser: argparse.ArgumentParser, cls: Any, groups: Mapping[str, Sequence[str]]
) -> None:
    """Add the flags of a section under titles; the last group also takes every field not named.

    If the parser already has a group of that title, the flags join it.
    """
    fields = [item.name for item in dataclasses.fields(cls)]
    named = {name for names in groups.values() for name in names}
    assert named <= set(fields), f"{cls.__name__} has no {named - set(fields)}"
    last = list(groups)[-1]
    for title, names in groups.items():
        wanted = {*names, *(set(fields) - named if title == last else ())}
        add_flags(
            group_of(parser, title), cls, skip=[name for name in fields if name not in wanted]
        )


def group_of(parser: argparse.ArgumentParser, title: str) -> "argparse._ArgumentGroup":
    """Return the parser's group with this title, adding it if there is none."""
    for group in parser._action_groups:  # noqa: SLF001 - argparse has no other way to ask
        if group.title == title:
            return group
    return parser.add_argument_group(title)


def add_config(parser: argparse.ArgumentParser, help_text: str | None = None) -> None:
    """Add the flags `config` and `set`."""
    group = group_of(parser, "settings")
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=help_text or "read settings from a YAML file (`llumnix config` prints one)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one setting, such as scheduler.rebalance.low_steps=32; repeatable",
    )


def add_slo(parser: argparse.ArgumentParser) -> None:
    """Add the flags `slo_ttft_s` and `slo_tpot_s`."""
    group = group_of(parser, "goodput")
    group.add_argument(
        "--slo-ttft-s", type=float, metavar="S", help="bound on TTFT (default: no bound)"
    )
    group.add_argument(
        "--slo-tpot-s", type=float, metavar="S", help="bound on TPOT (default: no bound)"
    )


def slo_of(args: argparse.Namespace) -> Slo | None:
    """Return the SLOs given, or None; a bound that is not given always holds."""
    if args.slo_ttft_s is None and args.slo_tpot_s is None:
        return None
    bounds = (args.slo_ttft_s, args.slo_tpot_s)
    return Slo(*(float("inf") if bound is None else bound for bound in bounds))
