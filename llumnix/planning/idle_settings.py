"""Refuse settings that can change nothing in a simulation.

A setting on the command line (`--set`, a flag, what is varied or searched) must be able to change
at least one of the simulations. A file is checked less strictly, because `llumnix serve` reads the
same one and the command line may choose another policy for once: only what the file itself makes
idle is refused. Each rule covers settings that certainly have no effect; without certainty there is
no rule.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from llumnix.config import HOMES, Config, flags_given, load_config, merged
from llumnix.errors import ConfigError
from llumnix.instances.config import FleetConfig
from policies.moves.config import RebalanceConfig
from policies.scaling import ScalingConfig
from simulator.fleet.instance import PER_MILLE
from simulator.fleet.options import SimulatorConfig

_SIMULATOR = "simulator."
_REBALANCE = tuple(
    f"scheduler.rebalance.{one.name}"
    for one in fields(RebalanceConfig)
    if one.name != "interval_s"  # also the sampling interval of a report
)
_MOVING = tuple(
    f"{_SIMULATOR}{name}" for name in ("link_bytes_per_s", "message_latency_us", "copy_slowdown")
)
_SOCKETS = tuple(
    f"migration.{name}"
    for name in (
        "claim_timeout_s",
        "connect_timeout_s",
        "max_header_bytes",
        "max_payload_bytes",
        "chunk_bytes",
        "max_connections",
        "tls_ca_file",
        "tls_cert_file",
        "tls_key_file",
    )
)
_SCALING = (
    *(f"{_SIMULATOR}scaling.{one.name}" for one in fields(ScalingConfig)),
    f"{_SIMULATOR}start_delay_s",
)
_REAL = (
    "frontend.",
    "logs.",
    "emulator.",
    *(f"fleet.{one.name}" for one in fields(FleetConfig) if one.name != "report_interval_s"),
)
_INSTEAD = {
    "fleet.emulate": "instances",
    "frontend.queue_limit": "queue_limit",
    "emulator.preset": "preset",
    "emulator.capacity_tokens": "capacity_tokens",
    "emulator.block_tokens": "block_tokens",
    "emulator.max_num_seqs": "max_num_seqs",
    "emulator.token_budget": "token_budget",
    "emulator.link_bytes_per_s": "link_bytes_per_s",
}
"""Settings that have a counterpart in the simulator's own section."""
_READ_AT = {home: key for key, home in HOMES.items() if key.startswith(_SIMULATOR)}
"""Settings of other sections that a simulation reads."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When some settings are idle: `why` returns the reason in a configuration, None if they act.

    `keys` are whole keys, or sections ending in a dot. `in_files`: the rule holds for real fleets
    too.
    """

    keys: tuple[str, ...]
    why: Callable[[Config], str | None]
    in_files: bool = False

    def covers(self, key: str) -> bool:
        """Return whether the rule covers a key."""
        return any(key == one or (one[-1] == "." and key.startswith(one)) for one in self.keys)


def _unmoved(config: Config) -> str | None:
    if config.scheduler.migration:
        return None
    return "migration is off (switch it on with --policy NAME+migration)"


def _alone(config: Config) -> str | None:
    alone = config.simulator.instances == 1 and not config.simulator.scaling.on
    return "a single instance has nowhere to migrate requests to" if alone else None


def _undrained(config: Config) -> str | None:
    return (
        None if config.simulator.scaling.on else "a simulation drains instances only when scaling"
    )


def _unscaled(config: Config) -> str | None:
    scaling = config.simulator.scaling
    if scaling.on:
        return None
    if scaling.max_instances is not None:
        return "min_instances and max_instances leave nothing to scale"
    return f"scaling is off ({_SIMULATOR}scaling.max_instances switches it on)"


def _early_binding(config: Config) -> str | None:
    late = config.scheduler.dispatch.params.get("late_binding", True)
    return None if late else "late_binding is off"


def _rounded_away(config: Config) -> str | None:
    slowdown = config.simulator.copy_slowdown
    lost = slowdown > 0 and round(slowdown * PER_MILLE) == 0
    return f"{slowdown:g} rounds to 0: it is counted in whole per mille" if lost else None


