"""TLS on the frontend's own ports: certificates that can be exchanged while serving."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llumnix.errors import ConfigError
from migration.links.tls import load_own_certificate

_ALPN: Final = ("http/1.1",)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A port's certificate, its key, and whoever must have signed clients' ("" asks for none)."""

    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert_file) != bool(self.key_file):
            raise ConfigError("a TLS certificate and its key are given together")
        if self.client_ca_file and not self.cert_file:
            raise ConfigError("clients' certificates can be asked for only on a port with TLS")

    def stamps(self) -> tuple[tuple[int, int], ...]:
        """Return what tells the files from others of the same names; () if one is not there."""
        names = (self.cert_file, self.key_file, self.client_ca_file)
        try:
            found = [Path(name).stat() for name in names if name]
        except OSError:
            return ()
        return tuple((each.st_mtime_ns, each.st_size) for each in found)


class ServerTls:
    """The TLS settings of a port. Raises ConfigError for files that cannot be used."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self.context = _context(files)
        self._stamps = files.stamps()

    @classmethod
    def of(cls, files: TlsFiles) -> "ServerTls | None":
        """Return the settings made of these files; None without a certificate."""
        return cls(files) if files.cert_file else None

    @property
    def has_changed(self) -> bool:
        """Whether the files have changed, and are all there."""
        return self._files.stamps() not in ((), self._stamps)

    def read(self) -> Callable[[], None]:
        """Read the files again; return what puts them in force for connections from then on.

        An authority that clients' certificates no longer need is forgotten only by a restart.
        Raises ConfigError, and then nothing has changed.
        """
        stamps = self._files.stamps()
        _context(self._files)  # if anything is wrong, it is found here

        def use() -> None:
            _load(self.context, self._files)
            self._stamps = stamps

        return use


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    try:
        _load(context, files)
    except OSError as error:  # ssl.SSLError is one
        names = ", ".join(each for each in (files.cert_file, files.key_file) if each)
        names += f", {files.client_ca_file}" if files.client_ca_file else ""
        reason = error.strerror if not isinstance(error, ssl.SSLError) else str(error)
        raise ConfigError(f"cannot use the TLS files {names}: {reason}") from error
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    load_own_certificate(context, files.cert_file, files.key_file)
    if files.client_ca_file:
        context.load_verify_locations(files.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
