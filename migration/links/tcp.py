"""The TCP transport: one connection for messages and one for blocks, in each direction."""

import asyncio
import zlib
from collections.abc import Callable, Sequence

from migration.config import MigrationConfig
from migration.errors import LinkError, ProtocolError
from migration.links import frames
from migration.links.link import Deliver, Inbox, Lost
from migration.links.sockets import BREATH_BYTES, MAX_PARTS, SLICE_BYTES, Wire
from migration.links.tls import dial, link_tls
from migration.protocol import messages
from migration.protocol.landing import Landing
from migration.protocol.messages import Blocks, Message
from migration.protocol.peer import Peer

SCRATCH = memoryview(bytearray(SLICE_BYTES))
"""Where unwanted payloads go; never read."""
ANSWERS = (messages.Reserved, messages.Refused, messages.StageAck, messages.Committed)


class TcpTransport:
    """Makes TCP links to the control ports of other instances; see `Transport`."""

    def __init__(self, secret: bytes, config: MigrationConfig) -> None:
        self._secret = secret
        self._config = config
        self._tls = link_tls(config)

    async def connect(self, peer: Peer, deliver: Deliver, lost: Lost) -> "TcpLink":
        """Open both connections. Raises LinkError."""
        control = await self._open(peer, "peer")
        try:
            bulk = await self._open(peer, "bulk")
        except BaseException:
            control.close()
            raise
        return TcpLink(control, bulk, self._config, deliver, lost)

    async def _open(self, peer: Peer, role: str) -> Wire:
        timeout_s = self._config.connect_timeout_s
        wire = await dial(peer.host, peer.port, timeout_s, self._tls)
        try:
            await frames.greet(wire, self._secret, role, timeout_s)
        except ProtocolError as error:
            wire.close()
            raise LinkError(str(error)) from error
        except BaseException:
            wire.close()
            raise
        return wire


class TcpLink:
    """The connection to one peer; see `Link`."""

    def __init__(
        self, control: Wire, bulk: Wire, config: MigrationConfig, deliver: Deliver, lost: Lost
    ) -> None:
        self._control = control
        self._bulk = bulk
        self._config = config
        self._deliver = deliver
        self._lost: Lost | None = lost
        self._outbox = frames.Outbox(control, config.stage_timeout_s, self._broke)
        self._one_frame = asyncio.Lock()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    def send(self, message: Message) -> None:
        """See Link."""
        try:
            head = frames.frame_head(messages.encode(message))
        except ProtocolError:
            asyncio.get_running_loop().call_soon(self._broke)
            return
        self._outbox.post(head)

    async def send_blocks(self, blocks: Blocks, payload: Sequence[memoryview]) -> None:
        """See Link."""
        head = frames.frame_head(messages.encode(blocks), sum(map(len, payload)))
        async with self._one_frame:
            try:
                await self._bulk.send([head, *payload], self._config.stage_timeout_s)
            except BaseException:  # cancelled, too: what follows half a frame makes no sense
                self._broke()
                raise

    def close(self) -> None:
        """See Link."""
        self._lost = None
        self._broke()
        self._reader.cancel()

    def _broke(self) -> None:
        self._control.close()
        self._bulk.close()
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    async def _read(self) -> None:
        config = self._config
        try:
            while True:
                plain, _ = await frames.read_head(
                    self._control, config.max_header_bytes, 0, config.stage_timeout_s
                )
                message = messages.decode(plain)
                if not isinstance(message, (*ANSWERS, messages.Abort)):
                    raise ProtocolError("wrong_role", type(message).__name__)
                self._deliver(message)
        except (LinkError, ProtocolError):
            self._broke()


async def serve_peer(wire: Wire, inbox: Inbox, config: MigrationConfig) -> None:
    """Receive messages until the connection ends. Raises LinkError and ProtocolError."""
    outbox = frames.Outbox(wire, config.stage_timeout_s, lambda: None)

    def answer(message: Message) -> None:
        outbox.post(frames.frame_head(messages.encode(message)))

    sender = inbox.opened(answer)
    try:
        while True:
            plain, _ = await frames.read_head(
                wire, config.max_header_bytes, 0, config.stage_timeout_s
            )
            message = messages.decode(plain)
            if not isinstance(message, messages.TO_DESTINATION):
                raise ProtocolError("wrong_role", type(message).__name__)
            inbox.received(message, sender)
    finally:
        inbox.closed(sender)


async def serve_bulk(wire: Wire, inbox: Inbox, config: MigrationConfig) -> None:
    """Receive blocks until the connection ends. Raises LinkError and ProtocolError."""
    while True:
        plain, payload_bytes = await frames.read_head(
            wire, config.max_header_bytes, config.max_payload_bytes, config.stage_timeout_s
        )
        blocks = messages.decode(plain)
        if not isinstance(blocks, Blocks):
            raise ProtocolError("wrong_role", type(blocks).__name__)
        if payload_bytes != blocks.n_blocks * inbox.block_bytes():
            raise ProtocolError("payload_size", f"{payload_bytes} bytes")
        await inbox.room(blocks)
        sink = LandingSink(inbox.landing(blocks), inbox.views)
        try:
            await wire.receive(payload_bytes, sink, config.stage_timeout_s)
        except BaseException:
            inbox.landed(sink.landing, intact=False)
            raise
        inbox.landed(sink.landing, intact=sink.checksum == blocks.checksum)


class LandingSink:
    """Writes a payload into its reserved blocks while they are reserved, and else discards it."""

    def __init__(self, landing: Landing, views: Callable[[Landing], list[memoryview]]) -> None:
        self.landing = landing
        self.checksum = 0
        self._left = views(landing)[::-1] if landing.open else []
        self._window: list[memoryview] = []

    def window(self, most: int) -> list[memoryview]:
        """Return the next reserved memory, or scratch memory once the landing is closed."""
        if not self.landing.open:
            return [SCRATCH[:most]]
        self._left.extend(reversed(self._window))
        self._window, room = [], most
        while room and self._left and len(self._window) < MAX_PARTS:
            view = self._left.pop()
            self._window.append(view[:room])
            if len(view) > room:
                self._left.append(view[room:])
            room -= len(self._window[-1])
        return self._window

    def took(self, n_bytes: int) -> None:
        """Checksum what was just received, where it is now; the rest of the window is next."""
        if not self.landing.open:
            return
        rest: list[memoryview] = []
        for view in self._window:
            self.checksum = zlib.crc32(view[:n_bytes], self.checksum)
            if n_bytes < len(view):
                rest.append(view[n_bytes:])
            n_bytes = max(0, n_bytes - len(view))
        self._window = rest


async def checksum(payload: Sequence[memoryview]) -> int:
    """Compute the checksum of a payload, yielding to the event loop in between."""
    value, breath = 0, 0
    for view in payload:
        for start in range(0, len(view), SLICE_BYTES):
            piece = view[start : start + SLICE_BYTES]
            value, breath = zlib.crc32(piece, value), breath + len(piece)
            if breath >= BREATH_BYTES:
                breath = 0
                await asyncio.sleep(0)
    return value
