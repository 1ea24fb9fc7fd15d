"""Links over TLS: requests move as over plain TCP, and strangers do not get in."""

import asyncio
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from migration.config import MigrationConfig
from migration.errors import LinkError, MigrationError
from migration.links import frames
from migration.links.sockets import Buffer, Wire
from migration.links.sockets import dial as plain_dial
from migration.links.tcp import TcpTransport
from migration.links.tls import dial, link_tls, secured
from tests.llumnix.instances.certificates import Authority
from tests.migration.instances import CONFIG, SECRET, running
from tests.migration.links.test_links import Pair, committed


def member(authority: Authority, name: str) -> MigrationConfig:
    certificate, key = authority.issue(name)
    return replace(CONFIG, tls_ca_file=authority.ca, tls_cert_file=certificate, tls_key_file=key)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def fleet(authority: Authority) -> MigrationConfig:
    return member(authority, "member")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> MigrationConfig:
    return member(Authority.make(tmp_path_factory.mktemp("elsewhere")), "stranger")


@pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_requests_move_over_tls_while_they_decode(
    fleet: MigrationConfig, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def run() -> None:
        await committed(Pair(lambda: TcpTransport(SECRET, fleet), fleet))

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def knock(port: int, settings: MigrationConfig | None) -> None:
    """Connect and prove the secret, as a member does."""
    tls = link_tls(settings) if settings is not None else None
    wire = await dial("127.0.0.1", port, 5.0, tls)
    try:
        await frames.greet(wire, SECRET, "peer", 5.0)
    finally:
        wire.close()


async def test_who_has_no_certificate_of_the_fleet_does_not_get_in(
    fleet: MigrationConfig, stranger: MigrationConfig
) -> None:
    """Not in plain text, not with another authority's certificate, and not with none at all."""
    pair = Pair(lambda: TcpTransport(SECRET, fleet), fleet)
    async with running(pair.a, pair.b):
        for settings in (stranger, None):
            with pytest.raises(MigrationError):
                await knock(pair.b.port, settings)
        await knock(pair.b.port, fleet)
        assert pair.b.agent.stats()["refused"]["no_handshake"] >= 2


async def test_a_member_does_not_talk_to_a_stranger(
    fleet: MigrationConfig, stranger: MigrationConfig
) -> None:
    pair = Pair(lambda: TcpTransport(SECRET, stranger), stranger)
    async with running(pair.a, pair.b):
        with pytest.raises(LinkError, match="TLS"):
            await dial("127.0.0.1", pair.b.port, 5.0, link_tls(fleet))


async def test_a_handshake_that_does_not_come_is_bounded(fleet: MigrationConfig) -> None:
    hasty = replace(fleet, connect_timeout_s=0.2)
    pair = Pair(lambda: TcpTransport(SECRET, hasty), hasty)
    async with running(pair.a, pair.b):
        mute = await plain_dial("127.0.0.1", pair.b.port, 5.0)
        with pytest.raises(LinkError):
            await mute.read(1, 20.0)
        mute.close()


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
        yield near, far


async def test_bytes_arrive_as_they_were_sent_whatever_their_portions(
    fleet: MigrationConfig, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """Both ways at once, in parts of any size, through buffers that are always full."""
    tls = link_tls(fleet)
    assert tls is not None
    near, far = sockets
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    one, other = await asyncio.gather(
        secured(near, tls.client, server_side=False, timeout_s=10.0),
        secured(far, tls.server, server_side=True, timeout_s=10.0),
    )
    draw = random.Random(7)
    sizes = [draw.choice([1, 7, 4096, 16384, 16385, 70_000, 400_000]) for _ in range(30)]
    parts = [draw.randbytes(size) for size in sizes]

    async def send(wire: Wire) -> None:
        for at in range(0, len(parts), 3):
            await wire.send(parts[at : at + 3], 20.0)

    async def receive(wire: Wire) -> bytes:
        buffer = Buffer(sum(sizes))
        await wire.receive(sum(sizes), buffer, 20.0)
        return bytes(buffer.data)

    *_, here, there = await asyncio.gather(send(one), send(other), receive(one), receive(other))
    assert here == there == b"".join(parts)
    one.close()
    with pytest.raises(LinkError):
        await other.read(1, 20.0)
    other.close()


def test_files_are_given_together_and_must_be_usable(
    tmp_path: Path, fleet: MigrationConfig
) -> None:
    assert link_tls(CONFIG) is None
    with pytest.raises(ValueError, match="together"):
        MigrationConfig(tls_ca_file="ca.pem")
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for name in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
        for path in (broken, tmp_path / "absent.pem"):
            with pytest.raises(ValueError, match=path.name):
                link_tls(replace(fleet, **cast("dict[str, Any]", {name: str(path)})))
