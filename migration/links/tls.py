"""TLS on links: both ends prove that the fleet's own authority has signed their certificate.

Names are not compared: llumlets are reached by whatever address they announce, and every holder of
such a certificate is a member of the fleet, who proves in addition that it knows the secret.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass

from migration.config import MigrationConfig
from migration.errors import LinkError
from migration.links.sockets import Wire, connected

_RECORD_BYTES = 16 << 10
"""One TLS record: it is sent as a whole or not at all."""


@dataclass(frozen=True, slots=True)
class LinkTls:
    """The TLS settings of one member: as the one who listens, and as the one who connects."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def link_tls(config: MigrationConfig) -> LinkTls | None:
    """Return the TLS settings of links; None for links without TLS.

    Raises ValueError, which names the files, if they cannot be used.
    """
    if not config.tls_ca_file:
        return None
    made = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(config.tls_ca_file)
            load_own_certificate(context, config.tls_cert_file, config.tls_key_file)
        except OSError as error:  # ssl.SSLError is one
            files = f"{config.tls_ca_file}, {config.tls_cert_file}, {config.tls_key_file}"
            raise ValueError(f"cannot use the TLS files of links ({files}): {error}") from error
        made.append(context)
    return LinkTls(*made)


def load_own_certificate(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    """Load what proves who we are; an empty `key_file`: the key is in the other file.

    Raises OSError for what cannot be read, is not PEM, or is an encrypted key: OpenSSL would ask
    for its passphrase on the terminal.
    """
    context.load_cert_chain(cert_file, key_file or None, _no_password)


async def dial(host: str, port: int, timeout_s: float, tls: LinkTls | None) -> Wire:
    """Connect, with TLS if there are settings for it. Raises LinkError."""
    sock = await connected(host, port, timeout_s)
    if tls is None:
        return Wire(sock)
    return await secured(sock, tls.client, server_side=False, timeout_s=timeout_s)


async def secured(
    sock: socket.socket, context: ssl.SSLContext, *, server_side: bool, timeout_s: float
) -> Wire:
    """Do the handshake on a connected socket. Raises LinkError, and then the socket is closed."""
    sock.setblocking(False)
    wire: TlsWire | None = None
    try:
        wrapped = context.wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False)
        wire = TlsWire(wrapped)
        async with asyncio.timeout(timeout_s):
            await wire.handshake(timeout_s)
    except (OSError, TimeoutError) as error:
        (wire or sock).close()
        raise LinkError(f"no TLS handshake: {error or 'timed out'}") from error
    except BaseException:
        (wire or sock).close()
        raise
    return wire


class TlsWire(Wire):
    """A wire over TLS."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self._tls = sock

    async def handshake(self, timeout_s: float) -> None:
        """Do the handshake. Raises OSError and LinkError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader, timeout_s)
            except ssl.SSLWantWriteError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer, timeout_s)
            else:
                return

    def _recv(self, window: list[memoryview]) -> int:
        if self.closed:
            raise LinkError("closed")
        view = next(view for view in window if len(view))
        try:
            return self._tls.recv_into(view)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        except OSError as error:
            raise LinkError(str(error)) from error

    def _send(self, views: list[memoryview]) -> int:
        if self.closed:
            raise LinkError("closed")
        try:
            # What could not be sent is offered again as it was, which OpenSSL insists on.
            return self._tls.send(views[0][:_RECORD_BYTES])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        except OSError as error:
            raise LinkError(str(error)) from error


def _no_password() -> str:
    raise ssl.SSLError("the private key is encrypted; give one without a passphrase")
