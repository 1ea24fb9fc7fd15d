"""Frames on a wire: u32 header length (network order) | msgpack header | payload.

The header's `payload_bytes` is the length of the payload; without it there is none. Lengths are
checked before anything is allocated for them. Also here: the handshake that opens a wire.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Mapping

from migration.errors import LinkError, ProtocolError
from migration.links import auth
from migration.links.sockets import Wire
from migration.protocol import wire as codec

_LENGTH = struct.Struct("!I")
MAX_POSTED = 4096
"""Messages that may wait to be sent on one connection; a peer slower than that is cut off."""


def frame_head(plain: Mapping[str, object], payload_bytes: int = 0) -> bytes:
    """Encode what precedes a payload."""
    header = codec.pack({**plain, "payload_bytes": payload_bytes} if payload_bytes else plain)
    return _LENGTH.pack(len(header)) + header


async def read_head(
    wire: Wire, max_header_bytes: int, max_payload_bytes: int, timeout_s: float
) -> tuple[dict[str, object], int]:
    """Read the next header; return it and its payload's length in bytes.

    Waits indefinitely for a frame to begin, and `timeout_s` for each pause within it. Raises
    LinkError, and ProtocolError for a malformed or oversized frame.
    """
    (length,) = _LENGTH.unpack(await wire.read(_LENGTH.size, None))
    if not 0 < length <= max_header_bytes:
        raise ProtocolError("oversize_header", f"{length} bytes")
    plain = codec.unpack(await wire.read(length, timeout_s))
    payload_bytes = plain.pop("payload_bytes", 0)
    if type(payload_bytes) is not int or payload_bytes < 0:
        raise ProtocolError("malformed", "payload_bytes")
    if payload_bytes > max_payload_bytes:
        raise ProtocolError("oversize_payload", f"{payload_bytes} bytes")
    return plain, payload_bytes


async def greet(wire: Wire, secret: bytes, role: str, timeout_s: float) -> None:
    """Open a wire as the client. Raises LinkError or AuthError."""
    mine = auth.new_nonce()
    await wire.send([auth.hello(role, mine)], timeout_s)
    answer = await wire.read(auth.CHALLENGE_BYTES, timeout_s)
    theirs, given = answer[: auth.NONCE_BYTES], answer[auth.NONCE_BYTES :]
    auth.check_proof(auth.proof(secret, "server", role, mine, theirs), given)
    await wire.send([auth.proof(secret, "client", role, mine, theirs)], timeout_s)


async def admit(wire: Wire, secret: bytes, timeout_s: float) -> str:
    """Open a wire as the server; return its role. Raises LinkError or AuthError."""
    role, theirs = auth.read_hello(await wire.read(auth.HELLO_BYTES, timeout_s))
    mine = auth.new_nonce()
    await wire.send([mine, auth.proof(secret, "server", role, theirs, mine)], timeout_s)
    given = await wire.read(auth.PROOF_BYTES, timeout_s)
    auth.check_proof(auth.proof(secret, "client", role, theirs, mine), given)
    return role


class Outbox:
    """Sends posted messages in order on one wire; calls `failed` once when that fails."""

    def __init__(self, wire: Wire, timeout_s: float, failed: Callable[[], None]) -> None:
        self._wire = wire
        self._timeout_s = timeout_s
        self._failed = failed
        self._posted: deque[memoryview] = deque()
        self._task: asyncio.Task[None] | None = None

    def post(self, head: bytes) -> None:
        """Send a frame without payload: at once if the socket takes it, else in its turn."""
        if self._wire.closed:
            return
        try:
            rest = self._wire.send_now([memoryview(head)]) if self._task is None else [head]
        except LinkError:
            self._fail()
            return
        if len(self._posted) + len(rest) > MAX_POSTED:
            self._fail()
            return
        self._posted.extend(map(memoryview, rest))
        if self._posted and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._posted:
                await self._wire.send([self._posted.popleft()], self._timeout_s)
        except LinkError:
            self._fail()
        finally:
            self._task = None

    def _fail(self) -> None:
        self._posted.clear()
        if not self._wire.closed:
            self._wire.close()
            asyncio.get_running_loop().call_soon(self._failed)
