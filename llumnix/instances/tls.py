"""TLS towards servers: one context per settings, since making one blocks for tens of ms."""

import functools
import ssl
from dataclasses import dataclass


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


@functools.lru_cache(maxsize=64)
def client_context(settings: TlsSettings = USUAL) -> ssl.SSLContext:
    """Return the context for these settings, the same one every time.

    Raises OSError (ssl.SSLError is one) if a file cannot be read or is not PEM.
    """
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert_file:
        # An encrypted key would otherwise be asked for on the terminal.
        context.load_cert_chain(
            settings.cert_file, settings.key_file or None, password=_no_password
        )
    return context


def _no_password() -> str:
    raise ssl.SSLError("the private key is encrypted; give one without a passphrase")
