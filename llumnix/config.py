"""The configuration: the only source of defaults for the command line, the YAML file and the docs.

Each section is a frozen dataclass that lives beside the code it configures; its fields carry
`metadata={"help": ..., "unit": ...}`, and where it helps `"metavar"`, `"choices"` and `"default"`
(what an unset field means). This module reads them from YAML, turns them into command line flags,
and prints them with their documentation. An unknown key is an error that names the known ones.
"""

import argparse
import dataclasses
import difflib
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import yaml

from llumnix.emulator.config import EmulatorConfig
from llumnix.errors import ConfigError
from llumnix.frontend.config import FrontendConfig
from llumnix.instances.config import FleetConfig
from llumnix.logs.config import LogConfig
from migration.config import MigrationConfig
from policies.scheduler import SchedulerConfig
from simulator.fleet.options import SimulatorConfig

T = TypeVar("T")
_WIDTH: Final = 100


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, in sections."""

    fleet: FleetConfig = field(
        default_factory=FleetConfig, metadata={"help": "the instances behind the frontend"}
    )
    frontend: FrontendConfig = field(
        default_factory=FrontendConfig, metadata={"help": "the OpenAI-compatible HTTP server"}
    )
    logs: LogConfig = field(
        default_factory=LogConfig, metadata={"help": "what the frontend logs on stderr"}
    )
    scheduler: SchedulerConfig = field(
        default_factory=SchedulerConfig,
        metadata={"help": "the scheduler: priority classes and policies"},
    )
    migration: MigrationConfig = field(
        default_factory=MigrationConfig, metadata={"help": "how running requests are migrated"}
    )
    emulator: EmulatorConfig = field(
        default_factory=EmulatorConfig,
        metadata={"help": "the emulated engines that fleet.emulate starts"},
    )
    simulator: SimulatorConfig = field(
        default_factory=SimulatorConfig,
        metadata={"help": "the fleet of `llumnix simulate`; used by nothing else"},
    )


HOMES: Mapping[str, str] = {
    "emulator.classes": "scheduler.classes",
    "emulator.default_class": "scheduler.default_class",
    "emulator.speed": "fleet.speed",
    "emulator.claim_timeout_s": "migration.claim_timeout_s",
    "migration.link_bytes_per_s": "emulator.link_bytes_per_s",
    "migration.link_bytes_per_token": "emulator.link_bytes_per_token",
    "migration.report_interval_s": "fleet.report_interval_s",
    "simulator.report_interval_s": "fleet.report_interval_s",
}
"""Fields without a key of their own, and the key that sets each."""


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply `section.key=value` overrides.

    Raises ConfigError for a missing file, invalid YAML, an unknown key or a wrong type.
    """
    return build(Config, merged(path, overrides), "")


