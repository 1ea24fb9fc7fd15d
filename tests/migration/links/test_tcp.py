"""The control port in bad company: what is malformed, forged or cut off is refused and counted."""

import asyncio
import contextlib
import os
import struct
import zlib
from collections.abc import AsyncIterator

import pytest

from migration.config import MigrationConfig
from migration.errors import LinkError, ProtocolError
from migration.links import frames
from migration.links.sockets import Wire, dial
from migration.llumlet import fleet_messages as orders
from migration.llumlet.fleet_messages import Subscribe
from migration.protocol import messages, wire
from migration.protocol.messages import Abort, Blocks, Message, Reserve, Reserved
from policies.types import InstanceId, MigrateReason, MigrationId, RequestId
from tests.migration.instances import SECRET, Instance, running, until
from tests.migration.protocol.frontend_model import Frontend
from tests.migration.protocol.samples import LAYOUT

CONFIG = MigrationConfig(
    max_header_bytes=4096, max_payload_bytes=1 << 16, connect_timeout_s=0.2, stage_timeout_s=20.0
)
M, R = MigrationId("m"), RequestId("r")
A, B = InstanceId("A"), InstanceId("B")


@pytest.fixture(name="instance")
async def _instance() -> AsyncIterator[Instance]:
    instance = Instance("B", Frontend(), CONFIG)
    async with running(instance):
        yield instance


async def connect(instance: Instance, role: str = "peer", secret: bytes = SECRET) -> Wire:
    """Connect as another llumlet or the fleet would."""
    wire = await dial("127.0.0.1", instance.port, 5.0)
    try:
        await frames.greet(wire, secret, role, 5.0)
    except BaseException:
        wire.close()
        raise
    return wire


async def closed(wire: Wire) -> None:
    """Wait until the other side has closed the connection."""
    with pytest.raises(LinkError):
        await wire.read(1 << 20, 5.0)
    wire.close()


async def say(wire: Wire, message: Message, payload: bytes = b"") -> None:
    await wire.send([frames.frame_head(messages.encode(message), len(payload)), payload], 5.0)


async def hear(wire: Wire) -> Message:
    plain, _ = await frames.read_head(wire, 1 << 20, 0, 5.0)
    return messages.decode(plain)


async def check_alive(instance: Instance) -> None:
    """The port still serves: it answers a reservation."""
    wire = await connect(instance)
    await say(wire, Reserve(MigrationId("alive"), 1, R, A, B, 0, 2, LAYOUT))
    assert await hear(wire) == Reserved(MigrationId("alive"), 1, 0)
    wire.close()
    await until(lambda: not instance.engine.reservations)


def frame(plain: dict[str, object]) -> bytes:
    header = wire.pack(plain)
    return struct.pack("!I", len(header)) + header


QUERY = messages.encode(messages.Query(M, 1))
BLOCKS = messages.encode(Blocks(M, 1, 0, 0, 1, 0))

BAD: list[tuple[str, bytes, str]] = [
    ("peer", struct.pack("!I", 5000) + b"x" * 100, "oversize_header"),
    ("peer", struct.pack("!I", 0), "oversize_header"),
    ("peer", struct.pack("!I", 100) + b"\xc1" * 100, "malformed"),
    ("peer", frame({"type": "gossip"}), "unknown_message"),
    ("peer", frame({"type": 7}), "unknown_message"),
    ("peer", frame({**QUERY, "epoch": "1"}), "wrong_type"),
    ("peer", frame({**QUERY, "more": 1}), "wrong_keys"),
    ("peer", frame({**QUERY, "payload_bytes": 5}) + b"12345", "oversize_payload"),
    ("peer", frame({**QUERY, "payload_bytes": -5}), "malformed"),
    ("peer", frame(BLOCKS), "wrong_role"),
    ("peer", frame(messages.encode(Reserved(M, 1, 0))), "wrong_role"),
    ("peer", frame(orders.encode(Subscribe(1.0))), "unknown_message"),
    ("bulk", frame(QUERY), "wrong_role"),
    ("bulk", frame({**BLOCKS, "payload_bytes": 1 << 17}), "oversize_payload"),
    ("bulk", frame({**BLOCKS, "payload_bytes": 15}) + b"x" * 15, "payload_size"),
    ("bulk", frame(BLOCKS), "payload_size"),
    ("bulk", frame({**BLOCKS, "payload_bytes": 16}) + b"x" * 7, "cut_off"),
    ("control", frame(QUERY), "unknown_message"),
    ("control", frame({"type": "drain", "on": 1}), "wrong_type"),
    ("control", frame(orders.encode(Subscribe(0.0))), "wrong_size"),
    (
        "control",
        frame(
            orders.encode(
                orders.MigrationEvent(orders.EventKind.STARTED, M, "r", A, B, MigrateReason.DRAIN)
            )
        ),
        "wrong_role",
    ),
]