RULES = (
    Rule(_REAL, lambda _: "no simulation uses this section"),
    Rule(_SOCKETS, lambda _: "a simulation has no sockets"),
    Rule((*_REBALANCE, *_MOVING), _unmoved, in_files=True),
    Rule(("migration.",), _unmoved),  # a real fleet can be ordered manually to migrate a request
    Rule(("scheduler.moves",), _unmoved),
    Rule((*_REBALANCE, *_MOVING, "scheduler.moves", "migration."), _alone),
    Rule(("scheduler.rebalance.max_concurrent_drain",), _undrained),
    Rule(_SCALING, _unscaled, in_files=True),
    Rule((f"{_SIMULATOR}copy_slowdown",), _rounded_away, in_files=True),
    Rule(("scheduler.dispatch.params.growth_steps",), _early_binding, in_files=True),
)


@dataclass(frozen=True, slots=True)
class GivenSettings:
    """A setting as given: its key, its value, and the form in which its user wrote it."""

    key: str
    value: object
    shown: str

    def why_idle(self, config: Config) -> str | None:
        """Return why the setting is idle in a configuration made from it; None if it may act."""
        if self._overridden(config):
            return "it is overridden by --policy, a flag, --vary or a later --set beside it"
        reasons = (rule.why(config) for rule in RULES if rule.covers(self.key))
        return next((reason for reason in reasons if reason), None)

    def why_idle_in_file(self, config: Config) -> str | None:
        """Return the same for a setting in a file, which other commands may read."""
        rules = (rule for rule in RULES if rule.in_files and rule.covers(self.key))
        return next((reason for rule in rules if (reason := rule.why(config))), None)

    def _overridden(self, config: Config) -> bool:
        if isinstance(self.value, list):
            return False
        if self.key == "scheduler.dispatch":
            return config.scheduler.dispatch.name != self.value
        return _value_at(config, _READ_AT.get(self.key, self.key)) != self.value


def refuse_idle(args: argparse.Namespace, configs: Sequence[Config]) -> None:
    """Raise ConfigError for a given setting that acts in none of these configurations.

    They are the ones that the command line `args` (`simulate.add_fleet_arguments`) leads to.
    """
    for one in given(args):
        _refuse(one, [one.why_idle(config) for config in configs])
    if args.config is not None:
        try:
            alone = [load_config(args.config)]
        except ConfigError:  # it is complete only together with the other settings given
            alone = []
        usual = Config()
        for key, value in _leaves(merged(args.config), ""):
            if _value_at(usual, key) == value:
                continue  # `llumnix config` prints all defaults: they express no intention
            one = GivenSettings(key, value, f"{key} in {args.config}")
            _refuse(one, [one.why_idle_in_file(config) for config in (*alone, *configs)])


def refuse_idle_keys(flag: str, keys: Sequence[str], configs: Sequence[Config]) -> None:
    """Raise ConfigError for keys that a flag varies or searches, if they act nowhere."""
    for key in keys:
        rules = [rule for rule in RULES if rule.covers(key)]
        reasons = [
            next((reason for rule in rules if (reason := rule.why(config))), None)
            for config in configs
        ]
        _refuse(GivenSettings(key, None, f"{flag} {key}"), reasons)


def refuse_varied(args: argparse.Namespace, keys: Sequence[str]) -> None:
    """Raise ConfigError for a setting that is also varied, since `--vary` wins."""
    fixed = {one.key: one.shown for one in given(args)}
    for name in ("policy", "rate", "requests"):
        if getattr(args, name) is not None:
            fixed[name] = f"--{name}"
    for name in ("seed", "high_share"):
        if getattr(args, name):
            fixed[name] = f"--{name.replace('_', '-')}"
    for key in keys:
        if key in fixed:
            raise ConfigError(f"{fixed[key]} has no effect: it is varied")


def given(args: argparse.Namespace) -> Iterator[GivenSettings]:
    """Return the settings given on a command line, except in files."""
    for override in args.set:
        for key, value in _leaves(merged(None, [override]), ""):
            yield GivenSettings(key, value, f"--set {key}")
    for name, value in flags_given(args, SimulatorConfig).items():
        key = HOMES.get(_SIMULATOR + name, _SIMULATOR + name)
        yield GivenSettings(key, value, f"--{name.replace('_', '-')}")


def _refuse(one: GivenSettings, reasons: Sequence[str | None]) -> None:
    first = next(iter(reasons), None)
    if first is None or not all(reasons):
        return
    instead = _INSTEAD.get(one.key)
    hint = f"; did you mean {_SIMULATOR}{instead}?" if instead else ""
    raise ConfigError(f"{one.shown} has no effect: {first}{hint}")


def _value_at(config: Config, key: str) -> object:
    """Return a setting by its key; None if there is none."""
    found: object = config
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
    return found


def _leaves(data: Mapping[str, Any], where: str) -> Iterator[tuple[str, object]]:
    for name, value in data.items():
        key = f"{where}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value
