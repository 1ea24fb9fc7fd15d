"""The link between machines: TCP, the handshake of control links, and TLS if these have it."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from llumnix.scheduler_link.channel import Channel
from migration.errors import AuthError
from migration.links import auth

log = logging.getLogger(__name__)

ROLE: Final = "frontend"
HANDSHAKE_S: Final = 5.0
MAX_GUESTS: Final = 64
"""Connections that may be in their handshake at once."""


@dataclass(frozen=True, slots=True)
class TcpDial:
    """How a frontend reaches a scheduler on another machine."""

    host: str
    port: int
    secret: bytes = field(repr=False)
    tls: ssl.SSLContext | None = None

    async def __call__(self, make: Callable[[], Channel]) -> object:
        """Connect, and prove the secret. Raises OSError."""
        loop = asyncio.get_running_loop()
        greeted: asyncio.Future[None] = loop.create_future()
        transport, _ = await loop.create_connection(
            lambda: _Greeting(self.secret, make, greeted), self.host, self.port, ssl=self.tls
        )
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await greeted
        except BaseException as error:
            transport.abort()
            if isinstance(error, AuthError):
                raise ConnectionError(f"the scheduler has another secret: {error}") from error
            raise
        return transport


class TcpDesk:
    """Admits frontends that know the secret; `make` makes the channel of each."""

    def __init__(self, secret: bytes, make: Callable[[], Channel]) -> None:
        self.refused = 0
        self._secret = secret
        self._make = make
        self._guests: set[_Admission] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Listen; return the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._admission, host, port, ssl=tls)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def close(self) -> None:
        """Stop listening, and end what has not been admitted."""
        if self._server is not None:
            self._server.close()
        for guest in list(self._guests):
            guest.refuse("this end is closing")

    def _admission(self) -> "_Admission":
        return _Admission(self, self._secret, self._make)

    def came(self, guest: "_Admission") -> bool:
        """Note a connection; return whether there is room for its handshake."""
        self._guests.add(guest)
        return len(self._guests) <= MAX_GUESTS

    def left(self, guest: "_Admission", refused: str = "") -> None:
        """Note that a handshake is over, and why it failed."""
        self._guests.discard(guest)
        if refused:
            self.refused += 1
            log.warning("frontend_refused reason=%s", refused)


class _Handshake(asyncio.Protocol):
    """Gathers the other end's bytes, then hands the connection over to a channel."""

    def __init__(self, secret: bytes, make: Callable[[], Channel]) -> None:
        self._secret = secret
        self._make = make
        self._data = b""
        self._nonce = auth.new_nonce()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def _hand_over(self, rest: bytes) -> None:
        transport = self._transport
        assert transport is not None, "it is connected"
        channel = self._make()
        transport.set_protocol(channel)
        channel.connection_made(transport)
        if rest:
            channel.data_received(rest)


class _Greeting(_Handshake):
    """The frontend's end."""

    def __init__(
        self, secret: bytes, make: Callable[[], Channel], greeted: "asyncio.Future[None]"
    ) -> None:
        super().__init__(secret, make)
        self._greeted = greeted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        assert self._transport is not None, "just set"
        self._transport.write(auth.hello(ROLE, self._nonce))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._data += data
        if len(self._data) < auth.CHALLENGE_BYTES or self._greeted.done():
            return
        answer, rest = self._data[: auth.CHALLENGE_BYTES], self._data[auth.CHALLENGE_BYTES :]
        theirs, given = answer[: auth.NONCE_BYTES], answer[auth.NONCE_BYTES :]
        try:
            auth.check_proof(auth.proof(self._secret, "server", ROLE, self._nonce, theirs), given)
        except AuthError as error:
            self._greeted.set_exception(error)
            return
        assert self._transport is not None, "it is connected"
        self._transport.write(auth.proof(self._secret, "client", ROLE, self._nonce, theirs))
        self._greeted.set_result(None)
        self._hand_over(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if not self._greeted.done():
            self._greeted.set_exception(exc or ConnectionError("the scheduler closed it"))


class _Admission(_Handshake):
    """The scheduler's end."""

    def __init__(self, desk: TcpDesk, secret: bytes, make: Callable[[], Channel]) -> None:
        super().__init__(secret, make)
        self._desk = desk
        self._theirs = b""
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._late = asyncio.get_running_loop().call_later(
            HANDSHAKE_S, self.refuse, "no handshake in time"
        )
        if not self._desk.came(self):
            self.refuse("too many connections at once")

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._data += data
        try:
            self._read()
        except AuthError as error:
            self.refuse(str(error))

    def refuse(self, why: str) -> None:
        """End the connection."""
        self._over(why)
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._over("")

    def _read(self) -> None:
        assert self._transport is not None, "it is connected"
        if not self._theirs and len(self._data) >= auth.HELLO_BYTES:
            hello, self._data = self._data[: auth.HELLO_BYTES], self._data[auth.HELLO_BYTES :]
            role, self._theirs = auth.read_hello(hello)
            if role != ROLE:
                raise AuthError("bad_role")
            proof = auth.proof(self._secret, "server", ROLE, self._theirs, self._nonce)
            self._transport.write(self._nonce + proof)
        if self._theirs and len(self._data) >= auth.PROOF_BYTES:
            given, rest = self._data[: auth.PROOF_BYTES], self._data[auth.PROOF_BYTES :]
            expected = auth.proof(self._secret, "client", ROLE, self._theirs, self._nonce)
            auth.check_proof(expected, given)
            self._over("")
            self._hand_over(rest)

    def _over(self, refused: str) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
            self._desk.left(self, refused)
