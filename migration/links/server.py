"""The control port: one listener for the fleet's orders, other llumlets' messages, and blocks."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from migration.config import MigrationConfig
from migration.errors import CutOff, LinkError, ProtocolError
from migration.links import frames
from migration.links.sockets import Wire
from migration.links.tls import link_tls, secured

log = logging.getLogger(__name__)

Serve = Callable[[Wire], Awaitable[None]]
BACKLOG = 1024
BREAK_S = 0.05
"""Pause after a failed accept (say, no file descriptors left)."""


class Listener:
    """Accepts connections, admits those that know the secret, and hands them over by role.

    `refused` counts, by reason, connections and frames that were refused: each ends only its own
    connection.
    """

    def __init__(self, secret: bytes, config: MigrationConfig, roles: Mapping[str, Serve]) -> None:
        self.refused: Counter[str] = Counter()
        self._secret = secret
        self._config = config
        self._tls = link_tls(config)
        self._roles = roles
        self._sock: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._sessions: set[asyncio.Task[None]] = set()

    def start(self, host: str, port: int) -> int:
        """Listen, and return the port (chosen by the system if 0). Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
        sock.setblocking(False)
        self._sock = sock
        self._accepting = asyncio.get_running_loop().create_task(self._accept(sock))
        bound: int = sock.getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening and end every session."""
        tasks = [*self._sessions, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(sock)
            except OSError as error:
                log.warning("event=accept_failed error=%s", error)
                await asyncio.sleep(BREAK_S)
                continue
            if len(self._sessions) >= self._config.max_connections:
                self.refused["too_many_connections"] += 1
                accepted.close()
                continue
            task = loop.create_task(self._session(accepted))
            self._sessions.add(task)
            task.add_done_callback(self._sessions.discard)

    async def _session(self, accepted: socket.socket) -> None:
        role, wire = None, None
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                wire = await self._wire(accepted)
                role = await frames.admit(wire, self._secret, self._config.connect_timeout_s)
            if role not in self._roles:
                raise ProtocolError("wrong_role", role)
            await self._roles[role](wire)
        except ProtocolError as error:
            self.refused[error.code] += 1
            log.warning("event=refused role=%s reason=%s", role, error)
        except LinkError as error:
            self._note_end(role, str(error), cut_off=isinstance(error, CutOff))
        except TimeoutError:
            self._note_end(role, "timed out")
        except Exception:
            self.refused["internal_error"] += 1
            log.exception("event=session_failed role=%s", role)
        finally:
            (wire or accepted).close()

    async def _wire(self, accepted: socket.socket) -> Wire:
        if self._tls is None:
            return Wire(accepted)
        timeout_s = self._config.connect_timeout_s
        return await secured(accepted, self._tls.server, server_side=True, timeout_s=timeout_s)

    def _note_end(self, role: str | None, reason: str, *, cut_off: bool = False) -> None:
        """Count ends other than an orderly goodbye; there is no role before the handshake."""
        if role is None:
            self.refused["no_handshake"] += 1
        elif cut_off:
            self.refused["cut_off"] += 1
        log.debug("event=session_ended role=%s reason=%s", role, reason)
