"""The seam for transports: how messages and blocks get from one llumlet to another.

A transport is one class with `connect`; what it returns is a `Link`. At the other end it delivers
to an `Inbox`, which is the other llumlet's driver.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from migration.protocol.landing import Landing
from migration.protocol.messages import Blocks, Message
from migration.protocol.peer import Peer, Sender

Deliver = Callable[[Message], None]
Lost = Callable[[], None]


class Link(Protocol):
    """The connection to one peer. If any part fails, all of it is closed and `lost` called."""

    def send(self, message: Message) -> None:
        """Send a message, after those sent before it; never waits."""

    async def send_blocks(self, blocks: Blocks, payload: Sequence[memoryview]) -> None:
        """Hand a frame of blocks to the network. Raises LinkError when that fails.

        Blocks and messages need not arrive in the order they were sent relative to each other.
        """

    def close(self) -> None:
        """Close the link; `lost` is not called."""


class Transport(Protocol):
    """A way of making links."""

    async def connect(self, peer: Peer, deliver: Deliver, lost: Lost) -> Link:
        """Connect to a peer; its answers go to `deliver`. Raises LinkError when it cannot be
        reached.

        `lost` is called once when the link breaks later on.
        """


class Inbox(Protocol):
    """Where a transport delivers what arrives; calls must come from the event loop's thread."""

    def opened(self, answer: Deliver) -> Sender:
        """Note a new incoming connection; `answer` sends a message back on it, never waiting."""

    def closed(self, sender: Sender) -> None:
        """Note that an incoming connection is gone."""

    def received(self, message: Message, sender: Sender) -> None:
        """Take a message."""

    def block_bytes(self) -> int:
        """Return the size of a block here: a frame of `n` blocks has exactly `n` times that."""

    async def room(self, blocks: Blocks) -> None:
        """Wait, for a bounded time, until there is memory for a frame; call before `landing`."""

    def landing(self, blocks: Blocks) -> Landing:
        """Return where the payload of a frame goes. Check `landing.open` before *every* write."""

    def views(self, landing: Landing) -> list[memoryview]:
        """Return the memory of an open landing."""

    def landed(self, landing: Landing, *, intact: bool) -> None:
        """Note that a payload has arrived, intact or not."""
