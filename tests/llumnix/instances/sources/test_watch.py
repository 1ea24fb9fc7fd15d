"""Sources in a fleet: what they list joins and leaves, and what fails is said once."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from llumnix.errors import ConfigError
from llumnix.fleet import view
from llumnix.fleet.fleet import Fleet
from llumnix.instances.config import SOURCE_SCHEMES, InstanceSpec
from llumnix.instances.sources import watch
from llumnix.instances.sources.registry import _MAKERS
from llumnix.instances.sources.source import Listing, SourceFailed
from tests.llumnix.frontend.stage import until
from tests.llumnix.instances.raw_server import raw_server
from tests.llumnix.instances.test_trouble import fleet_of


def urls(fleet: Fleet) -> list[str]:
    return [each.url for each in fleet.instances]


def test_every_scheme_has_a_maker_and_one_for_https() -> None:
    assert {each.removesuffix("+https") for each in SOURCE_SCHEMES} == set(_MAKERS)
    assert len(SOURCE_SCHEMES) == 2 * len(_MAKERS)


async def test_a_file_adds_and_removes_members(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside those that the configuration lists; a broken or empty file changes nothing."""
    path = tmp_path / "instances"
    async with raw_server() as one, raw_server() as other, raw_server() as fixed:
        path.write_text(f"{one.url}/v1\n")
        following = fleet_of(fixed.url, instances_file=str(path), sources_interval_s=0.02)
        async with following as fleet:
            await until(lambda: len(fleet.instances.up()) == 2)
            kept = fleet.instances.get(fixed.url.removeprefix("http://"))
            path.write_text(f"- {one.url}\n- url: {other.url}\n")
            await until(lambda: len(fleet.instances.up()) == 3)
            for broken in ("", "no url", "- {url: http://a, api_key_file: /nowhere}"):
                path.write_text(broken)
                before = len(caplog.records)
                await until(lambda: len(caplog.records) > before)  # noqa: B023
            assert len(fleet.instances.up()) == 3
            path.write_text(f"{other.url}\n")
            await until(lambda: set(urls(fleet)) == {fixed.url, other.url})
            path.write_text("[]")
            await until(lambda: urls(fleet) == [fixed.url])
            assert list(fleet.instances) == [kept]
    said = [record for record in caplog.records if record.name.endswith("sources.watch")]
    failures = [each.getMessage() for each in said if "source_failed" in each.getMessage()]
    assert all(each.levelno == logging.WARNING for each in said)
    assert any("write []" in text for text in failures)
    assert any("/nowhere" in text for text in failures)
    assert any("source_works" in each.getMessage() for each in said)


async def test_a_failure_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "none"
    async with fleet_of(instances_file=str(path), sources_interval_s=0.005) as fleet:
        await until(lambda: caplog.records)
        await asyncio.sleep(0.1)
        assert len(caplog.records) == 1
        assert [event.kind for event in fleet.events.after(0)] == ["source_failed"]
        (status,) = view.fleet_status(fleet, 0, 1).sources
        assert (status.source, status.reason) == (
            f"file:{path}",
            "it cannot be read: No such file or directory",
        )
        path.write_text("[]")
        await until(lambda: fleet.members.sources() == {f"file:{path}": ""})


async def test_sources_come_and_go_with_the_configuration() -> None:
    """A reload that no longer names one lets its members go; one that stays is not begun anew."""
    async with raw_server() as server:
        dns = InstanceSpec(server.url.replace("http://127.0.0.1", "dns://localhost"))
        async with fleet_of(dns, sources_interval_s=0.02) as fleet:
            await until(lambda: fleet.instances.up())
            (instance,) = fleet.instances
            await fleet.set_members([dns])
            assert list(fleet.instances) == [instance]
            await fleet.set_members([])
            await until(lambda: not urls(fleet))


@pytest.mark.parametrize("url", ["dns://gpus", "srv://x:1", "k8s://ml"])
async def test_a_source_that_cannot_be_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match=url.partition(":")[0]):
        async with fleet_of(InstanceSpec(url)):
            pass


class Faulty:
    """A source with a fault: it raises what no source should, twice, and then works."""

    name = "faulty"

    def __init__(self, url: str) -> None:
        self._faults = 2
        self._url = url

    async def listings(self) -> AsyncGenerator[Listing | SourceFailed, None]:
        if self._faults:
            self._faults -= 1
            raise KeyError("a fault")
        yield (InstanceSpec(self._url),)


async def test_a_fault_of_a_source_does_not_end_its_following(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_AGAIN_S", 0.01)
    listed: list[Listing] = []

    async def publish(listing: Listing, source: str) -> None:
        listed.append(listing)

    async def drop(source: str) -> None:
        raise AssertionError(source)

    notes: list[str] = []
    following = watch.SourceWatch(publish, drop, lambda kind, text: notes.append(kind))
    await following.follow([Faulty("http://a")])
    await until(lambda: listed)
    await following.close()
    assert notes[:2] == ["source_failed", "source_works"]
    assert any(record.exc_info for record in caplog.records)
