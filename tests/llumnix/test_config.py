"""The one configuration object: read, documented, passed on, and strict."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llumnix import cli
from llumnix.commands import emulate
from llumnix.commands.emulate import child_arguments
from llumnix.config import HOMES, Config, build, describe, load_config
from llumnix.errors import ConfigError
from llumnix.instances.config import InstanceSpec
from policies.registry import PolicySpec

CHANGES = [
    "fleet.emulate=3",
    "frontend.port=9",
    "scheduler.dispatch=load-aware",
    "scheduler.rebalance.low_steps=10",
    'scheduler.classes=[{"name": "gold", "headroom_tokens": 5}, {"name": "normal"}]',
    "emulator.capacity_tokens=16000",
    "emulator.kv_pretouch=true",
    "migration.cooldown_s=1",
]


def every_field(cls: Any, where: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    for item in dataclasses.fields(cls):
        yield f"{where}{item.name}", item
        default = item.default
        if default is dataclasses.MISSING and item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if dataclasses.is_dataclass(default):
            yield from every_field(type(default), f"{where}{item.name}.")


def test_what_is_printed_reads_back_equal() -> None:
    config = load_config(None, CHANGES)

    assert build(Config, yaml.safe_load(describe(config)), "") == config


def test_a_file_and_overrides_merge(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("frontend:\n  port: 1\n  host: 0.0.0.0\n")

    config = load_config(path, ["frontend.port=2"])

    assert (config.frontend.port, config.frontend.host) == (2, "0.0.0.0")
    assert config.scheduler == Config().scheduler


def test_a_policy_may_be_given_by_its_name_alone() -> None:
    assert load_config(None, CHANGES).scheduler.dispatch == PolicySpec("load-aware")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("frontend.prt=1", "did you mean 'port'"),
        ("nonsense=1", "known: fleet"),
        ("frontend.port=many", "must be int"),
        ("fleet.instances=http://x", "must be a list"),
        ("frontend=3", "must be a mapping"),
        ("scheduler.dispatch.params.x=1", "lacks name"),
        ("scheduler.rebalance.low_steps=1000", "must not exceed"),
        ("frontend.port", "section.key=value"),
        ("frontend.port.deeper=1", "must be int"),
    ],
)
def test_mistakes_are_told(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(None, [override])


@pytest.mark.parametrize(("key", "home"), HOMES.items())
def test_a_setting_has_one_key(key: str, home: str) -> None:
    """What repeats it is no key, is not printed, and has its value."""
    with pytest.raises(ConfigError, match=f"'{key}' is set through '{home}'"):
        load_config(None, [f"{key}=1"])
    section, name = key.split(".")
    printed = yaml.safe_load(describe(Config()))
    assert name not in printed[section]
    assert home.split(".")[1] in printed[home.split(".")[0]]


def test_what_repeats_a_setting_has_its_value() -> None:
    config = load_config(
        None,
        [
            "scheduler.classes=[gold, plain]",
            "scheduler.default_class=plain",
            "fleet.speed=4",
            "fleet.report_interval_s=0.25",
            "migration.claim_timeout_s=1.5",
            "emulator.link_bytes_per_s=1000",
        ],
    )

    assert config.emulator.class_names == ("gold", "plain")
    assert config.emulator.default_class == "plain"
    assert config.emulator.speed == 4
    assert config.emulator.claim_timeout_s == 1.5
    assert config.migration.link_bytes_per_s == 1000
    assert config.simulator.report_interval_s == 0.25
    unset = load_config(None)
    assert unset.migration.link_bytes_per_token == 0
    assert unset.emulator.link_bytes_per_token is None


def test_flags_of_an_emulated_engine_win_over_what_its_fleet_has() -> None:
    """Each setting has one key, but an engine started by hand may still be told by a flag."""
    words = ["--speed=3", "--default-class=high", "--claim-timeout-s=2", "--set=fleet.speed=5"]
    args = cli.parser("emulate").parse_args(["emulate", *words])
    engine = emulate.settings(args).emulator

    assert (engine.speed, engine.default_class, engine.claim_timeout_s) == (3.0, "high", 2.0)


def test_a_missing_and_a_broken_file_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")

    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(broken)


def test_every_setting_says_what_it_is_for() -> None:
    silent = [name for name, item in every_field(Config) if not item.metadata.get("help")]

    assert silent == []


def test_children_get_the_settings_of_their_parent() -> None:
    config = load_config(None, CHANGES)
    overrides = [part for part in child_arguments(config) if part != "--set"]

    child = load_config(None, overrides)

    assert child.emulator == config.emulator
    assert child.migration == config.migration
    assert child.scheduler.classes == config.scheduler.classes


def test_an_instance_is_a_url_or_a_mapping(tmp_path: Path) -> None:
    """What is printed of both reads back equal."""
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "fleet:\n  instances:\n  - http://gpu1:8000/v1\n"
        "  - {url: https://gpu2, api_key_env: K, verify: false}\n  - k8s://ml/llama\n"
    )
    config = load_config(path)

    assert config.fleet.instances == (
        InstanceSpec("http://gpu1:8000/v1"),
        InstanceSpec("https://gpu2", api_key_env="K", verify=False),
        InstanceSpec("k8s://ml/llama"),
    )
    assert build(Config, yaml.safe_load(describe(config)), "") == config


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("gpu1:8000", "http://gpu1:8000"),
        ("{url: http://a, key: b}", "instances\\[0\\].key"),
        ("{api_key_file: b}", "lacks url"),
        ("{url: http://a, verify: 5}", "verify must be bool"),
        ("5", "must be a mapping"),
    ],
)
def test_a_mistake_in_an_instance_is_said(entry: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(f"fleet:\n  instances:\n  - {entry}\n")
    with pytest.raises(ConfigError, match=said):
        load_config(path)