def merged(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a YAML file's settings as plain data, overrides applied, without checking the keys.

    Raises ConfigError for a missing file, invalid YAML or a malformed override.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = yaml.safe_load(path.read_text()) or {}
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set expects section.key=value, not {override!r}")
        _put(data, key.split("."), _scalar(text), key)
    return data


def build(cls: type[T], data: object, where: str) -> T:
    """Build a (nested) dataclass from plain data, refusing unknown keys and wrong types."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'the configuration'} must be a mapping, not {data!r}")
    hints = typing.get_type_hints(cls)
    names = [item.name for item in _fields(cls)]
    known = [name for name in names if f"{where}.{name}" not in HOMES]
    values = {}
    for key, value in data.items():
        path = f"{where}.{key}" if where else str(key)
        if path in HOMES:
            raise ConfigError(f"{path!r} is set through {HOMES[path]!r}; use that key instead")
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise ConfigError(f"unknown key {path!r}; {hint}")
        values[str(key)] = _convert(hints[str(key)], value, path)
    missing = [
        item.name
        for item in _fields(cls)
        if item.name not in values and item.default is item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where or 'the configuration'} lacks {', '.join(missing)}")
    try:
        built = cls(**values)
        return cast("T", _filled(built)) if isinstance(built, Config) else built
    except ValueError as error:
        raise ConfigError(f"{where or 'configuration'}: {error}") from error


def _filled(config: Config) -> Config:
    """Copy each setting that is set from its key to the fields that repeat it."""
    sections: dict[str, dict[str, object]] = {}
    for key, home in HOMES.items():
        (section, name), (home_section, home_name) = key.split("."), home.split(".")
        value = getattr(getattr(config, home_section), home_name)
        if value is not None and hasattr(getattr(config, section), name):
            sections.setdefault(section, {})[name] = value
    changes: dict[str, Any] = {
        section: dataclasses.replace(getattr(config, section), **values)
        for section, values in sections.items()
    }
    return dataclasses.replace(config, **changes)


def _convert(hint: Any, value: object, path: str) -> object:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _convert(next(arg for arg in args if arg is not type(None)), value, path)
    if dataclasses.is_dataclass(hint):
        short = {"name", "url"} & {item.name for item in _fields(hint)}
        if isinstance(value, str) and short:
            value = {short.pop(): value}
        return build(cast("type[object]", hint), value, path)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{path} must be a list, not {value!r}")
        return tuple(_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping) or hint is dict or origin is typing.get_origin(Mapping[str, int]):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} must be a mapping, not {value!r}")
        return dict(value)
    return _primitive(hint, value, path)


def _primitive(hint: Any, value: object, path: str) -> object:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (int, str, bool):
        if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
            return value
        raise ConfigError(f"{path} must be {hint.__name__}, not {value!r}")
    if hint in (object, Any):
        return value
    raise ConfigError(f"{path} must be {getattr(hint, '__name__', hint)}, not {value!r}")


def add_flags(parser: "argparse._ActionsContainer", cls: type, skip: Sequence[str] = ()) -> None:
    """Add one `--kebab-case` flag per scalar field of a section; a flag not given is None."""
    hints = typing.get_type_hints(cls)
    for item in _fields(cls):
        kind = _scalar_kind(hints[item.name])
        if item.name in skip or kind is None:
            continue
        flag = "--" + item.name.replace("_", "-")
        text = f"{item.metadata.get('help', '')} (default: {_shown(item)})".replace("%", "%%")
        if kind is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            choices = item.metadata.get("choices")
            metavar = None if choices else _metavar(item, kind)
            parser.add_argument(
                flag, type=kind, default=None, choices=choices, metavar=metavar, help=text
            )


def flags_given(args: argparse.Namespace, cls: type) -> dict[str, object]:
    """Return the flags of a section that were given on the command line."""
    values = {item.name: getattr(args, item.name, None) for item in _fields(cls)}
    return {name: value for name, value in values.items() if value is not None}


def describe(config: Config) -> str:
    """Return a configuration as YAML, each key with its meaning and unit beside it."""
    lines: list[str] = []
    for section in _fields(Config):
        value = getattr(config, section.name)
        lines += [f"# {section.metadata['help']}", f"{section.name}:"]
        lines += _described(value, "  ", section.name)
        lines.append("")
    return "\n".join(lines)


def _described(value: object, indent: str, where: str) -> list[str]:
    lines = []
    for item in _fields(type(value)):
        path = f"{where}.{item.name}"
        if path in HOMES:
            continue
        inner = getattr(value, item.name)
        note = _note(item, unset=inner is None)
        if dataclasses.is_dataclass(inner):
            lines += _commented(f"{indent}{item.name}:", note, indent)
            lines += _described(inner, indent + "  ", path)
        else:
            plain = yaml.safe_dump(_plain(inner), default_flow_style=True).split("\n...")[0].strip()
            lines += _commented(f"{indent}{item.name}: {plain}", note, indent)
    return lines


def _note(item: dataclasses.Field[Any], *, unset: bool) -> str:
    """Return what a setting means: its help, what null stands for, and its unit."""
    default, unit = item.metadata.get("default"), item.metadata.get("unit")
    null = f"; null: {default}" if unset and default else ""
    return f"{item.metadata.get('help', '')}{null}{f' [{unit}]' if unit else ''}"


def _commented(line: str, note: str, indent: str) -> list[str]:
    """Put a note behind a line, or above it where it would not fit."""
    if not note:
        return [line]
    beside = f"{line}  # {note}"
    if len(beside) <= _WIDTH:
        return [beside]
    lead = f"{indent}# "
    return [*textwrap.wrap(note, _WIDTH, initial_indent=lead, subsequent_indent=lead), line]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in _fields(type(value))}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return dict(value) if isinstance(value, Mapping) else value


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _scalar_kind(hint: Any) -> type | None:
    kinds = [arg for arg in typing.get_args(hint) if arg is not type(None)] or [hint]
    kind = kinds[0] if len(kinds) == 1 else None
    return kind if kind in (int, float, str, bool, Path) else None


def _metavar(item: dataclasses.Field[Any], kind: type) -> str:
    usual = {int: "N", float: "X", str: "NAME", Path: "FILE"}[kind]
    name = item.metadata.get("metavar") or item.metadata.get("unit") or usual
    return str(name).upper().replace(" ", "_")


def _shown(item: dataclasses.Field[Any]) -> object:
    value = item.default
    if value is dataclasses.MISSING or value in (None, ""):
        return item.metadata.get("default", "unset")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else value


def _scalar(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _put(data: dict[str, Any], keys: Sequence[str], value: object, whole: str) -> None:
    for key in keys[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {whole}: {key} is not a section")
    data[keys[-1]] = value
