"""Signatures of resumed requests, and proofs that open connections."""

import json
from typing import Any

import pytest

from migration.errors import AuthError
from migration.links import auth

SECRET = b"a secret"
NOW = 1_000_000.25
FIELDS: dict[str, Any] = {
    "request_id": "r",
    "migration_id": None,
    "output_token_ids": [1, 2, 3],
    "issued_at": NOW,
    "early": False,
}


def test_a_signed_field_is_accepted_after_a_trip_through_json() -> None:
    """The frontend sends it in a JSON body; order of keys does not matter."""
    signed = json.loads(json.dumps(auth.sign_resume(SECRET, FIELDS), sort_keys=True))

    assert auth.verify_resume(SECRET, signed, NOW) is None


def test_a_whole_issued_at_survives_writers_that_drop_its_fraction() -> None:
    """5.0 and 5 are one number in JSON."""
    signed = auth.sign_resume(SECRET, {**FIELDS, "issued_at": 5.0})

    assert auth.verify_resume(SECRET, {**signed, "issued_at": 5}, 5.0) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"request_id": "s"}, "wrong signature"),
        ({"migration_id": "m"}, "wrong signature"),
        ({"output_token_ids": [1, 2, 4]}, "wrong signature"),
        ({"output_token_ids": None}, "wrong signature"),
        ({"issued_at": NOW + 1}, "wrong signature"),
        ({"early": True}, "wrong signature"),
        ({"signature": "00"}, "wrong signature"),
        ({"signature": "é"}, "wrong signature"),
        ({"signature": None}, "not signed"),
        ({"more": 1}, "malformed"),
        ({"output_token_ids": [1, "2"]}, "malformed"),
        ({"output_token_ids": [1, True]}, "malformed"),
        ({"output_token_ids": {"a": 1}}, "malformed"),
        ({"request_id": 7}, "malformed"),
        ({"migration_id": 7}, "malformed"),
        ({"issued_at": "now"}, "malformed"),
        ({"early": 0}, "malformed"),
        ({"early": None}, "malformed"),
    ],
)
def test_any_change_is_noticed(change: dict[str, object], reason: str) -> None:
    """Nothing about a signed field can be altered."""
    signed = auth.sign_resume(SECRET, FIELDS)

    assert auth.verify_resume(SECRET, {**signed, **change}, NOW) == reason


def test_another_secret_signs_in_vain() -> None:
    """A signature is worth nothing to who has another secret."""
    assert auth.verify_resume(b"other", auth.sign_resume(SECRET, FIELDS), NOW) == "wrong signature"


def test_a_missing_field_is_malformed_and_an_empty_one_not_signed() -> None:
    """All fields must be there."""
    signed = auth.sign_resume(SECRET, {"request_id": "r", "issued_at": NOW})

    assert auth.verify_resume(SECRET, signed, NOW) == "malformed"
    assert auth.verify_resume(SECRET, {}, NOW) == "not signed"


@pytest.mark.parametrize(
    ("age_s", "reason"),
    [(0, None), (599, None), (-599, None), (601, "expired"), (-601, "expired")],
)
def test_signatures_expire(age_s: float, reason: str | None) -> None:
    """Ten minutes either way: clocks of two machines differ a little."""
    signed = auth.sign_resume(SECRET, FIELDS)

    assert auth.verify_resume(SECRET, signed, NOW + age_s) == reason


def test_not_a_number_does_not_live_for_ever() -> None:
    """An issued_at of NaN compares with nothing, and is expired."""
    signed = auth.sign_resume(SECRET, {**FIELDS, "issued_at": float("nan")})

    assert auth.verify_resume(SECRET, signed, NOW) == "expired"


def test_a_proof_opens_one_side_of_one_role_of_one_connection() -> None:
    """Proofs differ by side, role and nonces, so none can be replayed or reflected."""
    nonces = auth.new_nonce(), auth.new_nonce()
    proofs = {
        auth.proof(secret, side, role, *order)
        for secret in (SECRET, b"other")
        for side in ("client", "server")
        for role in auth.ROLES
        for order in (nonces, nonces[::-1])
    }

    assert len(proofs) == 2 * 2 * len(auth.ROLES) * 2


def test_a_hello_is_read_back_or_refused() -> None:
    """Magic and role are checked before anything is answered."""
    nonce = auth.new_nonce()
    assert auth.read_hello(auth.hello("bulk", nonce)) == ("bulk", nonce)
    with pytest.raises(AuthError, match="bad_magic"):
        auth.read_hello(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n.......")
    with pytest.raises(AuthError, match="bad_role"):
        auth.read_hello(auth.MAGIC + b"\x09" + nonce)
    with pytest.raises(AuthError, match="bad_secret"):
        auth.check_proof(b"x" * 32, b"y" * 32)
