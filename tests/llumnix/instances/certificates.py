"""Certificates for tests: an authority of our own, and what it signs."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority in a folder; `issue` makes NAME.pem and NAME.key there."""

    folder: Path

    @property
    def ca(self) -> str:
        """Return the path of its certificate."""
        return str(self.folder / "ca.pem")

    @classmethod
    def make(cls, folder: Path) -> "Authority":
        made = cls(folder)
        made._self_sign("ca", "an authority for tests")
        return made

    def issue(self, name: str) -> tuple[str, str]:
        """Issue a certificate for 127.0.0.1 and localhost; return the paths of it and its key."""
        pem, key, request = (str(self.folder / f"{name}.{kind}") for kind in ("pem", "key", "csr"))
        extra = self.folder / f"{name}.ext"
        extra.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        subject = ("-subj", f"/CN={name}")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        _openssl("req", "-new", *curve, "-keyout", key, "-out", request, *subject)
        signed = ("-CA", self.ca, "-CAkey", str(self.folder / "ca.key"), "-CAcreateserial")
        _openssl(
            *("x509", "-req", "-in", request, *signed, "-days", "2"),
            *("-extfile", str(extra), "-out", pem),
        )
        return pem, key

    def server_context(self, *, asks_clients: bool = False) -> ssl.SSLContext:
        """Return the TLS settings of a server that it vouches for."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue("server"))
        if asks_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context

    def _self_sign(self, name: str, subject: str) -> None:
        pem, key = (str(self.folder / f"{name}.{kind}") for kind in ("pem", "key"))
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        uses = ("-addext", "keyUsage=critical,keyCertSign,digitalSignature")
        _openssl(
            *("req", "-x509", *curve, "-keyout", key, "-out", pem, "-days", "2"),
            *("-subj", f"/CN={subject}", *uses),
        )
