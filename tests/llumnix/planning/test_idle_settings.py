"""An option that has no effect in a configuration is an error, and one that has is none."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from llumnix import cli
from llumnix.config import HOMES, Config, describe
from llumnix.errors import ConfigError
from llumnix.planning import simulate
from llumnix.planning.idle_settings import refuse_idle

STILL = "--policy=freeness-migration"
REBALANCE = [
    f"scheduler.rebalance.{one.name}"
    for one in dataclasses.fields(Config().scheduler.rebalance)
    if one.name not in ("interval_s", "max_concurrent_drain")
]
SOCKETS = {
    "claim_timeout_s": "1",
    "connect_timeout_s": "1",
    "max_header_bytes": "9",
    "max_payload_bytes": "9",
    "chunk_bytes": "9",
    "max_connections": "9",
}
TLS = ("tls_ca_file", "tls_cert_file", "tls_key_file")  # given together, or not at all


def parsed(*words: str) -> argparse.Namespace:
    return cli.parser("simulate").parse_args(["simulate", "azure-conv-2023", *words])


def check(*words: str) -> None:
    args = parsed(*words)
    refuse_idle(args, [simulate.settings_of(args)])


def value_of(key: str) -> object:
    found: object = Config()
    for name in key.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize(
    "option",
    [
        "--copy-slowdown=0.1",
        "--message-latency-us=5",
        "--link-bytes-per-s=1000000",
        "--set=migration.max_stages=3",
        "--set=migration.cooldown_s=1",
        *(f"--set={key}={value_of(key)}" for key in REBALANCE),
    ],
)
def test_settings_of_moves_need_moves(option: str) -> None:
    """They are refused where migration is off or there is nowhere to go, and taken elsewhere."""
    name = option.partition("=")[0] if "--set" not in option else option[6:].partition("=")[0]
    with pytest.raises(ConfigError, match=f"{name} has no effect: migration is off"):
        check(option, STILL)
    with pytest.raises(ConfigError, match=f"{name} has no effect: a single instance has nowhere"):
        check(option, "--instances=1")
    check(option)
    check(option, "--policy=round-robin+migration")


def test_how_often_the_fleet_is_looked_at_matters_without_moves_too() -> None:
    """A report shows the fleet at every rebalance."""
    check("--set=scheduler.rebalance.interval_s=1", STILL)


@pytest.mark.parametrize("name", SOCKETS)
def test_settings_of_sockets_are_not_simulated(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} has no effect: a simulation has no sockets"):
        check(f"--set=migration.{name}={SOCKETS[name]}")


def test_certificates_of_links_are_not_simulated() -> None:
    with pytest.raises(ConfigError, match="tls_ca_file has no effect: a simulation has no sockets"):
        check(*(f"--set=migration.{name}=x.pem" for name in TLS))


def test_every_setting_of_migration_is_either_simulated_or_of_sockets() -> None:
    """What the rule lists is what no simulated llumlet reads: others are taken."""
    for one in dataclasses.fields(Config().migration):
        if one.name not in (*SOCKETS, *TLS) and f"migration.{one.name}" not in HOMES:
            check(f"--set=migration.{one.name}={value_of(f'migration.{one.name}')}")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--set=fleet.poll_interval_s=2", "no simulation uses this section"),
        ("--set=fleet.emulate=3", "did you mean simulator.instances"),
        ("--set=frontend.queue_limit=9", "did you mean simulator.queue_limit"),
        ("--set=emulator.token_budget=900", "did you mean simulator.token_budget"),
        ("--set=emulator.kv_pretouch=true", "no simulation uses this section"),
        ("--set=emulator.link_bytes_per_s=9", "did you mean simulator.link_bytes_per_s"),
        ("--set=scheduler.rebalance.max_concurrent_drain=2", "a simulation drains instances only"),
    ],
)
def test_what_only_a_real_fleet_has_is_refused(option: str, words: str) -> None:
    """The simulator's own setting is named where there is one."""
    with pytest.raises(ConfigError, match=words):
        check(option)