@pytest.mark.parametrize(("role", "data", "code"), BAD)
async def test_bad_frames_close_their_connection_and_are_counted(
    instance: Instance, role: str, data: bytes, code: str
) -> None:
    """Nothing crashes, nothing is allocated for it, and others are served on."""
    wire = await connect(instance, role)
    await wire.send([data], 5.0)
    if code == "cut_off":
        wire.close()
    else:
        await closed(wire)

    await until(lambda: instance.agent.stats()["refused"])
    assert instance.agent.stats()["refused"] == {code: 1}
    await check_alive(instance)


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n....", "bad_magic"),
        (b"LLX1\x07" + b"n" * 32, "bad_role"),
        (b"LLX1\x00" + b"n" * 32 + b"p" * 32, "bad_secret"),
        (b"LLX1", "no_handshake"),
        (b"", "no_handshake"),
    ],
)
async def test_strangers_are_not_let_in(instance: Instance, hello: bytes, code: str) -> None:
    """No handshake, a forged one or none in time: the connection is closed and counted."""
    wire = await dial("127.0.0.1", instance.port, 5.0)
    await wire.send([hello], 5.0)
    await closed(wire)

    assert instance.agent.stats()["refused"] == {code: 1}
    await check_alive(instance)


async def test_another_secret_is_noticed_by_both_sides(instance: Instance) -> None:
    """The client refuses a server that cannot prove the secret before proving its own."""
    with pytest.raises(ProtocolError, match="bad_secret"):
        await connect(instance, secret=b"wrong")

    await check_alive(instance)


async def test_random_bytes_do_no_harm(instance: Instance) -> None:
    """Noise before and after the handshake, in every role."""
    for role in ("peer", "bulk", "control"):
        for size in (1, 50, 5000):
            stranger = await dial("127.0.0.1", instance.port, 5.0)
            friend = await connect(instance, role)
            for noisy in (stranger, friend):
                with contextlib.suppress(LinkError):
                    await noisy.send([os.urandom(size)], 5.0)
                noisy.close()

    await check_alive(instance)


async def test_too_many_connections_are_turned_away() -> None:
    """The number of connections is bounded."""
    config = MigrationConfig(max_connections=2, connect_timeout_s=5.0)
    instance = Instance("B", Frontend(), config)
    async with running(instance):
        kept = [await connect(instance) for _ in range(2)]
        turned_away = await dial("127.0.0.1", instance.port, 5.0)
        await closed(turned_away)
        assert instance.agent.stats()["refused"] == {"too_many_connections": 1}
        for wire in kept:
            wire.close()
        await until(lambda: not instance.agent._listener._sessions)
        await check_alive(instance)


async def test_bytes_for_a_freed_reservation_are_thrown_away(instance: Instance) -> None:
    """What arrives after an abort never touches blocks that may be someone else's by now."""
    peer, bulk = await connect(instance), await connect(instance, "bulk")
    await say(peer, Reserve(M, 1, R, A, B, 0, 4, LAYOUT))
    await hear(peer)
    payload = b"\xab" * 64
    head = frames.frame_head(messages.encode(Blocks(M, 1, 0, 0, 4, zlib.crc32(payload))), 64)
    await bulk.send([head, payload[:24]], 5.0)
    await until(lambda: instance.engine.memory.count(0xAB) == 24)

    await say(peer, Abort(M, 1, "changed my mind"))
    await until(lambda: not instance.engine.reservations)
    instance.engine.memory[:] = bytes(len(instance.engine.memory))
    await bulk.send([payload[24:]], 5.0)
    await say(bulk, Blocks(MigrationId("late"), 1, 0, 0, 1, 0), b"\xab" * 16)
    await until(lambda: instance.agent.stats()["dropped"].get("late") == 1)

    assert not any(instance.engine.memory)
    assert instance.agent.stats()["refused"] == {}
    peer.close()
    bulk.close()
    await check_alive(instance)


@pytest.mark.parametrize("fault", ["damaged", "doubled", "cut off"])
async def test_blocks_that_do_not_arrive_whole_abort(instance: Instance, fault: str) -> None:
    """A wrong checksum, the same block twice, and a connection that breaks mid-frame."""
    peer, bulk = await connect(instance), await connect(instance, "bulk")
    await say(peer, Reserve(M, 1, R, A, B, 0, 2, LAYOUT))
    await hear(peer)
    good = Blocks(M, 1, 0, 0, 1, zlib.crc32(b"x" * 16))
    if fault == "damaged":
        await say(bulk, good, b"x" * 15 + b"y")
    elif fault == "doubled":
        await say(bulk, good, b"x" * 16)
        await say(bulk, good, b"x" * 16)
    else:
        await bulk.send([frames.frame_head(messages.encode(good), 16), b"x" * 7], 5.0)
        bulk.close()

    answer = await hear(peer)

    assert isinstance(answer, Abort)
    assert answer.reason == ("blocks sent twice" if fault == "doubled" else DAMAGED)
    assert not instance.engine.reservations
    peer.close()
    bulk.close()


DAMAGED = "blocks damaged on the way"


async def test_a_frame_that_stalls_is_cut_off() -> None:
    """A peer that stops in the middle of a frame is not waited for for ever."""
    instance = Instance("B", Frontend(), MigrationConfig(stage_timeout_s=0.05))
    async with running(instance):
        wire = await connect(instance)
        await wire.send([struct.pack("!I", 100), b"x"], 5.0)
        await asyncio.wait_for(closed(wire), 5.0)
