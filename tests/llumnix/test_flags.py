"""Flags of a section, sorted into groups: each setting is asked for once, and no group is stale."""

import argparse
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest

from llumnix.cli import parser
from llumnix.config import add_flags
from llumnix.emulator.config import EmulatorConfig
from llumnix.flags import add_flag_groups
from llumnix.frontend.config import FrontendConfig
from llumnix.instances.config import FleetConfig
from migration.vllm.settings import PluginSettings
from simulator.fleet.options import SimulatorConfig


@dataclass(frozen=True, slots=True)
class Sizes:
    width: int = field(default=1, metadata={"help": "how wide"})
    height: int = field(default=2, metadata={"help": "how high"})
    depth: int = field(default=3, metadata={"help": "how deep"})


def flags_by_title(built: argparse.ArgumentParser) -> dict[str | None, list[str]]:
    return {
        group.title: [flag for action in group._group_actions for flag in action.option_strings]
        for group in built._action_groups
    }


def command(name: str) -> argparse.ArgumentParser:
    (found,) = (a for a in parser(name)._actions if isinstance(a, argparse._SubParsersAction))
    built: argparse.ArgumentParser = found.choices[name]
    return built


def test_a_setting_no_group_names_is_in_the_last_one() -> None:
    built = argparse.ArgumentParser(add_help=False)
    add_flag_groups(built, Sizes, {"across": ("width",), "up": ("height",)})

    groups = flags_by_title(built)

    assert (groups["across"], groups["up"]) == (["--width"], ["--height", "--depth"])


def test_a_group_cannot_name_what_is_no_setting() -> None:
    with pytest.raises(AssertionError, match=r"Sizes has no \{'weight'\}"):
        add_flag_groups(argparse.ArgumentParser(), Sizes, {"across": ("weight",)})


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("serve", (FleetConfig, FrontendConfig)),
        ("emulate", (EmulatorConfig,)),
        ("vllm", (PluginSettings,)),
        ("simulate", (SimulatorConfig,)),
        ("compare", (SimulatorConfig,)),
        ("sweep", (SimulatorConfig,)),
        ("tune", (SimulatorConfig,)),
    ],
)
def test_a_command_takes_every_setting_once_and_none_outside_a_group(
    name: str, sections: tuple[Any, ...]
) -> None:
    plain = argparse.ArgumentParser(add_help=False)
    for section in sections:
        add_flags(plain, section)
    wanted = {flag for action in plain._actions for flag in action.option_strings}

    groups = flags_by_title(command(name))
    grouped = [flag for title, flags in groups.items() if title != "options" for flag in flags]

    assert wanted <= set(grouped)
    assert len(grouped) == len(set(grouped))
    assert wanted >= {
        "--" + item.name.replace("_", "-")
        for section in sections
        for item in dataclasses.fields(section)
        if item.type in (int, float, str, bool)
    }
