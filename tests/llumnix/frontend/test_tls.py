"""TLS on the clients' port and the admin port: who gets in, and certificates that are renewed."""

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llumnix.admin.client import AdminClient
from llumnix.admin.credentials import all_published
from llumnix.errors import ConfigError, LlumnixError
from llumnix.frontend.http.tls import ServerTls, TlsFiles
from tests.llumnix.frontend.stage import Stage
from tests.llumnix.frontend.test_listeners import runtime as runtime
from tests.llumnix.frontend.test_listeners import service
from tests.llumnix.instances.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> dict[str, str]:
    """Copies that a test may change."""
    certificate, key = authority.issue("frontend")
    return {
        "tls_cert_file": shutil.copy(certificate, str(tmp_path / "cert.pem")),
        "tls_key_file": shutil.copy(key, str(tmp_path / "key.pem")),
    }


def trusting(authority: Authority, *certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca)
    if certificate:
        context.load_cert_chain(*certificate)
    return context


async def asked(url: str, context: ssl.SSLContext) -> int:
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
        return response.status


@asynccontextmanager
async def secure_stage(**config: Any) -> AsyncIterator[Stage]:
    async with Stage(1, **config) as stage:
        yield stage


async def test_streams_over_tls_are_whole(authority: Authority, files: dict[str, str]) -> None:
    async with secure_stage(**files) as stage:
        assert stage.url.startswith("https://")
        body = {"model": "m", "prompt": "hi", "stream": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{stage.url}/v1/completions", json=body, ssl=trusting(authority)
            ) as response,
        ):
            assert (await response.read()).endswith(b"data: [DONE]\n\n")


async def test_plain_http_and_old_tls_get_nothing(
    authority: Authority, files: dict[str, str]
) -> None:
    async with secure_stage(**files) as stage:
        plain = stage.url.replace("https", "http")
        with pytest.raises(aiohttp.ClientError):
            await asked(f"{plain}/health", trusting(authority))
        old = trusting(authority)
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(aiohttp.ClientError):
            await asked(f"{stage.url}/health", old)


async def test_clients_without_the_right_certificate_get_nothing(
    authority: Authority, files: dict[str, str], tmp_path: Path
) -> None:
    mine = authority.issue("client")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    other = Authority.make(folder).issue("client")
    async with secure_stage(**files, tls_client_ca_file=authority.ca) as stage:
        url = f"{stage.url}/health"
        assert await asked(url, trusting(authority, *mine)) == 200
        for context in (trusting(authority), trusting(authority, *other)):
            with pytest.raises((aiohttp.ClientError, OSError)):
                await asked(url, context)


async def test_the_admin_port_has_certificates_of_its_own(
    authority: Authority, files: dict[str, str], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.pem"
    certificate, key = authority.issue("operator")
    mine.write_text(Path(certificate).read_text() + Path(key).read_text())  # noqa: ASYNC240
    settings = {f"admin_{name}": path for name, path in files.items()}
    async with service(**settings, admin_tls_client_ca_file=authority.ca) as running:
        assert running.url.startswith("http://")
        assert running.admin_url.startswith("https://")
        (published,) = all_published()

        def look(cert_file: str) -> Any:
            return AdminClient(
                running.admin_url, token=published.token, ca_file=authority.ca, cert_file=cert_file
            ).fleet()

        assert (await asyncio.to_thread(look, str(mine))).instances == ()
        with pytest.raises(LlumnixError):
            await asyncio.to_thread(look, "")


def serial(url: str, authority: Authority) -> str:
    host, _, port = url.removeprefix("https://").partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        trusting(authority).wrap_socket(plain, server_hostname=host) as secure,
    ):
        told = secure.getpeercert()
        assert told is not None
        return str(told["serialNumber"])


async def test_a_renewed_certificate_is_used_from_the_next_connection_on(
    authority: Authority, files: dict[str, str]
) -> None:
    async with secure_stage(**files) as stage:
        before = await asyncio.to_thread(serial, stage.url, authority)
        certificate, key = authority.issue("renewed")
        shutil.copy(certificate, files["tls_cert_file"])
        with pytest.raises(ConfigError):
            stage.server.read_files()  # half of the pair: the old one stays in force
        assert await asyncio.to_thread(serial, stage.url, authority) == before
        shutil.copy(key, files["tls_key_file"])
        stage.server.read_files()()
        assert await asyncio.to_thread(serial, stage.url, authority) != before


def test_renewal_is_noticed_once_the_files_are_complete(
    authority: Authority, files: dict[str, str]
) -> None:
    tls = ServerTls.of(TlsFiles(files["tls_cert_file"], files["tls_key_file"]))
    assert tls is not None
    assert not tls.has_changed
    certificate, key = authority.issue("renewed")
    shutil.copy(certificate, files["tls_cert_file"])
    Path(files["tls_key_file"]).unlink()
    assert not tls.has_changed
    shutil.copy(key, files["tls_key_file"])
    assert tls.has_changed
    tls.read()()
    assert not tls.has_changed


async def test_a_handshake_that_does_not_come_holds_up_nobody(
    authority: Authority, files: dict[str, str]
) -> None:
    async with secure_stage(**files) as stage:
        host, _, port = stage.url.removeprefix("https://").partition(":")
        mute = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
        async with asyncio.timeout(20):
            assert await asked(f"{stage.url}/health", trusting(authority)) == 200
        for _, writer in mute:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def test_files_that_cannot_be_used_are_named(files: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing of use")
    with pytest.raises(ConfigError, match=r"broken\.pem"):
        ServerTls(TlsFiles(str(broken), files["tls_key_file"]))
    with pytest.raises(ConfigError, match=r"absent\.pem"):
        ServerTls(TlsFiles(files["tls_cert_file"], str(tmp_path / "absent.pem")))
    with pytest.raises(ConfigError, match="together"):
        TlsFiles(files["tls_cert_file"])
    with pytest.raises(ConfigError, match="with TLS"):
        TlsFiles(client_ca_file=str(broken))
