"""Authentication: shared-secret proofs for connections, and signatures for resumed requests.

Both are HMAC-SHA256 over unambiguous bytes, compared in constant time. A connection's handshake is
mutual and bound to its role, so that a proof for one kind of connection opens no other.
"""

import hmac
import secrets
from collections.abc import Mapping
from hashlib import sha256

import msgpack

from migration.errors import AuthError

MAGIC = b"LLX1"
NONCE_BYTES = 32
PROOF_BYTES = 32
ROLES = ("control", "peer", "bulk", "frontend")
HELLO_BYTES = len(MAGIC) + 1 + NONCE_BYTES
CHALLENGE_BYTES = NONCE_BYTES + PROOF_BYTES

MAX_AGE_S = 600.0
RESUME_FIELDS = frozenset({"request_id", "migration_id", "output_token_ids", "issued_at", "early"})


def new_nonce() -> bytes:
    """Draw a fresh nonce."""
    return secrets.token_bytes(NONCE_BYTES)


def hello(role: str, nonce: bytes) -> bytes:
    """Encode the client's first bytes: magic, role, nonce."""
    return MAGIC + bytes([ROLES.index(role)]) + nonce


def read_hello(data: bytes) -> tuple[str, bytes]:
    """Read a client's first bytes; raises AuthError for malformed ones or an unknown role."""
    if not data.startswith(MAGIC):
        raise AuthError("bad_magic")
    number = data[len(MAGIC)]
    if number >= len(ROLES):
        raise AuthError("bad_role")
    return ROLES[number], data[len(MAGIC) + 1 :]


def proof(secret: bytes, side: str, role: str, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """Prove knowledge of the secret; `side` is `client` or `server`."""
    text = b"|".join((MAGIC, side.encode(), role.encode(), client_nonce, server_nonce))
    return hmac.digest(secret, text, sha256)


def check_proof(expected: bytes, given: bytes) -> None:
    """Raise AuthError unless a proof is the expected one."""
    if not hmac.compare_digest(expected, given):
        raise AuthError("bad_secret")


def sign_resume(secret: bytes, fields: Mapping[str, object]) -> dict[str, object]:
    """Sign a resume field: all of RESUME_FIELDS; `issued_at` is in Unix seconds.

    `early` says that the request still runs where its migration takes it from.
    """
    plain = {name: value for name, value in fields.items() if name != "signature"}
    return {**plain, "signature": _signature(secret, plain)}


def verify_resume(secret: bytes, fields: Mapping[str, object], now: float) -> str | None:
    """Return why a resume field must be refused, or None when it is valid.

    `now` is Unix seconds; a signature is valid for ten minutes, and for clocks that far apart.
    """
    signature = fields.get("signature")
    plain = {name: value for name, value in fields.items() if name != "signature"}
    if not isinstance(signature, str):
        return "not signed"
    if plain.keys() != RESUME_FIELDS or not _well_formed(plain):
        return "malformed"
    if not hmac.compare_digest(_signature(secret, plain).encode(), signature.encode()):
        return "wrong signature"
    issued_at = plain["issued_at"]
    assert isinstance(issued_at, int | float)
    if not abs(now - issued_at) <= MAX_AGE_S:
        return "expired"
    return None


def _signature(secret: bytes, plain: Mapping[str, object]) -> str:
    issued_at = plain.get("issued_at")
    if isinstance(issued_at, int):  # JSON writers may drop the fraction of a whole float
        plain = {**plain, "issued_at": float(issued_at)}
    text = msgpack.packb({name: plain[name] for name in sorted(plain)}, use_bin_type=True)
    return hmac.new(secret, b"llumnix-resume|" + text, sha256).hexdigest()


def _well_formed(plain: Mapping[str, object]) -> bool:
    ids, issued_at = plain["output_token_ids"], plain["issued_at"]
    if not isinstance(plain["request_id"], str):
        return False
    if not isinstance(plain["migration_id"], str | None) or not isinstance(plain["early"], bool):
        return False
    if ids is not None and not isinstance(ids, list | tuple):
        return False
    if ids is not None and not all(type(token) is int and 0 <= token < 1 << 32 for token in ids):
        return False
    return isinstance(issued_at, int | float) and not isinstance(issued_at, bool)
