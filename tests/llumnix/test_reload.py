"""Settings read again while serving: all or nothing, and nothing silently."""

import dataclasses
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from llumnix.config import Config, load_config
from llumnix.frontend.config import FrontendConfig
from llumnix.instances.config import FleetConfig
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.reload import Reloader, change
from llumnix.service import Service
from policies.registry import PolicyError, PolicySpec
from policies.scheduler import GlobalScheduler, SchedulerConfig

OVERRIDES = {
    "logs.level": "debug",
    "scheduler.migration": "false",
    "scheduler.dispatch": "round-robin",
    "scheduler.rebalance.low_steps": "7",
    "frontend.queue_limit": "3",
    "frontend.shutdown_grace_s": "1",
    "frontend.port": "9999",
    "frontend.backlog": "17",
    "fleet.report_timeout_s": "3",
    "scheduler.queue": "fair",
}
LIVE = set(list(OVERRIDES)[:6])


@given(st.sets(st.sampled_from(sorted(OVERRIDES))))
def test_each_setting_either_changes_now_or_is_named(keys: set[str]) -> None:
    keys -= {"scheduler.queue"}
    old, new = Config(), load_config(None, [f"{key}={OVERRIDES[key]}" for key in keys])

    told = change(old, new)

    def settled(names: tuple[str, ...]) -> set[str]:
        return {name.removesuffix(".name") for name in names}

    assert settled(told.live) == keys & LIVE
    assert settled(told.restart) == keys - LIVE
    again = change(told.config, new)
    assert again.live == ()
    assert again.restart == told.restart


def test_nothing_changes_for_equal_settings() -> None:
    assert change(Config(), Config()).live == change(Config(), Config()).restart == ()


class Reading:
    """A service that is not started, and a file to read its settings from."""

    def __init__(self, path: Path, text: str = "") -> None:
        self.path = path
        self.path.write_text(text)
        config = load_config(path)
        metrics = FleetMetrics(CollectorRegistry())
        self.service = Service(
            config.fleet, config.scheduler, config.frontend, secret=b"s", metrics=metrics
        )
        self.reloader = Reloader(lambda: load_config(path), config, self.service)

    @property
    def scheduler(self) -> SchedulerConfig:
        return self.service.fleet.scheduler.config

    async def read(self, text: str) -> None:
        self.path.write_text(text)
        await self.reloader.reload()


@pytest.fixture(autouse=True)
def _logging() -> object:
    """What a reload sets up for the log is undone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_thresholds_and_policies_change_at_once(tmp_path: Path) -> None:
    reading = Reading(tmp_path / "l.yaml")
    await reading.read(
        "scheduler: {dispatch: round-robin, migration: false, rebalance: {low_steps: 7}}\n"
        "logs: {level: error}"
    )

    assert reading.scheduler.dispatch == PolicySpec("round-robin")
    assert not reading.scheduler.migration
    assert reading.scheduler.rebalance.low_steps == 7
    assert logging.getLogger().level == logging.ERROR


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("scheduler: {migration: false, dispatch: nonsense}", "nonsense"),
        ("scheduler: {migration: false, dispatsh: round-robin}", "did you mean 'dispatch'"),
        ("scheduler: {migration: false}\nfrontend: {port: 70000}", "port must be between"),
        ("scheduler: {migration: false}\nlogs: {level: loud}", "level must be one of"),
        ("scheduler: [", "not valid YAML"),
        ("scheduler: {migration: 5}", "migration must be bool"),
    ],
)
async def test_an_invalid_file_changes_nothing_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    reading = Reading(tmp_path / "l.yaml", "scheduler: {dispatch: random}")
    before = reading.reloader.config
    with caplog.at_level("ERROR"):
        await reading.read(text)

    assert reading.reloader.config is before
    assert reading.scheduler == before.scheduler
    assert "reload_refused" in caplog.text
    assert why in caplog.text


async def test_what_needs_a_restart_is_named_every_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reading = Reading(tmp_path / "l.yaml")
    for _ in range(2):
        caplog.clear()
        await reading.read("frontend: {port: 9, queue_limit: 5}")
        assert "needs_restart=['frontend.port']" in caplog.text
    assert reading.reloader.config.frontend.queue_limit == 5
    assert reading.reloader.config.frontend.port == FrontendConfig().port


def test_a_scheduler_keeps_what_is_in_flight_and_refuses_what_others_built_on() -> None:
    scheduler = GlobalScheduler(SchedulerConfig())
    ledger = scheduler.ledger
    scheduler.reconfigure(SchedulerConfig(dispatch=PolicySpec("random"), ledger_timeout_s=3.0))
    assert scheduler.ledger is ledger
    assert ledger.timeout_s == 3.0

    now = scheduler.config
    with pytest.raises(ValueError, match="queue cannot change"):
        scheduler.reconfigure(dataclasses.replace(now, queue=PolicySpec("fair")))
    with pytest.raises(PolicyError):
        scheduler.reconfigure(dataclasses.replace(now, dispatch=PolicySpec("nonsense")))
    assert scheduler.config is now


def test_the_fleet_section_needs_a_restart_but_for_its_members() -> None:
    new = dataclasses.replace(Config(), fleet=FleetConfig(report_timeout_s=3.0))
    assert change(Config(), new).restart == ("fleet.report_timeout_s",)


async def test_an_instances_new_key_is_sent_from_then_on(tmp_path: Path) -> None:
    """A file that cannot be read changes nothing."""
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"sk-{name}")
    text = (
        "fleet:\n  instances: [http://127.0.0.1:1, http://127.0.0.1:3]\n"
        f"  instance_api_key_file: {tmp_path}/old\n"
    )
    reading = Reading(tmp_path / "l.yaml", text)
    fleet = reading.service.fleet
    await fleet.start(load_config(reading.path).fleet.instances)
    try:
        assert {each.endpoint.key.text for each in fleet.instances} == {"sk-old"}
        await reading.read(text.replace("/old", "/new"))
        assert {each.endpoint.key.text for each in fleet.instances} == {"sk-new"}
        await reading.read(text.replace("/old", "/missing"))
        assert {each.endpoint.key.text for each in fleet.instances} == {"sk-new"}
    finally:
        await fleet.close()