def test_a_slowdown_too_small_to_count_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no effect: 0\.0004 rounds to 0"):
        check("--copy-slowdown=0.0004")
    check("--copy-slowdown=0.0006")
    check("--copy-slowdown=0")


def test_room_to_grow_belongs_to_late_binding() -> None:
    freeness = "--set=scheduler.dispatch.name=freeness"
    growth = "--set=scheduler.dispatch.params.growth_steps=9"
    check(freeness, growth)
    with pytest.raises(ConfigError, match="growth_steps has no effect: late_binding is off"):
        check(freeness, growth, "--set=scheduler.dispatch.params.late_binding=false")


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ("--set=scheduler.dispatch=load-aware", "--policy=freeness", "scheduler.dispatch"),
        ("--set=scheduler.migration=true", "--policy=round-robin", "scheduler.migration"),
        ("--set=simulator.instances=3", "--instances=4", "simulator.instances"),
        ("--set=simulator.instances=3", "--set=simulator.instances=4", "simulator.instances"),
        (
            "--set=fleet.report_interval_s=0.3",
            "--report-interval-s=0.2",
            "fleet.report_interval_s",
        ),
    ],
)
def test_what_is_overridden_is_refused(first: str, second: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"--set {named} has no effect: it is overridden"):
        check(first, second)
    check(second)
    check(first)


def test_parameters_of_a_policy_not_chosen_are_refused() -> None:
    given = "--set=scheduler.dispatch={name: freeness, params: {growth_steps: 9}}"
    check(given)
    check(given, "--policy=freeness")
    with pytest.raises(ConfigError, match=r"dispatch\.name has no effect: it is overridden"):
        check(given, "--policy=load-aware")


def test_saying_the_same_twice_is_no_error() -> None:
    check("--set=scheduler.migration=true", "--policy=freeness")
    check("--set=simulator.instances=3", "--instances=3")


@pytest.mark.parametrize(
    "text",
    [
        "scheduler: {migration: false, rebalance: {low_steps: 32}}",
        "scheduler: {migration: false}\nsimulator: {copy_slowdown: 0.1}",
        "scheduler: {dispatch: {name: freeness, params: {late_binding: false, growth_steps: 9}}}",
    ],
)
def test_a_file_at_odds_with_itself_is_refused(text: str, tmp_path: Path) -> None:
    """It names the key and the file; what the command line makes of it is taken into account."""
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"has no effect: (migration|late_binding) is off"):
        check(f"--config={path}")
    if "migration" in text:
        check(f"--config={path}", "--policy=freeness+migration")


def test_a_file_may_hold_what_other_commands_read(tmp_path: Path) -> None:
    """What a fleet is served with can be simulated, also under another policy for once."""
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "fleet: {instances: ['http://gpu1:8000'], report_interval_s: 0.2}\n"
        "frontend: {queue_limit: 77}\n"
        "emulator: {token_budget: 512}\n"
        "migration: {chunk_bytes: 1000000, cooldown_s: 2}\n"
        "scheduler:\n"
        "  rebalance: {low_steps: 32, max_concurrent_drain: 2}\n"
        "  dispatch: {name: freeness, params: {growth_steps: 16}}\n"
        "simulator: {copy_slowdown: 0.1}\n"
    )
    for more in ([], ["--policy=round-robin"], ["--instances=1"]):
        check(f"--config={path}", *more)


def test_a_file_of_all_defaults_wishes_for_nothing(tmp_path: Path) -> None:
    """What `llumnix config` prints can be edited and simulated, without migration too."""
    path = tmp_path / "all.yaml"
    text = describe(Config())
    path.write_text(text.replace("  migration: true", "  migration: false"))
    assert path.read_text() != text
    check(f"--config={path}")
    path.write_text(path.read_text().replace("low_steps: 64.0", "low_steps: 60.0"))
    with pytest.raises(ConfigError, match=r"rebalance\.low_steps in .* has no effect"):
        check(f"--config={path}")


def test_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is simulated, with the exit status of what cannot be run."""
    assert cli.main(["simulate", "azure-conv-2023", "--copy-slowdown=0.1", STILL]) == 2
    assert "--copy-slowdown has no effect: migration is off" in capsys.readouterr().err
