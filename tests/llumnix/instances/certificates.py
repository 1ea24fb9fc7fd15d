"""Certificates for tests: an authority of our own, and what it signs."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority in a folder; `issue` makes NAME.pem and NAME.key there."""

    folder: Path
    signer: trustme.CA

    @property
    def ca(self) -> str:
        """Return the path of its certificate."""
        return str(self.folder / "ca.pem")

    @classmethod
    def make(cls, folder: Path) -> "Authority":
        signer = trustme.CA()
        signer.cert_pem.write_to_path(folder / "ca.pem")
        return cls(folder, signer)

    def issue(self, name: str) -> tuple[str, str]:
        """Issue a certificate for 127.0.0.1 and localhost; return the paths of it and its key."""
        issued = self.signer.issue_cert("127.0.0.1", "localhost", common_name=name)
        pem, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(pem)
        issued.private_key_pem.write_to_path(key)
        return str(pem), str(key)

    def server_context(self, *, asks_clients: bool = False) -> ssl.SSLContext:
        """Return the TLS settings of a server that it vouches for."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue("server"))
        if asks_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context
