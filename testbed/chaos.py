"""A proxy in front of a server's control port, for tests: it sees every message, and may interfere.

It understands frames (length, header, payload; `migration/links/frames.py`) but no secret: it can
do to a link only what a network can.
"""

import asyncio
import contextlib
import enum
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from migration.links import auth

_LENGTH = struct.Struct("!I")
_CHUNK_BYTES = 1 << 18


class Act(enum.Enum):
    """What happens to a message: it passes, is lost, or the connections break."""

    PASS = "pass"  # noqa: S105 - no password
    DROP = "drop"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Seen:
    """A message between two llumlets. `kind` is its type, `fields` its header."""

    kind: str
    fields: dict[str, Any]


Watch = Callable[[Seen], Awaitable[Act]]


async def let_pass(_seen: Seen) -> Act:
    """Interfere with nothing."""
    return Act.PASS


class ChaosProxy:
    """Listens on its own port and forwards everything to `target_port`.

    `watch` is called with every message between llumlets, which waits for its answer. The fleet's
    own connections are not interfered with.
    """

    def __init__(self, target_port: int) -> None:
        self.watch: Watch = let_pass
        self.port = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and break every connection."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """Break the connections between llumlets; new ones can be made at once."""
        for writer in list(self._links):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_writer: asyncio.StreamWriter | None = None
        try:
            other_reader, other_writer = await asyncio.open_connection(
                "127.0.0.1", self._target_port
            )
            await self._join((reader, writer), (other_reader, other_writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for each in filter(None, (writer, other_writer)):
                self._links.discard(each)
                each.transport.abort()

    async def _join(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        hello = await near[0].readexactly(auth.HELLO_BYTES)
        far[1].write(hello)
        role, _ = auth.read_hello(hello)
        if role != "control":
            self._links.update((near[1], far[1]))
        pump = self._raw if role == "control" else self._framed
        tasks = [
            asyncio.create_task(pump(near[0], far[1], auth.PROOF_BYTES)),
            asyncio.create_task(pump(far[0], near[1], auth.CHALLENGE_BYTES)),
        ]
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _raw(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _opening_bytes: int
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()

    async def _framed(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opening_bytes: int
    ) -> None:
        writer.write(await reader.readexactly(opening_bytes))
        while True:
            length = await reader.readexactly(_LENGTH.size)
            header = await reader.readexactly(_LENGTH.unpack(length)[0])
            fields = dict(msgpack.unpackb(header, raw=False))
            act = await self.watch(Seen(str(fields.get("type")), fields))
            if act is Act.CUT:
                self.cut()
                return
            await self._pass_on(
                reader, writer, length + header, int(fields.get("payload_bytes", 0)), act
            )

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        head: bytes,
        payload_bytes: int,
        act: Act,
    ) -> None:
        if act is Act.PASS:
            writer.write(head)
        while payload_bytes:
            data = await reader.readexactly(min(_CHUNK_BYTES, payload_bytes))
            payload_bytes -= len(data)
            if act is Act.PASS:
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def chaos_in_front_of(target_port: int, port: int = 0) -> Any:
    """Run a proxy within the context."""
    proxy = ChaosProxy(target_port)
    await proxy.start(port)
    try:
        yield proxy
    finally:
        await proxy.close()
