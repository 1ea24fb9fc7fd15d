"""Keys and certificates for instances: where they come from, what is said, and that they work."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from prometheus_client import generate_latest

from llumnix.config import Config, describe
from llumnix.errors import ConfigError
from llumnix.fleet import members, view
from llumnix.fleet.fleet import Fleet
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.server import FrontendServer
from llumnix.instances.condition.trouble import Cause
from llumnix.instances.config import FleetConfig, InstanceSpec
from llumnix.instances.credentials import endpoint_of
from llumnix.instances.endpoints.tls import client_context
from llumnix.instances.instance import InstanceState
from llumnix.processes.frontend_process import launched_frontend
from tests.llumnix.frontend.stage import until
from tests.llumnix.instances.certificates import Authority
from tests.llumnix.instances.raw_server import RawServer, Reply, raw_server
from tests.llumnix.instances.test_trouble import fleet_of

URL = "http://gpu1:8000"


def key_of(spec: InstanceSpec, environment: Mapping[str, str] | None = None, **fleet: str) -> str:
    return endpoint_of(spec, FleetConfig(**fleet), environment or {}).key.text  # type: ignore[arg-type]


class KeyFile:
    """Writes keys into files; a file is called after its first key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str, key: str | None = None) -> str:
        path = self._folder / f"{name}.key"
        path.write_text(f"{name}\n" if key is None else key)
        return str(path)


@pytest.fixture(name="key_file")
def _key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path)


def test_the_nearest_key_counts(key_file: KeyFile) -> None:
    """An instance's own file or variable, the fleet's file, our variable, vLLM's variable."""
    env = {"MINE": "own", "LLUMNIX_INSTANCE_API_KEY": "ours", "VLLM_API_KEY": "vllm"}
    fleet = {"instance_api_key_file": key_file("fleet")}

    assert key_of(InstanceSpec(URL, api_key_file=key_file("file")), env, **fleet) == "file"
    assert key_of(InstanceSpec(URL, api_key_env="MINE"), env, **fleet) == "own"
    assert key_of(InstanceSpec(URL), env, **fleet) == "fleet"
    assert key_of(InstanceSpec(URL), env) == "ours"
    assert key_of(InstanceSpec(URL), {"VLLM_API_KEY": "vllm"}) == "vllm"
    assert key_of(InstanceSpec(URL)) == ""


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"two\nqqq", b"a qqq", b"\xff\xfe qqq", "é qqq".encode()]
)
def test_a_key_file_that_holds_no_key_is_named_but_not_quoted(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "k"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        key_of(InstanceSpec(URL, api_key_file=str(path)))
    assert str(path) in str(refused.value)
    assert "qqq" not in str(refused.value)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    with pytest.raises(ConfigError, match="gone"):
        key_of(InstanceSpec(URL, api_key_file=gone))
    with pytest.raises(ConfigError, match="NO_SUCH"):
        key_of(InstanceSpec(URL, api_key_env="NO_SUCH"))
    with pytest.raises(ValueError, match="not both"):
        InstanceSpec(URL, api_key_env="A", api_key_file="b")
    with pytest.raises(ConfigError, match="gone"):
        endpoint_of(InstanceSpec("https://gpu1", ca_file=gone), FleetConfig())
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match="empty"):
        endpoint_of(InstanceSpec("https://gpu1", ca_file=str(tmp_path / "empty")), FleetConfig())


def test_an_encrypted_private_key_is_refused_rather_than_asked_for(tmp_path: Path) -> None:
    """Nobody sits at the terminal of a service."""
    pem, key = Authority.make(tmp_path).issue("client")
    locked = str(tmp_path / "locked.key")
    plain = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    Path(locked).write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    with pytest.raises(ConfigError, match=r"locked\.key"):
        endpoint_of(InstanceSpec("https://gpu1", cert_file=pem, key_file=locked), FleetConfig())


