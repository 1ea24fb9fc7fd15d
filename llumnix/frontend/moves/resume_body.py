"""The bodies that carry a request on: tagged and signed for the plugin, recomputed for others."""

import time
from collections.abc import Sequence

from llumnix.frontend.request.body import RESUME_FIELD, TAG_FIELD, with_transfer
from llumnix.frontend.request.request import ClientRequest
from llumnix.instances.instance import Instance
from migration.links.auth import sign_resume
from policies.types import MigrationId, RequestId


def replay_body(
    request: ClientRequest,
    request_id: RequestId,
    target: Instance,
    secret: bytes,
    migration_id: MigrationId | None,
    token_ids: Sequence[int] | None,
    *,
    early: bool = False,
) -> bytes:
    """Return the body for an instance: as it came, or with what the plugin there must know.

    `token_ids` are the output so far, None for a new request; `early` marks an early claim.
    """
    if not target.plugged or not request.resumable:
        return request.original(target)
    tag: dict[str, object] = {"request_id": request_id, "class_index": request.class_index}
    if request.owner:
        tag["owner"] = request.owner
    fields: dict[str, object] = {TAG_FIELD: tag}
    if migration_id is not None or token_ids:
        resume = {
            "request_id": request_id,
            "migration_id": migration_id,
            "output_token_ids": list(token_ids or ()),
            "issued_at": time.time(),
            "early": early,
        }
        fields[RESUME_FIELD] = sign_resume(secret, resume)
    return with_transfer(request.original(target), fields, request.own_params)


def graft_body(
    request: ClientRequest,
    prompt_ids: Sequence[int] | None,
    token_ids: Sequence[int] | None,
) -> bytes:
    """Return the body with which a server without the plugin computes the rest."""
    assert request.recipe is not None, "a server without the plugin was asked for"
    return request.recipe.body(request.body, prompt_ids or (), token_ids or (), request.own_params)
