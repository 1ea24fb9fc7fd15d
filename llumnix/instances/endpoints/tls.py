"""TLS towards servers: one context per settings, since making one blocks for tens of ms."""

import functools
import ssl
from dataclasses import dataclass
from typing import Self

from migration.links.tls import load_own_certificate

_SESSIONS_KEPT = 1024


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Whom to trust, and how to prove who we are; paths of PEM files, empty for none.

    Without `ca_file` the system's authorities are trusted, or those of SSL_CERT_FILE. `stamps` tell
    the files from others of the same names, by time and size.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True
    stamps: tuple[tuple[int, int], ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Return the paths of all files."""
        return tuple(each for each in (self.ca_file, self.cert_file, self.key_file) if each)


USUAL = TlsSettings()


class ClientContext(ssl.SSLContext):
    """The settings of connections to servers, and the sessions that spare later ones a handshake.

    A resumed session skips certificates and signatures, which are most of what a burst of new
    connections costs us and the server. It resumes only with the server that issued it.
    """

    settings: TlsSettings
    _sessions: dict[str | None, ssl.SSLSession]

    @classmethod
    def make(cls, settings: TlsSettings) -> Self:
        """Make a context. Raises OSError for a file that cannot be read or is not PEM."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.settings = settings
        context._sessions = {}
        if not settings.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif settings.ca_file:
            context.load_verify_locations(settings.ca_file)
        else:
            context.load_default_certs()
        if settings.cert_file:
            load_own_certificate(context, settings.cert_file, settings.key_file)
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """See ssl.SSLContext; event loops call it for every connection, without a session."""
        if session is None and isinstance(server_hostname, str):
            session = self._sessions.get(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def remember(self, connection: ssl.SSLObject) -> None:
        """Keep a connection's session for the next; a server issues it after the handshake."""
        session, host = connection.session, connection.server_hostname
        room = host in self._sessions or len(self._sessions) < _SESSIONS_KEPT
        if room and session is not None and session.has_ticket:
            self._sessions[host] = session


@functools.lru_cache(maxsize=64)
def client_context(settings: TlsSettings = USUAL) -> ClientContext:
    """Return the context for these settings, the same one every time. Raises like `make`."""
    return ClientContext.make(settings)
