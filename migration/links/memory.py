"""A transport within one process: for tests, and as the smallest example of a transport."""

import asyncio
import zlib
from collections.abc import Callable, Sequence

from migration.errors import LinkError
from migration.links.link import Deliver, Inbox, Lost
from migration.protocol.messages import Blocks, Message
from migration.protocol.peer import Peer
from policies.types import InstanceId


class MemoryTransport:
    """Reaches the inboxes registered with it; one object serves all instances of a process."""

    def __init__(self) -> None:
        self.inboxes: dict[InstanceId, Inbox] = {}

    async def connect(self, peer: Peer, deliver: Deliver, lost: Lost) -> "MemoryLink":
        """See Transport."""
        if peer.instance_id not in self.inboxes:
            raise LinkError(f"no instance {peer.instance_id}")
        return MemoryLink(self.inboxes[peer.instance_id], deliver, lost)


class MemoryLink:
    """Delivers through the event loop, so that no callee runs inside its caller; see `Link`."""

    def __init__(self, inbox: Inbox, deliver: Deliver, lost: Lost) -> None:
        self._inbox, self._lost = inbox, lost
        self._soon = asyncio.get_running_loop().call_soon
        self._sender = inbox.opened(lambda message: self._later(deliver, message))
        self.closed = False

    def send(self, message: Message) -> None:
        """See Link."""
        self._later(lambda item: self._inbox.received(item, self._sender), message)

    async def send_blocks(self, blocks: Blocks, payload: Sequence[memoryview]) -> None:
        """See Link."""
        if self.closed:
            raise LinkError("closed")
        await self._inbox.room(blocks)
        landing = self._inbox.landing(blocks)
        places = self._inbox.views(landing) if landing.open else []
        checksum = 0
        for place, view in zip(places, payload, strict=bool(places)):
            place[:] = view
            checksum = zlib.crc32(place, checksum)
        self._inbox.landed(landing, intact=checksum == blocks.checksum)

    def close(self) -> None:
        """See Link."""
        if not self.closed:
            self.closed = True
            self._soon(self._inbox.closed, self._sender)

    def break_off(self) -> None:
        """Fail as a network would."""
        if not self.closed:
            self.close()
            self._soon(self._lost)

    def _later(self, deliver: Callable[[Message], None], message: Message) -> None:
        if not self.closed:
            self._soon(deliver, message)
