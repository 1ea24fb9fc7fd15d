"""The seam between a llumlet and its host engine: everything a llumlet asks of an engine.

An engine implements `EngineHooks` and calls back an `EngineListener`. Hooks are synchronous, never
block, and are called from the engine's own event loop, between steps or during one.
"""

import enum
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from migration.layout import Layout
from policies.types import InstanceLoad, MigrationId, RequestId, RequestView


class Gone(enum.Enum):
    """Why a request can no longer be migrated from this instance."""

    FINISHED = "finished"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"


@dataclass(frozen=True, slots=True)
class RequestState:
    """A request's whole state, besides its KV blocks, at the step boundary where it was detached.

    `prompt_token_ids` and `output_token_ids` are complete; KV exists for the first `kv_tokens` of
    prompt + outputs (normally all but the last output token). `params` is the engine's own
    description (sampling parameters, stop conditions, class), opaque to the protocol and made of
    msgpack-able values only.
    """

    request_id: RequestId
    class_index: int
    prompt_token_ids: tuple[int, ...]
    output_token_ids: tuple[int, ...]
    kv_tokens: int
    params: dict[str, object]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What an engine can do with a request besides stepping it.

    `reattach`: put a detached request back; without it the frontend must recover the request.
    `recompute`: compute the missing KV of the last tokens in the first step after `attach`.
    """

    reattach: bool = True
    recompute: bool = False


PAUSABLE = Abilities()


class EngineListener(Protocol):
    """What an engine tells its llumlet. Calls come from the engine's event loop."""

    def stepped(self) -> None:
        """A step ended: requests have grown, load has changed."""

    def detached(self, request_id: RequestId, state: RequestState) -> None:
        """A request being detached has left the batch at a step boundary; its blocks are kept."""

    def gone(self, request_id: RequestId, why: Gone) -> None:
        """A request finished, was cancelled or preempted; its blocks are already freed."""


class EngineHooks(Protocol):
    """What a llumlet asks of its engine."""

    def layout(self) -> Layout:
        """Return the layout of KV blocks here; compared before anything is moved."""

    def load(self) -> InstanceLoad:
        """Report the instance's load now."""

    def steps_done(self) -> int:
        """Count the steps so far; the count stands still while the engine does."""

    def requests(self) -> Sequence[RequestView]:
        """List the requests on this instance, queued ones included."""

    def kv_tokens(self, request_id: RequestId) -> int | None:
        """Count the tokens of a running request whose KV exists; None when it is not running."""

    def gather(self, request_id: RequestId, first_block: int, n_blocks: int) -> list[memoryview]:
        """Return the bytes of the request's blocks [first, first + n), in order, without copying.

        The views stay valid, and for full blocks constant, until the request is released or gone.
        """

    def reserve(self, migration_id: MigrationId, n_blocks: int) -> bool:
        """Grow a migration's reservation to `n_blocks` in total; False when memory is short."""

    def reserved_views(
        self, migration_id: MigrationId, first_block: int, n_blocks: int
    ) -> list[memoryview]:
        """Return writable views of reserved blocks, for the transport to receive into."""

    def free_reservation(self, migration_id: MigrationId) -> None:
        """Drop a reservation and free its blocks. Unknown ids are ignored."""

    def attach(self, migration_id: MigrationId, state: RequestState) -> bool:
        """Turn a reservation into a running request from the next step on.

        False when the engine cannot take it (say, the id is unknown); nothing is kept then.
        """

    def detach(self, request_id: RequestId) -> None:
        """Remove a running request from the batch at the next step boundary, then call `detached`.

        If it finishes, is cancelled or preempted first, `gone` is called instead.
        """

    def reattach(self, request_id: RequestId) -> None:
        """Put a detached request back into the batch: the migration was aborted."""

    def release(self, request_id: RequestId, redirect: str) -> None:
        """End a detached request's stream with `stop_reason` = `redirect`, and free its blocks."""

    def requeue(self, request_id: RequestId) -> bool:
        """End a *queued* request's stream with `stop_reason="migrate:requeue"`.

        For draining: the frontend dispatches it again. False when it is no longer queued.
        """

    def set_terminating(self, on: bool) -> None:
        """Refuse new requests while on (HTTP 503), except continuations of migrated ones."""

    # --- only for engines whose KV memory is in other processes or on other devices ---

    def abilities(self) -> Abilities:
        """Return what this engine can do."""

    def departing(self, request_id: RequestId, redirect: str) -> None:
        """Note that a migration of this request begins; `redirect` would end its stream here."""

    def departed(self, request_id: RequestId) -> None:
        """Note that the migration is over, however it ended; its staging can be freed."""

    def stage(
        self, request_id: RequestId, first_block: int, n_blocks: int
    ) -> Awaitable[bool] | None:
        """Bring blocks to where `gather` can view them; None: they are there. False: gone."""

    def unstage(self, request_id: RequestId, first_block: int, n_blocks: int) -> None:
        """Note that these blocks were sent: their staging memory can be used again."""

    def room(
        self, migration_id: MigrationId, first_block: int, n_blocks: int
    ) -> Awaitable[bool] | None:
        """Wait until these reserved blocks have memory to receive into; None: they have."""

    def arrived(self, migration_id: MigrationId, first_block: int, n_blocks: int) -> None:
        """Note that these reserved blocks have all arrived intact."""


class DirectMemory:
    """The last part of `EngineHooks`, for engines whose KV is read and written in place.

    An engine of which nobody asks whether it stands still need not count its steps either.
    """

    def steps_done(self) -> int:
        """See EngineHooks."""
        return 0

    def abilities(self) -> Abilities:
        """See EngineHooks."""
        return PAUSABLE

    def departing(self, request_id: RequestId, redirect: str) -> None:
        """See EngineHooks."""

    def departed(self, request_id: RequestId) -> None:
        """See EngineHooks."""

    def stage(self, request_id: RequestId, first_block: int, n_blocks: int) -> None:
        """See EngineHooks."""

    def unstage(self, request_id: RequestId, first_block: int, n_blocks: int) -> None:
        """See EngineHooks."""

    def room(self, migration_id: MigrationId, first_block: int, n_blocks: int) -> None:
        """See EngineHooks."""

    def arrived(self, migration_id: MigrationId, first_block: int, n_blocks: int) -> None:
        """See EngineHooks."""