def test_replaced_certificates_are_read_again_and_others_are_not(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    config = FleetConfig(instance_ca_file=authority.ca)
    spec = InstanceSpec("https://gpu1")
    before = endpoint_of(spec, config)

    assert endpoint_of(spec, config) == before
    Path(authority.ca).write_text(Path(authority.ca).read_text() + "\n")
    assert endpoint_of(spec, config) != before


@asynccontextmanager
async def frontend(fleet: Fleet) -> AsyncIterator[str]:
    server = FrontendServer(FrontendConfig(port=0, queue_timeout_s=20.0), fleet)
    try:
        yield await server.start()
    finally:
        await server.close()


async def completed(url: str, **headers: str) -> tuple[int, Any]:
    body = {"model": "m", "prompt": "x", "max_tokens": 1}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/v1/completions", json=body) as response,
    ):
        return response.status, await response.text()


def wanting(key: str, server: RawServer) -> None:
    """Let a server answer only those who have its key."""

    def answer(path: str, headers: Mapping[str, str]) -> Reply | None:
        if path.startswith("/v1/") and headers.get("authorization") != f"Bearer {key}":
            return Reply("{}", 401)
        return server.usual(path, headers)

    server.answer = answer


async def test_servers_with_keys_of_their_own_behind_tls(tmp_path: Path, key_file: KeyFile) -> None:
    """As `vllm serve --api-key k --ssl-certfile …`: clients need to know neither key."""
    authority = Authority.make(tmp_path)
    context = authority.server_context()
    async with raw_server(tls=context) as one, raw_server(tls=context) as other:
        wanting("one", one)
        wanting("other", other)
        specs = [
            InstanceSpec(one.url, api_key_file=key_file("one")),
            InstanceSpec(other.url.replace("127.0.0.1", "localhost") + "/v1/"),
        ]
        of_all = fleet_of(
            *specs, instance_api_key_file=key_file("other"), instance_ca_file=authority.ca
        )
        async with of_all as fleet, frontend(fleet) as url:
            await until(lambda: len(fleet.instances.up()) == 2)
            got = [await completed(url, Authorization="Bearer theirs") for _ in range(6)]
        assert [status for status, _ in got] == [200] * 6
        assert "/v1/completions" in one.asked
        assert "/v1/completions" in other.asked


