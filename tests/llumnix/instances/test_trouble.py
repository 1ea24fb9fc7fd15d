"""An instance that is not up says why: one cause each, once in the log, wherever users look."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from llumnix.fleet import view
from llumnix.fleet.clock import FleetClock
from llumnix.fleet.events import EventRing
from llumnix.fleet.faults.trouble_log import TroubleLog
from llumnix.fleet.fleet import Fleet
from llumnix.fleet.links import Links
from llumnix.instances.condition.trouble import Cause, ContactFailed, Trouble, trouble_of
from llumnix.instances.config import FleetConfig, InstanceSpec
from llumnix.instances.instance import Identity, Instance, InstanceKind, InstanceState
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import InstanceId
from tests.llumnix.frontend.stage import until
from tests.llumnix.instances.certificates import Authority
from tests.llumnix.instances.raw_server import RawServer, Reply, raw_server

SECRET = b"s" * 32
_NOBODY = Identity(InstanceId(""), InstanceKind.UNTOUCHED)


@asynccontextmanager
async def fleet_of(
    *urls: str | InstanceSpec, secret: bytes = b"", **config: Any
) -> AsyncIterator[Fleet]:
    """Run a fleet that contacts these servers for real."""
    quick = {"reconnect_min_s": 0.02, "reconnect_max_s": 0.05, "poll_interval_s": 0.05, **config}
    scheduler = SchedulerConfig(migration=False)
    tally = Tally(FleetMetrics(CollectorRegistry()), [each.name for each in scheduler.classes])
    fleet = Fleet(FleetConfig(**quick), GlobalScheduler(scheduler), secret, tally, FleetClock())
    try:
        await fleet.start(urls)
        yield fleet
    finally:
        await fleet.close()


async def trouble_at(url: str, secret: bytes = b"", **config: Any) -> Trouble:
    """Return why a server does not come up."""
    async with fleet_of(url, secret=secret, **config) as fleet:
        (instance,) = fleet.instances
        await until(lambda: instance.trouble is not None)
        assert instance.state is not InstanceState.UP
        assert instance.trouble is not None
        return instance.trouble


def refusing() -> AbstractAsyncContextManager[RawServer]:
    """Run a server that wants a key."""
    return raw_server(lambda path, headers: Reply("", 401))


async def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        trouble = await trouble_at(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert trouble.cause is Cause.UNREACHABLE
    assert "connection refused" in trouble.detail


async def test_a_server_that_does_not_answer_is_silent() -> None:
    async with raw_server(lambda path, headers: None) as server:
        trouble = await trouble_at(server.url, contact_timeout_s=0.2)
    assert trouble.cause is Cause.SILENT
    assert "0.2 s" in trouble.detail


@pytest.mark.parametrize(
    ("reply", "cause", "said"),
    [
        (Reply("{}", 401), Cause.UNAUTHORIZED, "--instance-api-key-file"),
        (Reply("{}", 403), Cause.UNAUTHORIZED, "--instance-api-key-file"),
        (Reply("<!doctype html><p>app", kind="text/html"), Cause.NOT_OPENAI, "no list of models"),
        (Reply(b"\xff\xfe\x00"), Cause.NOT_OPENAI, "no list of models"),
        (Reply("[" * 100_000), Cause.NOT_OPENAI, "no list of models"),
        (Reply('{"status": "ok"}'), Cause.NOT_OPENAI, "no list of models"),
        (Reply("", 404), Cause.NOT_OPENAI, "before /v1"),
        (Reply("", 302, ("Location: https://there/",)), Cause.NOT_OPENAI, "https://there/"),
        (Reply("", 503), Cause.SILENT, "still be starting"),
    ],
)
async def test_an_odd_answer_has_its_cause(reply: Reply, cause: Cause, said: str) -> None:
    async with raw_server(lambda path, headers: reply) as server:
        trouble = await trouble_at(server.url)
    assert trouble.cause is cause
    assert said in str(trouble)


async def test_tls_troubles(tmp_path: Path) -> None:
    """An authority that is not known; and TLS where none is spoken."""
    context = Authority.make(tmp_path).server_context()
    async with raw_server(tls=context) as server, raw_server() as plain:
        unknown = await trouble_at(server.url)
        no_tls = await trouble_at(plain.url.replace("http:", "https:"))
    assert unknown.cause is Cause.TLS
    assert "--instance-ca-file" in str(unknown)
    assert no_tls.cause is Cause.TLS
    assert "http://" in no_tls.advice


async def test_plain_http_to_a_tls_port_is_not_openai(tmp_path: Path) -> None:
    """Whatever it is told, it says something."""
    context = Authority.make(tmp_path).server_context()
    async with raw_server(tls=context) as server:
        trouble = await trouble_at(server.url.replace("https:", "http:"))
    assert trouble.cause in (Cause.UNREACHABLE, Cause.NOT_OPENAI)


async def test_a_control_port_that_is_closed_is_named() -> None:
    told = '{"instance_id": "a", "capacity_tokens": 1, "control_host": "127.0.0.1", '
    told += '"control_port": 1}'

    def answer(path: str, headers: object) -> Reply:
        return Reply(told) if path == "/llumnix/instance" else Reply('{"data": []}')

    async with raw_server(answer) as server:
        trouble = await trouble_at(server.url, SECRET)
    assert trouble.cause is Cause.CONTROL_PORT
    assert "secret" in trouble.advice


def test_hosts_that_are_not_known() -> None:
    """As aiohttp says it, and as a socket does."""
    bare = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    key: Any = None
    wrapped = aiohttp.ClientConnectorDNSError(key, bare)
    assert trouble_of(bare, 1.0).cause is Cause.UNKNOWN_HOST
    assert trouble_of(wrapped, 1.0).cause is Cause.UNKNOWN_HOST
    assert trouble_of(ssl.SSLError(1, "x"), 1.0).cause is Cause.TLS
    assert trouble_of(RuntimeError("?"), 1.0).cause is Cause.INTERNAL


async def test_two_servers_of_one_name_are_told_apart_by_who_came_first() -> None:
    """As long as the first is there; when it is gone, its name may move to another address."""

    async with (
        raw_server() as first,
        raw_server() as second,
        fleet_of(first.url, second.url) as fleet,
    ):
        one, other = fleet.instances
        await until(lambda: one.alive and other.alive)
        links = Links(
            *(aiohttp.ClientSession(), fleet.instances, fleet.config, b"", fleet, fleet.now_s),
            local_count=len,
            flowed_at_s=lambda _: 0.0,
            default_class=0,
        )
        named = replace(one.identity or _NOBODY, instance_id=InstanceId("pod-0"))
        one.id = named.instance_id
        with pytest.raises(ContactFailed, match="also calls itself") as refused:
            await links.open(other, named)
        assert refused.value.trouble.cause is Cause.DUPLICATE
        one.lose()
        await links.open(other, named)
        assert one.id == one.endpoint.address.name
        await links.session.close()


async def test_nothing_ends_supervision(caplog: pytest.LogCaptureFixture) -> None:
    """A fault of our own while linking, or in a report: logged once, and tried again."""
    faults = 3
    async with raw_server() as server, fleet_of(server.url) as fleet:
        (instance,) = fleet.instances
        await until(lambda: instance.alive)
        usual = fleet.scheduler.confirm_until

        def confirm_until(instance_id: InstanceId, at_s: float) -> None:
            nonlocal faults
            faults -= 1
            if faults >= 0:
                raise RuntimeError("a fault")
            usual(instance_id, at_s)

        fleet.scheduler.confirm_until = confirm_until  # type: ignore[method-assign]
        await until(lambda: faults < 0 and instance.alive)
    logged = [record for record in caplog.records if "supervision_error" in record.message]
    assert len(logged) == 1
    assert logged[0].exc_info


async def test_why_is_said_once_and_again_when_it_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the default level; and that it is up at last."""
    async with refusing() as server, fleet_of(server.url) as fleet:
        (instance,) = fleet.instances
        await until(lambda: len(server.asked) > 4)
        server.answer = lambda path, headers: Reply("")
        await until(lambda: instance.trouble and instance.trouble.cause is Cause.NOT_OPENAI)
        before = len(server.asked)
        await until(lambda: len(server.asked) > before + 3)
        server.answer = server.usual
        await until(lambda: instance.alive)
    lines = [each for each in caplog.records if each.levelno >= logging.WARNING]
    said = [each.getMessage() for each in lines]
    assert [line.split()[0] for line in said] == ["instance_not_up"] * 2 + ["instance_up"]
    assert "cause=unauthorized" in said[0]
    assert "cause=not_openai" in said[1]
    assert server.url in said[0]


