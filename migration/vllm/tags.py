"""What the frontend says of a request in `kv_transfer_params`: the tag, and the resume field."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from migration.links.auth import verify_resume
from policies.types import MigrationId, RequestId

TAG = "llumnix_request"
RESUME = "llumnix"
REQUEUE = "migrate:requeue"
STEP_MARK = "llumnix_step"
"""Marks a replayed output that the API server must not merge with the next (`collector.py`)."""
MAX_CLASSES = 64
MAX_OWNER = 64


@dataclass(frozen=True, slots=True)
class Tag:
    """Names a request whose stream runs through a frontend: only such requests can be moved.

    `owner` says whose it is and what it asks, if its output is to be remembered for a client that
    reconnects.
    """

    request_id: RequestId
    class_index: int
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """A request that began elsewhere. `early`: it still runs there, and must wait here."""

    migration_id: MigrationId | None
    output_token_ids: tuple[int, ...]
    early: bool


@dataclass(frozen=True, slots=True)
class Unacceptable:
    """A resume field that must not be acted on."""

    reason: str


def read_tag(params: object) -> Tag | None:
    """Read a request's tag; None where there is none, or it is garbled."""
    tag = params.get(TAG) if isinstance(params, Mapping) else None
    if not isinstance(tag, Mapping):
        return None
    request_id, class_index = tag.get("request_id"), tag.get("class_index", 0)
    if not isinstance(request_id, str) or not 0 < len(request_id) <= 256:
        return None
    if type(class_index) is not int or not 0 <= class_index < MAX_CLASSES:
        return None
    owner = tag.get("owner", "")
    if not isinstance(owner, str) or len(owner) > MAX_OWNER:
        owner = ""
    return Tag(RequestId(request_id), class_index, owner)


def read_resume(
    params: object, tag: Tag | None, secret: bytes, now: float
) -> Resume | Unacceptable | None:
    """Read and verify a resume field; `now` is Unix seconds. None where there is none."""
    fields = params.get(RESUME) if isinstance(params, Mapping) else None
    if fields is None:
        return None
    if not isinstance(fields, Mapping):
        return Unacceptable("malformed")
    wrong = verify_resume(secret, fields, now)
    if wrong is not None:
        return Unacceptable(wrong)
    if tag is None or fields["request_id"] != tag.request_id:
        return Unacceptable("another request's")
    migration_id = fields["migration_id"]
    return Resume(
        None if migration_id is None else MigrationId(migration_id),
        tuple(fields["output_token_ids"] or ()),
        bool(fields["early"]),
    )


def put_tokens(params: Any, token_ids: list[int]) -> None:
    """Write a request's outputs where its V1 worker will find them (`runner_v1.py`).

    vLLM sends `sampling_params.extra_args` to the worker when it first schedules the request, and
    `params` is a part of that very object: changing it in time is enough.
    """
    params.setdefault(RESUME, {})["output_token_ids"] = token_ids
