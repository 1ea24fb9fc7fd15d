"""What is believed of `kv_transfer_params`, and what is refused."""

import time
from typing import Any

import pytest

from migration.links.auth import MAX_AGE_S, sign_resume
from migration.vllm import tags
from migration.vllm.tags import RESUME, TAG, Resume, Tag, Unacceptable, read_resume, read_tag
from policies.types import MigrationId, RequestId

SECRET = b"a secret"
NOW = time.time()
FIELDS = {
    "request_id": "r",
    "migration_id": "m",
    "output_token_ids": [1, 2],
    "issued_at": NOW,
    "early": True,
}
WHO = Tag(RequestId("r"), 0)


def signed(**changes: Any) -> dict[str, Any]:
    return {RESUME: sign_resume(SECRET, FIELDS | changes)}


@pytest.mark.parametrize(
    "tag",
    [
        None,
        "r",
        ["r"],
        {},
        {"request_id": ""},
        {"request_id": 7},
        {"request_id": "r" * 257},
        {"request_id": "r", "class_index": -1},
        {"request_id": "r", "class_index": 64},
        {"request_id": "r", "class_index": True},
        {"request_id": "r", "class_index": "0"},
    ],
)
def test_a_garbled_tag_is_none(tag: object) -> None:
    assert read_tag({TAG: tag}) is None


@pytest.mark.parametrize("params", [None, {}, "text", 7, ["llumnix"]])
def test_what_is_no_mapping_says_nothing(params: object) -> None:
    """VLLM lets a client put texts and numbers where our mapping belongs."""
    assert read_tag(params) is None
    assert read_resume(params, None, SECRET, NOW) is None


def test_a_right_tag() -> None:
    assert read_tag({TAG: {"request_id": "r"}}) == WHO
    assert read_tag({TAG: {"request_id": "r", "class_index": 3}}) == Tag(RequestId("r"), 3)


def test_a_right_resume_field() -> None:
    assert read_resume(signed(), WHO, SECRET, NOW) == Resume(MigrationId("m"), (1, 2), True)
    plain = signed(migration_id=None, output_token_ids=None, early=False)
    assert read_resume(plain, WHO, SECRET, NOW) == Resume(None, (), False)


@pytest.mark.parametrize(
    ("params", "tag", "why"),
    [
        ({RESUME: []}, WHO, "malformed"),
        ({RESUME: ""}, WHO, "malformed"),
        ({RESUME: 0}, WHO, "malformed"),
        ({RESUME: {}}, WHO, "not signed"),
        ({RESUME: FIELDS}, WHO, "not signed"),
        ({RESUME: {**signed()[RESUME], "output_token_ids": [1, 3]}}, WHO, "wrong signature"),
        ({RESUME: {**signed()[RESUME], "more": 1}}, WHO, "malformed"),
        (signed(issued_at=NOW - MAX_AGE_S - 1), WHO, "expired"),
        (signed(), None, "another request's"),
        (signed(), Tag(RequestId("q"), 0), "another request's"),
    ],
)
def test_a_wrong_resume_field_is_unacceptable_never_absent(
    params: dict[str, Any], tag: Tag | None, why: str
) -> None:
    """A V1 worker reads the token ids from there without asking again."""
    assert read_resume(params, tag, SECRET, NOW) == Unacceptable(why)


def test_tokens_are_put_where_the_worker_finds_them() -> None:
    params: dict[str, Any] = {}
    tags.put_tokens(params, [1, 2])
    assert params[RESUME]["output_token_ids"] == [1, 2]
    full = signed()
    tags.put_tokens(full, [1, 2, 3])
    assert full[RESUME]["output_token_ids"] == [1, 2, 3]
