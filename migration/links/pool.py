"""The links an instance has made: opened on first use, kept, and dropped when they break."""

import asyncio
from collections.abc import Callable

from migration.errors import LinkError
from migration.links.link import Deliver, Link, Transport
from migration.protocol.messages import Message
from migration.protocol.peer import Peer

MAX_PENDING = 256
"""Messages that may wait for a link to open."""


class _Way:
    """One link, or the attempt to make it."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.pending: list[Message] = []
        self.made: asyncio.Future[Link] | None = None


class LinkPool:
    """Keeps one link to each peer. `lost` is called for every link that broke or never opened."""

    def __init__(
        self, transport: Transport, deliver: Deliver, lost: Callable[[Peer], None]
    ) -> None:
        self._transport = transport
        self._deliver = deliver
        self._lost = lost
        self._ways: dict[Peer, _Way] = {}

    def send(self, peer: Peer, message: Message) -> None:
        """Send a message, making the link first if need be; never waits."""
        way = self._way(peer)
        if way.link is not None:
            way.link.send(message)
        elif len(way.pending) < MAX_PENDING:
            way.pending.append(message)

    async def link(self, peer: Peer) -> Link:
        """Return the link to a peer. Raises LinkError."""
        way = self._way(peer)
        if way.link is not None:
            return way.link
        assert way.made is not None
        return await asyncio.shield(way.made)

    def close(self) -> None:
        """Close all links."""
        ways, self._ways = self._ways, {}
        for way in ways.values():
            if way.link is not None:
                way.link.close()
            elif way.made is not None:
                way.made.cancel()

    def _way(self, peer: Peer) -> _Way:
        way = self._ways.get(peer)
        if way is None:
            way = self._ways[peer] = _Way()
            way.made = asyncio.ensure_future(self._make(peer, way))
            way.made.add_done_callback(_retrieve)
        return way

    async def _make(self, peer: Peer, way: _Way) -> Link:
        try:
            link = await self._transport.connect(peer, self._deliver, lambda: self._drop(peer, way))
        except LinkError:
            self._drop(peer, way)
            raise
        way.link = link
        for message in way.pending:
            link.send(message)
        way.pending.clear()
        return link

    def _drop(self, peer: Peer, way: _Way) -> None:
        if self._ways.get(peer) is way:
            del self._ways[peer]
        self._lost(peer)


def _retrieve(made: "asyncio.Future[Link]") -> None:
    """Retrieve the outcome, so that a failure nobody awaited is not reported as forgotten."""
    if not made.cancelled():
        made.exception()
