"""Two real agents over TCP, and something that goes wrong between them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from migration.config import MigrationConfig
from migration.links.link import Deliver, Lost
from migration.links.tcp import TcpLink, TcpTransport
from migration.protocol.messages import Blocks, Commit, Message
from migration.protocol.peer import Peer
from migration.protocol.source import SourceState
from policies.types import MigrationId, RequestId
from tests.migration.instances import SECRET, patient, running, until
from tests.migration.links.test_links import Pair, over_tcp

R = RequestId("r")
QUICK = MigrationConfig(
    chunk_bytes=64,
    stage_timeout_s=0.3,
    commit_timeout_s=0.2,
    query_timeout_s=0.2,
    connect_timeout_s=0.5,
)


class FaultyLink:
    """A TCP link that loses, damages or repeats what it is told to."""

    def __init__(self, link: TcpLink, fault: str, spare: int) -> None:
        self._link, self._fault, self._spare = link, fault, spare

    def send(self, message: Message) -> None:
        if isinstance(message, Commit) and self._fault == "lose commit":
            return
        self._link.send(message)
        if isinstance(message, Commit) and self._fault == "break after commit":
            asyncio.get_running_loop().call_soon(self._link._broke)

    async def send_blocks(self, blocks: Blocks, payload: Sequence[memoryview]) -> None:
        self._spare -= 1
        if self._spare >= 0 or "blocks" not in self._fault:
            await self._link.send_blocks(blocks, payload)
        elif self._fault == "damage blocks":
            wrong = [memoryview(bytes(view)[::-1]) for view in payload]
            await self._link.send_blocks(blocks, wrong)
        elif self._fault == "repeat blocks":
            await self._link.send_blocks(blocks, payload)
            await self._link.send_blocks(blocks, payload)

    def close(self) -> None:
        self._link.close()


class Faulty(TcpTransport):
    """TCP whose links do one thing wrong."""

    def __init__(self, config: MigrationConfig, fault: str) -> None:
        super().__init__(SECRET, config)
        self.fault = fault

    async def connect(self, peer: Peer, deliver: Deliver, lost: Lost) -> TcpLink:
        link = await super().connect(peer, deliver, lost)
        return FaultyLink(link, self.fault, spare=2)  # type: ignore[return-value]


@pytest.mark.parametrize("fault", ["lose blocks", "damage blocks", "repeat blocks"])
async def test_blocks_that_do_not_arrive_as_sent_abort(fault: str) -> None:
    """The request goes on at the source, the destination frees, and every token is right."""
    pair = Pair(lambda: Faulty(QUICK, fault), QUICK)
    async with running(pair.a, pair.b):
        await pair.request()
        await pair.move("m", pair.a, pair.b)
        assert pair.a.outcomes() == {"aborted": 1}
        await until(lambda: not pair.b.engine.reservations)
        await pair.finish()


@pytest.mark.parametrize(
    ("fault", "outcome"), [("lose commit", "refused"), ("break after commit", "committed")]
)
async def test_a_commit_without_an_answer_is_asked_about(fault: str, outcome: str) -> None:
    """On a connection of its own; the answer is final either way, and no token is lost."""
    pair = Pair(lambda: Faulty(QUICK, fault), QUICK)
    async with running(pair.a, pair.b):
        await pair.request(n=600)
        await pair.move("m", pair.a, pair.b)
        assert pair.a.outcomes() == {outcome: 1}
        await pair.finish()


async def test_a_destination_that_dies_mid_stage_aborts_and_nothing_leaks() -> None:
    """The source notices by the broken link, not by a timer."""
    config = replace(patient(), link_bytes_per_s=2000.0, link_bytes_per_token=10)
    pair = Pair(over_tcp, config)
    async with running(pair.a, pair.b):
        await pair.request(n=300)
        pair.a.order("m", pair.b, "r")
        await until(lambda: pair.b.engine.reservations)
        await pair.b.close()
        await until(lambda: pair.a.outcomes() == {"aborted": 1})
        await until(lambda: pair.frontend.streams[R].state == "finished")
        assert sorted(pair.a.engine.free) == list(range(pair.a.engine.n_blocks))


async def test_a_source_that_dies_mid_stage_leaks_nothing_at_the_destination() -> None:
    """The destination frees as soon as the connection is gone."""
    config = replace(patient(), link_bytes_per_s=2000.0, link_bytes_per_token=10)
    pair = Pair(over_tcp, config)
    async with running(pair.a, pair.b):
        await pair.request(n=300)
        pair.a.order("m", pair.b, "r")
        await until(lambda: pair.b.engine.reservations)
        pair.a.agent._pool.close()  # as a kill would: no goodbye
        await until(lambda: not pair.b.engine.reservations)
        assert pair.b.outcomes("in") == {"aborted": 1}
        assert sorted(pair.b.engine.free) == list(range(pair.b.engine.n_blocks))


async def test_a_destination_gone_after_the_commit_hands_over_to_the_frontend() -> None:
    """Nobody answers the question, so the source lets go and the stream is resumed elsewhere."""
    pair = Pair(lambda: Faulty(QUICK, "lose commit"), replace(QUICK, commit_timeout_s=60.0))
    async with running(pair.a, pair.b):
        await pair.request(n=400)
        pair.frontend.destinations[MigrationId("m")] = pair.b.name
        pair.a.order("m", pair.b, "r")
        (source,) = pair.a.agent.llumlet.departures.sources()
        await until(lambda: source.state is SourceState.COMMITTING)
        await pair.b.close()
        await until(lambda: pair.a.outcomes() == {"unresolved": 1})
        assert pair.frontend.waiting() == [R]
        del pair.engines[pair.b.name]
        await pair.finish()


async def test_an_emulated_link_takes_its_time() -> None:
    """A stage counts as sent when the emulated link, in fleet time, would be through with it."""
    config = replace(patient(), link_bytes_per_s=4000.0, link_bytes_per_token=10)
    pair = Pair(over_tcp, config)
    async with running(pair.a, pair.b):
        await pair.request()
        pair.a.stepping = False
        pair.a.order("m", pair.b, "r")
        (source,) = pair.a.agent.llumlet.departures.sources()
        begun_s = time.monotonic()
        await until(lambda: source.state is SourceState.DETACHING)
        took_s = time.monotonic() - begun_s
        pair.a.stepping = True
        await until(lambda: pair.a.outcomes() == {"committed": 1})
        pair.frontend.destinations[MigrationId("m")] = pair.b.name
        await pair.finish()

    assert took_s >= 0.99 * 40 / 400