async def test_a_server_that_asks_for_our_certificate(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    pem, key = authority.issue("frontend")
    async with raw_server(tls=authority.server_context(asks_clients=True)) as server:
        spec = InstanceSpec(server.url, ca_file=authority.ca, cert_file=pem, key_file=key)
        async with fleet_of(spec) as fleet, frontend(fleet) as url:
            await until(lambda: len(fleet.instances.up()) == 1)
            assert (await completed(url))[0] == 200
        async with fleet_of(InstanceSpec(server.url, ca_file=authority.ca)) as fleet:
            (instance,) = fleet.instances
            await until(lambda: instance.trouble is not None)
            assert instance.state is not InstanceState.UP


async def test_a_certificate_of_another_name(tmp_path: Path) -> None:
    """Refused, unless the name on it is given, or it is not to be checked."""
    authority = Authority.make(tmp_path)
    async with raw_server(tls=authority.server_context()) as server:
        spec = InstanceSpec(server.url, ca_file=authority.ca, server_name="gpu1.internal")
        async with fleet_of(spec) as fleet:
            (instance,) = fleet.instances
            await until(lambda: instance.trouble is not None)
            assert instance.trouble is not None
            assert instance.trouble.cause is Cause.TLS
        for spec in (
            InstanceSpec(server.url, ca_file=authority.ca, server_name="localhost"),
            InstanceSpec(server.url, verify=False),
        ):
            async with fleet_of(spec) as fleet, frontend(fleet) as url:
                assert await fleet.wait_up(1, 20.0)
                assert (await completed(url))[0] == 200


async def test_ssl_cert_file_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.make(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.ca)
    client_context.cache_clear()
    try:
        context = authority.server_context()
        async with raw_server(tls=context) as server, fleet_of(server.url) as fleet:
            await until(lambda: len(fleet.instances.up()) == 1)
    finally:
        client_context.cache_clear()


async def test_a_key_that_was_replaced_counts_from_the_next_reload(
    key_file: KeyFile,
) -> None:
    """The instance stays what it is; a file that is broken then changes nothing."""
    path = key_file("first")
    async with raw_server() as server:
        wanting("first", server)
        spec = InstanceSpec(server.url, api_key_file=path)
        async with fleet_of(spec) as fleet, frontend(fleet) as url:
            (instance,) = fleet.instances
            await until(lambda: instance.alive)
            wanting("second", server)
            assert (await completed(url))[0] == 401
            key_file("first", "")
            with pytest.raises(ConfigError):
                await fleet.set_members([spec])
            key_file("first", "second")
            await fleet.set_members([spec])
            assert (await completed(url))[0] == 200
            assert list(fleet.instances) == [instance]


@pytest.mark.parametrize("how", ["added by hand", "listed by a file"])
async def test_a_key_that_is_replaced_where_it_is_mounted_is_found(
    how: str, key_file: KeyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever listed the member; while the file is broken, the key is what it was."""
    monkeypatch.setattr(members, "_FILES_EVERY_S", 0.01)
    path = key_file("first")
    async with raw_server() as server:
        listed = key_file("list", server.url if how == "listed by a file" else "[]")
        async with fleet_of(instance_api_key_file=path, instances_file=listed) as fleet:
            if how == "added by hand":
                await fleet.members.add(server.url)
            await until(lambda: len(fleet.instances) == 1)
            (instance,) = fleet.instances
            key_file("first", "")
            await asyncio.sleep(0.1)
            assert instance.endpoint.key.text == "first"
            key_file("first", "second")
            await until(lambda: instance.endpoint.key.text == "second")
            key_file("third")
            config = replace(fleet.config, instance_api_key_file=key_file("third"))
            await fleet.reload(config)
            assert instance.endpoint.key.text == "third"
            assert list(fleet.instances) == [instance]


async def test_keys_are_said_nowhere(
    key_file: KeyFile, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Ours and the client's, whether it works or fails, at the chattiest level of the log."""
    caplog.set_level(logging.DEBUG)
    ours, theirs = "sk-canary-of-ours", "sk-canary-of-theirs"
    path = key_file("fleet", ours)
    async with raw_server() as good, raw_server() as refuses:
        wanting(ours, good)
        wanting("another", refuses)
        of_both = fleet_of(good.url, refuses.url, instance_api_key_file=path)
        async with of_both as fleet, frontend(fleet) as url:
            await until(lambda: len(fleet.instances.up()) == 1)
            await until(lambda: any(each.trouble for each in fleet.instances))
            await completed(url, Authorization=f"Bearer {theirs}")
            await good.stop()
            await until(lambda: not fleet.instances.up())
            status = view.fleet_status(fleet, 0, 1).to_json()
            view.set_gauges(fleet, [0, 0], 1)
            told = [
                caplog.text,
                str(status),
                str(fleet.events.after(0)),
                generate_latest(fleet.tally.metrics.registry).decode(),
                str([repr(each) for each in fleet.instances]),
                describe(Config(fleet=fleet.config)),
            ]
            await good.start()
    assert path in told[-1]
    assert not [text for text in told if ours in text or theirs in text]


async def test_the_command_as_one_types_it(tmp_path: Path, key_file: KeyFile) -> None:
    """`llumnix serve` in front of a server with `--api-key` and TLS, URL pasted with its /v1."""
    authority = Authority.make(tmp_path)
    async with raw_server(tls=authority.server_context()) as server:
        wanting("k", server)
        flags = ["--port=0", f"--instance={server.url}/v1"]
        flags += [f"--instance-api-key-file={key_file('k')}", f"--instance-ca-file={authority.ca}"]
        async with launched_frontend(flags, tmp_path) as url:
            status, body = await completed(url)
    assert status == 200, body