def test_a_cause_that_comes_and_goes_floods_nothing(caplog: pytest.LogCaptureFixture) -> None:
    log, instance = TroubleLog(EventRing()), Instance.at("http://gpu1")
    for second in range(100):
        cause = (Cause.UNREACHABLE, Cause.SILENT)[second % 2]
        log.not_up(instance, Trouble(cause, "…"), float(second))
    assert len(caplog.records) == 4


async def test_a_loss_is_said_once_and_that_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not as being down and as not being up."""
    async with raw_server() as server, fleet_of(server.url) as fleet:
        (instance,) = fleet.instances
        await until(lambda: instance.alive)
        fleet.suspect(instance, "it is suspected")
        await until(lambda: instance.trouble is None and instance.alive)
    said = [each.getMessage().split()[0] for each in caplog.records]
    assert said == ["instance_down", "instance_up"]


async def test_why_is_seen_on_the_admin_api_and_as_a_metric() -> None:
    async with refusing() as server, fleet_of(server.url) as fleet:
        (instance,) = fleet.instances
        await until(lambda: instance.trouble is not None)
        status = view.fleet_status(fleet, 0, 1).instances[0]
        labels = {"instance_id": instance.id, "cause": status.reason}
        gauge = ("llumnix_instance_not_up", labels)
        view.set_gauges(fleet, [0, 0], 1)
        registry = fleet.tally.metrics.registry
        assert (status.reason, registry.get_sample_value(*gauge)) == ("unauthorized", 1)
        assert "401" in status.detail
        server.answer = server.usual
        await until(lambda: instance.alive)
        view.set_gauges(fleet, [0, 0], 1)
        assert registry.get_sample_value(*gauge) is None
        assert view.fleet_status(fleet, 0, 1).instances[0].detail == ""


@pytest.mark.parametrize(
    "always",
    [
        Reply('{"status": "ok"}'),
        Reply("<!doctype html><p>app", kind="text/html"),
        Reply(b"\xff\x00"),
        Reply("[1]"),
        Reply("", 302, ("Location: /login",)),
        Reply("", 401),
        Reply("", 500),
        Reply("{}", headers=("Connection: close", "Content-Encoding: gzip")),
    ],
)
async def test_a_server_that_is_not_ours_is_served_untouched(always: Reply) -> None:
    """Whatever it answers where a llumlet would be: only a llumlet's own keys tell of one."""

    def answer(path: str, headers: object) -> Reply | None:
        return RawServer().usual(path, {}) if path == "/v1/models" else always

    async with raw_server(answer) as server, fleet_of(server.url, secret=SECRET) as fleet:
        (instance,) = fleet.instances
        await until(lambda: instance.state is InstanceState.UP)
        assert not instance.plugged


async def test_a_server_may_start_later_and_change_its_mind_about_metrics() -> None:
    server = RawServer()
    await server.start()
    await server.stop()
    async with fleet_of(server.url) as fleet:
        (instance,) = fleet.instances
        await until(lambda: instance.trouble is not None)
        await server.start()
        await until(lambda: instance.alive)
        server.metrics = "<html>" + "x" * 1000
        before = len(server.asked)
        await until(lambda: len(server.asked) > before + 3)
        assert instance.alive
        await server.stop()
        await asyncio.sleep(0)
