"""DNS names: all their addresses, and SRV records; a failed lookup changes nothing."""

import asyncio
import socket
from typing import Any

import pytest

from llumnix.instances.config import InstanceSpec
from llumnix.instances.endpoints.address import BadAddress
from llumnix.instances.sources.dns_names import address_source, srv_source
from tests.llumnix.instances.sources.dns_server import dns_server
from tests.llumnix.instances.sources.following import following

RECORDS = "_http._tcp.gpus.test."
SRV = InstanceSpec("srv://_http._tcp.gpus.test/v1")


class Zone:
    """The addresses that the system's resolver gives; an error is raised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] | OSError = []

        async def getaddrinfo(*_args: Any, **_more: Any) -> list[Any]:
            if isinstance(self.told, OSError):
                raise self.told
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in self.told]

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)


async def test_all_addresses_of_a_name_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order in which a resolver rotates them is no change, and a failure is none."""
    zone = Zone(monkeypatch)
    zone.told = ["10.0.0.2", "10.0.0.1"]
    async with following(address_source(InstanceSpec("dns://gpus:8000"), 0.01)) as told:
        assert await told.urls() == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]
        zone.told = ["10.0.0.1", "10.0.0.2"]
        await asyncio.sleep(0.05)
        zone.told = OSError(socket.EAI_AGAIN, "Temporary failure in name resolution")
        assert "Temporary failure" in await told.failure()
        zone.told = []
        while "no address" not in await told.failure():
            pass
        zone.told = ["10.0.0.1", "10.0.0.1", "fd00::1"]
        urls = await told.urls_at_last()
        assert urls == ["http://10.0.0.1:8000", "http://[fd00::1]:8000"]


async def test_addresses_behind_tls_answer_to_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate names the host, not its addresses; keys and paths go to each of them."""
    Zone(monkeypatch).told = ["10.0.0.1"]
    spec = InstanceSpec("dns+https://gpus:443/llama/v1", api_key_file="/k")
    async with following(address_source(spec, 0.01)) as told:
        assert await told.specs() == (
            InstanceSpec("https://10.0.0.1/llama", api_key_file="/k", server_name="gpus"),
        )


async def test_a_name_is_looked_up_for_real() -> None:
    async with following(address_source(InstanceSpec("dns://localhost:8000"), 0.01)) as told:
        assert "http://127.0.0.1:8000" in await told.urls()


async def test_srv_records_are_followed() -> None:
    async with dns_server() as (server, resolver):
        server.records[RECORDS] = ["0 5 8001 b.test.", "0 5 8000 a.test."]
        async with following(srv_source(SRV, 0.01, resolver)) as told:
            assert await told.urls() == ["http://a.test:8000", "http://b.test:8001"]
            server.records[RECORDS] = None
            assert "cannot be looked up" in await told.failure()
            server.records[RECORDS] = ["0 5 8000 a.test."]
            assert await told.urls_at_last() == ["http://a.test:8000"]


@pytest.mark.parametrize("records", [None, [], ["0 0 0 ."]])
async def test_srv_records_that_name_no_server_are_a_failure(records: list[str] | None) -> None:
    async with dns_server() as (server, resolver):
        server.records[RECORDS] = records
        async with following(srv_source(SRV, 0.01, resolver)) as told:
            assert await told.failure()
        server.records.clear()
        async with following(srv_source(SRV, 0.01, resolver)) as told:
            assert await told.failure()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("dns://gpus", "dns://gpus:8000"),
        ("dns://:8000", "dns://gpus:8000"),
        ("dns://gpus:x", "number"),
        ("dns://gpus:80?x=1", "unknown option 'x'"),
        ("dns://me:pw@gpus:80", "user or password"),
    ],
)
def test_urls_that_cannot_be_followed_are_said(url: str, said: str) -> None:
    with pytest.raises(BadAddress, match=said):
        address_source(InstanceSpec(url), 1.0)
    with pytest.raises(BadAddress):
        srv_source(InstanceSpec("srv://_http._tcp.gpus:80"), 1.0)
