"""The requests on this engine that came through a frontend, by both their names."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count

from vllm.v1.request import Request, RequestStatus

from migration.vllm.tags import Tag
from policies.types import RequestId, RequestPhase, RequestView

_CHILD = re.compile(r"\d+_")
"""The prefix vLLM gives the siblings that an `n` above 1 creates (v1/engine/parallel_sampling.py).

They have `n` = 1 and all parameters in common, the tag included.
"""


@dataclass(slots=True, eq=False)
class Tracked:
    """One request. `arriving`: it came from elsewhere and does not compute here yet."""

    request: Request
    request_id: RequestId
    class_index: int
    order: int
    movable: bool
    owner: str = ""
    arriving: bool = False

    @property
    def phase(self) -> RequestPhase:
        """Return how far it has come; may be read from any thread."""
        request = self.request
        if self.arriving or request.status is not RequestStatus.RUNNING:
            return RequestPhase.QUEUED
        computed = request.num_computed_tokens >= request.num_tokens - 1
        return RequestPhase.RUNNING if computed else RequestPhase.PREFILL

    def kv_tokens(self) -> int:
        """Count the tokens whose KV certainly exists: steps in flight are not counted."""
        request = self.request
        return max(0, min(request.num_computed_tokens, request.num_tokens - 1))

    def view(self) -> RequestView:
        """Present it to the llumlet."""
        return RequestView(
            request_id=self.request_id,
            class_index=self.class_index,
            phase=self.phase,
            context_tokens=self.kv_tokens(),
            arrived_order=self.order,
            movable=self.movable and not self.arriving and self.request.num_output_tokens > 0,
        )


class Register:
    """Written on the engine's thread only; each read is of one dictionary, so any thread may."""

    def __init__(self) -> None:
        self._numbers = count()
        self._by_request: dict[str, Tracked] = {}
        self._by_id: dict[RequestId, Tracked] = {}

    def add(self, request: Request, tag: Tag) -> Tracked:
        """Enter a request."""
        tracked = Tracked(
            request,
            tag.request_id,
            tag.class_index,
            next(self._numbers),
            is_movable(request),
            tag.owner,
        )
        self._by_request[request.request_id] = tracked
        self._by_id[tag.request_id] = tracked
        return tracked

    def remove(self, request: Request) -> Tracked | None:
        """Remove a request; None when it was never in."""
        tracked = self._by_request.pop(request.request_id, None)
        if tracked is not None and self._by_id.get(tracked.request_id) is tracked:
            del self._by_id[tracked.request_id]
        return tracked

    def get(self, request_id: RequestId) -> Tracked | None:
        """Find a request by the name the fleet knows it by."""
        return self._by_id.get(request_id)

    def of(self, request: Request) -> Tracked | None:
        """Find a request by vLLM's own name."""
        return self._by_request.get(request.request_id)

    def views(self) -> list[RequestView]:
        """Present all; those that share a name with another cannot be moved."""
        tracked = self.all()
        bearers = Counter(each.request_id for each in tracked)
        views = [each.view() for each in tracked]
        return [
            view if bearers[view.request_id] == 1 else replace(view, movable=False)
            for view in views
        ]

    def all(self) -> list[Tracked]:
        """List all."""
        return list(self._by_request.values())


def is_movable(request: Request) -> bool:
    """Whether a request can be resumed elsewhere exactly.

    Not those with images or other inputs beside tokens, adapters, or prompt logprobs (the second
    model runner does not compute them for a resumed request), nor any that vLLM starts without
    asking for their KV, nor siblings, nor sessions whose input is still coming.
    """
    params = request.sampling_params
    return (
        params is not None
        and params.n == 1
        and params.prompt_logprobs is None
        and not request.skip_reading_prefix_cache
        and not _CHILD.match(request.request_id)
        and not request.resumable
        and request.prompt_token_ids is not None
        and request.prompt_embeds is None
        and not request.mm_features
        and request.lora_request is None
    )
