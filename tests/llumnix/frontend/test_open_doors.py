"""A start in an unsafe place is possible, but not silent."""

import logging

import pytest
from prometheus_client import CollectorRegistry

from llumnix.fleet.clock import FleetClock
from llumnix.fleet.fleet import Fleet
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.server import FrontendServer
from llumnix.instances.config import FleetConfig
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from policies.scheduler import GlobalScheduler, SchedulerConfig

ANYWHERE = "0.0.0.0"  # never listened on: only what is said about it is tested


async def said(
    config: FrontendConfig,
    key: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    monkeypatch.setenv("LLUMNIX_INSTANCE_API_KEY", key)
    scheduler = GlobalScheduler(SchedulerConfig(), 0)
    tally = Tally(FleetMetrics(CollectorRegistry()), ["high", "normal"])
    settings = FleetConfig()
    fleet = Fleet(settings, scheduler, b"", tally, FleetClock(1.0))
    await fleet.start(("http://127.0.0.1:1",))
    try:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "llumnix.frontend.server"):
            FrontendServer(config, fleet, "token")._warn_of_open_doors()
    finally:
        await fleet.close()
    return [record.getMessage().partition(" ")[0] for record in caplog.records]


@pytest.mark.parametrize(
    ("config", "key", "expected"),
    [
        (FrontendConfig(), "sk-ours", []),
        (FrontendConfig(host=ANYWHERE), "", []),
        (FrontendConfig(host=ANYWHERE), "sk-ours", ["clients_need_no_key"]),
        (FrontendConfig(admin_host=ANYWHERE), "", ["admin_port_in_plain_text"]),
    ],
)
async def test_what_is_open_to_all_is_said(
    config: FrontendConfig,
    key: str,
    expected: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await said(config, key, caplog, monkeypatch) == expected
