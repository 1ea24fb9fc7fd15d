"""Real agents over every transport: requests move between them while they decode.

A new transport is tested by adding it to TRANSPORTS.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
import uvloop

from migration.config import MigrationConfig
from migration.links.link import Transport
from migration.links.memory import MemoryTransport
from migration.links.tcp import TcpTransport
from migration.protocol.peer import Peer
from policies.types import InstanceId, MigrationId, RequestId
from tests.migration.instances import CONFIG, SECRET, Instance, running, until
from tests.migration.protocol.frontend_model import Frontend

R = RequestId("r")


def over_tcp() -> Transport:
    return TcpTransport(SECRET, CONFIG)


def in_process() -> Transport:
    return MemoryTransport()


TRANSPORTS = [over_tcp, in_process]


class Pair:
    """Two instances and a frontend that repairs streams as they break."""

    def __init__(self, make: Callable[[], Transport], config: MigrationConfig = CONFIG) -> None:
        self.frontend = Frontend()
        transport = make()
        self.a = Instance("A", self.frontend, config, transport)
        self.b = Instance("B", self.frontend, config, transport)
        self.engines = {item.name: item.engine for item in (self.a, self.b)}
        if isinstance(transport, MemoryTransport):
            transport.inboxes = {self.a.name: self.a.agent, self.b.name: self.b.agent}

    async def request(self, name: str = "r", prompt_tokens: int = 40, n: int = 150) -> None:
        """Open a stream at A, and wait until it flows."""
        key = RequestId(name)
        self.frontend.open(self.a.engine, key, list(range(prompt_tokens)), n)
        await until(lambda: len(self.frontend.streams[key].tokens) > 3)

    async def move(self, migration: str, source: Instance, to: Instance, name: str = "r") -> None:
        """Order a move and wait until it has ended, one way or the other."""
        self.frontend.destinations[MigrationId(migration)] = to.name
        ended = sum(source.outcomes().values())
        source.order(migration, to, name)
        await until(lambda: sum(source.outcomes().values()) > ended)

    def repair(self) -> None:
        """Let the frontend see to streams without a feeder."""
        for request_id in self.frontend.waiting():
            self.frontend.repair(request_id, self.engines)

    async def finish(self) -> None:
        """Wait for every stream's end; the frontend compares every token on the way."""
        streams = self.frontend.streams.values()

        def finished() -> bool:
            self.repair()
            return all(stream.state == "finished" for stream in streams)

        await until(finished)
        for instance in (self.a, self.b):
            assert sorted(instance.engine.free) == list(range(instance.engine.n_blocks))
            assert instance.agent.stats()["active"] == {"out": 0, "in": 0}


async def committed(pair: Pair) -> None:
    """Move a request there and back again, and let it finish."""
    async with running(pair.a, pair.b):
        await pair.request()
        await pair.move("m1", pair.a, pair.b)
        pair.repair()
        await pair.move("m2", pair.b, pair.a)
        await pair.finish()
        assert pair.a.outcomes() == pair.b.outcomes() == {"committed": 1}
        assert pair.a.outcomes("in") == pair.b.outcomes("in") == {"committed": 1}


@pytest.mark.parametrize("make", TRANSPORTS)
async def test_a_request_moves_there_and_back(make: Callable[[], Transport]) -> None:
    """Every token is the one it would have been: the KV arrived intact, twice."""
    await committed(Pair(make))


@pytest.mark.parametrize("make", TRANSPORTS)
def test_uvloop_does_it_too(make: Callable[[], Transport]) -> None:
    """The server runs on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def run() -> None:
            await committed(Pair(make))

        runner.run(run())


@pytest.mark.parametrize("make", TRANSPORTS)
async def test_many_move_at_once_both_ways(make: Callable[[], Transport]) -> None:
    """Crossing migrations share the links and do not mix up their blocks."""
    pair = Pair(make, replace(CONFIG, max_concurrent_in=8, max_concurrent_out=8))
    async with running(pair.a, pair.b):
        for number in range(4):
            await pair.request(f"a{number}", prompt_tokens=20 + number)
        for number in range(4):
            pair.frontend.destinations[MigrationId(f"m{number}")] = pair.b.name
            pair.a.order(f"m{number}", pair.b, f"a{number}")
        await until(lambda: pair.a.outcomes().get("committed") == 4)
        pair.repair()
        for number in range(4):
            pair.frontend.destinations[MigrationId(f"n{number}")] = pair.a.name
            pair.b.order(f"n{number}", pair.a, f"a{number}")
            await pair.request(f"b{number}", prompt_tokens=30 + number)
            pair.frontend.destinations[MigrationId(f"o{number}")] = pair.b.name
            pair.a.order(f"o{number}", pair.b, f"b{number}")
        await until(lambda: pair.a.outcomes()["committed"] == 8)
        await until(lambda: pair.b.outcomes().get("committed") == 4)
        await pair.finish()


@pytest.mark.parametrize("make", TRANSPORTS)
async def test_a_layout_that_differs_is_refused(make: Callable[[], Transport]) -> None:
    """Loudly, and the request goes on where it is."""
    pair = Pair(make)
    pair.b.engine.model = "another"
    async with running(pair.a, pair.b):
        await pair.request()
        await pair.move("m", pair.a, pair.b)
        assert pair.a.outcomes() == {"refused": 1}
        await pair.finish()


@pytest.mark.parametrize("make", TRANSPORTS)
async def test_a_full_destination_refuses(make: Callable[[], Transport]) -> None:
    """No memory is an expected answer, not an error."""
    pair = Pair(make)
    pair.b.engine.denies_room = True
    async with running(pair.a, pair.b):
        await pair.request()
        await pair.move("m", pair.a, pair.b)
        assert pair.a.outcomes() == {"refused": 1}
        await pair.finish()


@pytest.mark.parametrize("make", TRANSPORTS)
async def test_a_request_cancelled_on_the_way_is_freed_on_both_sides(
    make: Callable[[], Transport],
) -> None:
    """INV-5, with a link too slow to be done before."""
    config = replace(CONFIG, link_bytes_per_s=1000.0, link_bytes_per_token=10)
    pair = Pair(make, config)
    async with running(pair.a, pair.b):
        await pair.request()
        pair.a.stepping = False
        pair.a.order("m", pair.b, "r")
        await until(lambda: pair.b.engine.reservations)
        pair.frontend.cancelled(R)
        pair.a.engine.cancel(R)
        await until(lambda: not pair.b.engine.reservations)
        assert pair.a.outcomes() == {"aborted": 1}
        assert pair.b.outcomes("in") == {"aborted": 1}


@pytest.mark.parametrize("make", TRANSPORTS)
async def test_an_instance_that_is_not_there_aborts(make: Callable[[], Transport]) -> None:
    """A dead address costs nothing but the attempt."""
    pair = Pair(make)
    async with running(pair.a, pair.b):
        await pair.request()
        pair.a.order("m", Peer(InstanceId("C"), "127.0.0.1", 1), "r")
        await until(lambda: pair.a.outcomes() == {"aborted": 1})
        await pair.finish()
